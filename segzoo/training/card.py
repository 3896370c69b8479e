"""A model's card, filled in from what is known of its training and its scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.layout import IMAGE_FOLDERS, MASK_FOLDERS, SPLITS
from ..errors import ArgumentError
from ..files import strict_json
from ..files.atomic import read_text
from ..files.hub import Access, find_files, hub_errors, optional, pinned
from ..files.local import is_there, path_of
from ..storage.card import Metric, ModelCard, plain
from ..storage.pretrained import largest_weights
from .score_values import HEADERS, Scores, class_rows, summary

#: The folder beside a model with what is known of its training.
TRAINING = "training"
#: Bytes of one of its files: 100,000 epochs of 100 classes.
_LARGEST = 2**28
#: Bytes of one that is fetched: a stranger's.
_LARGEST_FETCHED = 2**25
#: Those that tell how a model was trained; without the first the others tell nothing.
_NEEDED = ("recipe.json", "metrics.jsonl", "metrics.json")
#: No number of a curve is above it.
_GREATEST = 1e300
#: Scores on the card: their ids on the Hub, and their names.
_METRICS = (
    ("mean_iou", "Mean IoU", "miou"),
    ("accuracy", "Pixel accuracy", "pixel_accuracy"),
    ("dice", "Mean Dice", "mean_dice"),
    ("boundary_f1", "Boundary F1", "boundary_f1"),
    ("expected_calibration_error", "Expected calibration error", "ece"),
)
_FIGURES = (("curves.png", "Loss and scores by epoch"), ("confusion.png", "Confusion matrix"))


@dataclass(frozen=True)
class Records:
    """What ``training/`` holds, as far as it can be read.

    Attributes:
        recipe: Of ``recipe.json``; empty before an epoch is over: a model that is there already
            is of another training.
        data: Of ``data.json``; the same.
        history: The lines of ``metrics.jsonl``.
        best: Of ``metrics.json``: the best epoch with its scores on ``val`` and ``test``, and the
            ``versions`` that trained the model.
        figures: Name of a picture -> its file.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    best: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def scores(self) -> Scores | None:
        """The scores of the best epoch on the validation data."""
        return _scores(self.best.get("val"))

    @property
    def test(self) -> Scores | None:
        """The scores of the best epoch on the test data, where there are some."""
        return _scores(self.best.get("test"))


def read_records(folder: Path) -> Records:
    """Read what is known of a model's training; what is missing or damaged is left out."""
    inside = folder / TRAINING
    lines = _read(inside / "metrics.jsonl").splitlines()
    history = [row for row in map(_object, lines) if _is_row(row)]
    best = _object(_read(inside / "metrics.json"))
    figures = {
        path.relative_to(inside).as_posix(): path
        for path in (*sorted(inside.glob("*.png")), *sorted(inside.glob("samples/*.png")))
    }
    begun = history or best
    return Records(
        recipe=_object(_read(inside / "recipe.json")) if begun else {},
        data=_object(_read(inside / "data.json")) if begun else {},
        history=history,
        best=best,
        figures=figures,
    )


def find_records(model: str | os.PathLike[str], access: Access) -> tuple[Path, Access]:
    """The folder with what is known of a model's training: here, or in the Hub's cache.

    Args:
        model: A folder, or ``user/name``, of which model and records are downloaded.
        access: How a repository is reached.

    Returns:
        The folder for :func:`read_records`, and the access to the commit that it is of, so that the
        model is loaded from the same one.

    Raises:
        HubError: The repository or the network could not be reached.
        StorageError: There is no model.
    """
    files = find_files(model, access, largest=largest_weights)
    folder = files.config.parent
    if is_there(path_of("the model", model)):
        return folder, access
    at, repo_id = pinned(files.config, access), str(model)
    with hub_errors(f"fetch what is known of the training of {repo_id!r}"):
        first, *others = (f"{TRAINING}/{name}" for name in _NEEDED)
        if optional(repo_id, first, at, largest=_LARGEST_FETCHED) is not None:
            for name in others:
                optional(repo_id, name, at, largest=_LARGEST_FETCHED)
    return folder, at


def trained_size(folder: Path) -> tuple[int, int] | None:
    """The size to which pictures were resized in a model's training; None for none."""
    match read_records(folder).recipe.get("size"):
        case [int(height), int(width)]:
            return height, width
    return None


def filled_card(
    scores: Scores,
    records: Records,
    *,
    dataset: str | None = None,
    split: str = "validation",
    picture: Path | None = None,
    license: str | None = None,
) -> ModelCard:
    """A card with the scores, class by class, and how the model came to be.

    Args:
        scores: Found on ``split`` of the data.
        records: Of the model's training.
        dataset: What to call the data; None for the name of their folder.
        split: What was scored.
        picture: To show on the card.
        license: Identifier of the licence, or None.
    """
    name = dataset or dataset_name(records.data)
    found = [(scores, name, split)]
    for known, known_split in ((records.test, "test"), (records.scores, "validation")):
        if known is not None and known.counts != scores.counts:
            found.append((known, dataset_name(records.data), known_split))
    metrics = [metric for each in found for metric in _metrics(*each)]
    tables = [_class_table(known, where) for known, _, where in found]
    parts = [*tables, _figures(records), _training(records)]
    return ModelCard(
        license=license,
        metrics=tuple(metrics),
        picture=picture,
        details="\n\n".join(part for part in parts if part),
    )


def dataset_name(data: Mapping[str, Any]) -> str:
    """What data is called, by the folder that they were in.

    >>> dataset_name({"source": {"images": "/data/streets/images/train", "masks": None}})
    'streets'
    """
    source = data.get("source")
    if isinstance(source, Mapping):
        source = source.get("images")
    parts = PurePosixPath(str(source or "").replace("\\", "/")).parts
    passed = {*IMAGE_FOLDERS, *MASK_FOLDERS, *SPLITS, "/", ".", ".."}
    named = [part for part in parts if part.lower() not in passed]
    name = PurePosixPath(named[-1]).stem if named else ""
    return name if name.isprintable() and 0 < len(name) <= 100 else "the data it was trained on"


def _metrics(scores: Scores, dataset: str, split: str) -> list[Metric]:
    values = [(kind, name, getattr(scores, field)) for kind, name, field in _METRICS]
    return [
        Metric(type=kind, name=name, value=round(value, 5), dataset=dataset, split=split)
        for kind, name, value in values
        if value is not None
    ]


def _class_table(scores: Scores, split: str) -> str:
    rows = [list(map(plain, row)) for row in class_rows(scores)]
    text = f"## Scores on the {split} images\n\n{_table(HEADERS, rows)}\n\n{summary(scores)}."
    if scores.intervals is not None:
        text += " In brackets: 95 % intervals, images drawn again 1000 times."
    text += (
        " IoU and Dice are those of all pixels together, void left out; a dash stands where a "
        "class is not there."
    )
    if scores.temperature is not None:
        text += (
            "\n\nProbabilities are as sure as they are right when logits are divided by the "
            f"temperature {scores.temperature:.3f} before the softmax, or the sigmoid of one class."
        )
    return text


def _figures(records: Records) -> str:
    return "\n\n".join(
        f"![{text}]({TRAINING}/{name})" for name, text in _FIGURES if name in records.figures
    )


def _training(records: Records) -> str:
    """Data, recipe and versions; empty for a model of which nothing is known."""
    if not records.recipe:
        return ""
    counts = records.data.get("counts")
    facts: dict[str, Any] = {}
    if isinstance(counts, Mapping):
        facts["images"] = ", ".join(f"{count} {split}" for split, count in counts.items())
    if records.data.get("fingerprint"):
        facts["fingerprint of the data"] = records.data["fingerprint"]
    facts |= {
        key: value
        for key, value in records.recipe.items()
        if key == "seed" or value not in (None, False, 0, "", [], {})
    }
    if records.best.get("epoch") is not None:
        facts["best epoch"] = f"{records.best['epoch']} of {len(records.history)}"
    versions = records.best.get("versions")
    if isinstance(versions, Mapping):
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    rows = [(plain(key.replace("_", " ")), plain(_text(value))) for key, value in facts.items()]
    return f"## Training\n\n{_table(('', ''), rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)] if len(head) > 2 else ["---"] * 2, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(_text, value)) if len(value) == 2 else ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scores(value: Any) -> Scores | None:
    try:
        return Scores.from_json(value) if isinstance(value, Mapping) else None
    except ArgumentError:
        return None


def _read(path: Path) -> str:
    try:
        return read_text(path, largest=_LARGEST)
    except (OSError, UnicodeDecodeError):
        return ""


def _object(text: str) -> dict[str, Any]:
    try:
        return strict_json.parse(text)
    except ValueError:
        return {}


def _is_row(row: Mapping[str, Any]) -> bool:
    """Whether a line has what the curves are drawn of."""
    found = row.get("val")
    if not isinstance(found, Mapping):
        return False
    needed = [row.get(key) for key in ("epoch", "loss", "lr")]
    scores = [found.get(key, "") for key in ("miou", "pixel_accuracy")]
    return all(map(_is_number, needed)) and all(v is None or _is_number(v) for v in scores)


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be drawn: JSON has larger ones than a float."""
    plain_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain_number and abs(value) <= _GREATEST
