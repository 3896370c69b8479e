"""The model card: what the Hub and a stranger should know of a model.

A card that segzoo wrote ends with a mark and a checksum of its text. As long as they match, nobody
has edited it, and a later save may replace it; a card that a person wrote or changed is kept.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checks
from ..config import ModelConfig
from ..errors import ArgumentError
from .model_folder import PICTURE_NAMES, read_card

_MARK = "<!-- Written by segzoo ({}); replaced by the next card unless it is edited. -->"
_MARKED = re.compile(r"\n<!-- Written by segzoo \(([0-9a-f]{8})\); .* -->\s*\Z")
#: A picture on a card is looked at in a browser.
_MAX_PICTURE_BYTES = 10 * 2**20


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One result, for the ``model-index`` of the card.

    Args:
        type: The metric's id on the Hub (``"mean_iou"``, ``"accuracy"``).
        value: What was measured, in the metric's own unit.
        dataset: The data set's id on the Hub (``"user/name"``), or any name for it.
        name: What to call the metric on the page; None for its type.
        dataset_name: What to call the data set on the page; None for its id.
        split: Split of the data set, such as ``"test"``.
    """

    type: str
    value: float
    dataset: str
    name: str | None = None
    dataset_name: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        checks.text("type", self.type)
        checks.number("value", self.value, minimum=-1e30, maximum=1e30)
        checks.text("dataset", self.dataset)
        for field in ("name", "dataset_name", "split"):
            if getattr(self, field) is not None:
                checks.text(field, getattr(self, field))


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What only you can say of a model; the rest of the card is read from the model itself.

    Args:
        license: Identifier of the licence you choose (``"apache-2.0"``, ``"cc-by-4.0"``); where
            none is given, the card states none.
        datasets: Ids of the data sets that it was trained on.
        metrics: What was measured.
        tags: More tags for the Hub's search.
        description: Markdown, put under the title.
        picture: A PNG, JPEG or WebP file of at most 10 MiB to show on the card.
        details: Markdown, put at the end: how it was trained, say.
    """

    license: str | None = None
    datasets: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    tags: tuple[str, ...] = ()
    description: str = ""
    picture: Path | str | None = None
    details: str = ""

    def __post_init__(self) -> None:
        if self.license is not None:
            checks.text("license", self.license)
        for field in ("datasets", "tags"):
            object.__setattr__(
                self, field, checks.sequence(field, getattr(self, field), checks.text)
            )
        object.__setattr__(self, "metrics", checks.sequence("metrics", self.metrics, _metric))
        for field in ("description", "details"):
            if not isinstance(getattr(self, field), str):
                raise ArgumentError(
                    f"{field} must be text, got {checks.shown(getattr(self, field))}."
                )
            object.__setattr__(self, field, _writable(field, getattr(self, field)))
        if self.picture is not None:
            object.__setattr__(self, "picture", _picture(self.picture))


def render(
    card: ModelCard,
    config: ModelConfig,
    *,
    architecture: str,
    title: str,
    base_model: str | None,
    repo_id: str | None,
) -> str:
    """Markdown with the Hub's metadata; claims nothing but what it was told.

    Args:
        architecture: The registered name.
        title: What to call the model.
        base_model: The repository whose weights the encoder began with, or None.
        repo_id: Where the model is going to be, or None for a folder.
    """
    names = config.class_names or tuple(f"class {i}" for i in range(config.classes))
    picture = Path(card.picture) if card.picture is not None else None
    parts = [
        f"---\n{_metadata(card, architecture, title, base_model)}\n---\n# {title}",
        card.description.strip(),
        "![Example](" + PICTURE_NAMES[picture.suffix.lower()] + ")" if picture else "",
        f"{title}: a segmentation model of {_count(config.classes, 'class', 'classes')} for "
        f"images of {_count(config.in_channels, 'band', 'bands')} and any height and width, made "
        "with segzoo.",
        "```python\nimport segzoo\n\n"
        f"model = segzoo.from_pretrained({json.dumps(repo_id or 'path/to/this/folder')})\n"
        "mask = model.predict(image)  # uint8 image (C, H, W) or (N, C, H, W) -> classes\n```",
        _results(card.metrics),
        "## Classes\n\n" + "\n".join(f"- {i}: {plain(name)}" for i, name in enumerate(names)),
        card.details.strip(),
    ]
    return marked("\n\n".join(part for part in parts if part) + "\n")


def marked(text: str) -> str:
    """The text of a card with the mark that tells later whether anybody edited it."""
    return f"{text}\n{_MARK.format(_checksum(text))}\n"


def read_license(path: Path) -> str | None:
    """The licence that a card states, or None; also where there is no card that can be read."""
    from huggingface_hub import ModelCard as HubCard

    try:
        text = read_card(path)
        found = None if text is None else HubCard(text).data.get("license")
    except Exception:  # what a person wrote into it need not be YAML
        return None
    return found if isinstance(found, str) and found else None


def is_unedited(text: str) -> bool:
    """Whether a card is one that segzoo wrote and nobody has edited since."""
    text = text.replace("\r\n", "\n")
    found = _MARKED.search(text)
    return found is not None and found[1] == _checksum(text[: found.start()])


def _metadata(card: ModelCard, architecture: str, title: str, base_model: str | None) -> str:
    """The YAML block, written by the Hub's own library, which knows how to quote."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=metric.dataset,
            dataset_name=metric.dataset_name or metric.dataset,
            dataset_split=metric.split,
            metric_type=metric.type,
            metric_name=metric.name or metric.type,
            metric_value=metric.value,
        )
        for metric in card.metrics
    ]
    extra: Mapping[str, Any] = {}
    if card.picture is not None:
        name = PICTURE_NAMES[Path(card.picture).suffix.lower()]
        extra = {"widget": [{"src": name, "example_title": "Example"}]}
    data = ModelCardData(
        library_name="segzoo",
        pipeline_tag="image-segmentation",
        license=card.license,
        base_model=base_model,
        datasets=list(card.datasets) or None,
        tags=["segzoo", "image-segmentation", "semantic-segmentation", architecture, *card.tags],
        metrics=list(dict.fromkeys(metric.type for metric in card.metrics)) or None,
        model_name=title if results else None,
        eval_results=results or None,
        **extra,
    )
    return str(data.to_yaml(line_break="\n")).strip()


def _results(metrics: tuple[Metric, ...]) -> str:
    if not metrics:
        return ""
    rows = [
        f"| {plain(m.dataset_name or m.dataset)} | {plain(m.split or '')} "
        f"| {plain(m.name or m.type)} | {m.value:g} |"
        for m in metrics
    ]
    return "\n".join(
        ["## Results", "", "| Data | Split | Metric | Value |", "|---|---|---|---|", *rows]
    )


def plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, with escapes for what is none to be seen."""
    return re.sub(r"([\\`*_\[\]<>|&#!])", r"\\\1", checks.printable(text))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _metric(name: str, value: Any) -> Metric:
    if not isinstance(value, Metric):
        raise ArgumentError(f"{name} must be a segzoo.Metric, got {checks.shown(value)}.")
    return value


def _writable(name: str, text: str) -> str:
    """Text that a file can hold, with the line ends that a card has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name} holds half of a character ({error}), which no file can. Write it anew."
        ) from error
    return text.replace("\r\n", "\n")


def _picture(picture: Any) -> Path:
    if not isinstance(picture, (str, os.PathLike)):
        raise ArgumentError(f"picture must be the path of a file, got {checks.shown(picture)}.")
    path = Path(picture)
    if path.suffix.lower() not in PICTURE_NAMES:
        raise ArgumentError(
            f"picture must be a {', '.join(PICTURE_NAMES)} file, got {str(path)!r}."
        )
    if not path.is_file() or path.stat().st_size > _MAX_PICTURE_BYTES:
        raise ArgumentError(
            f"picture must be a file of at most {_MAX_PICTURE_BYTES} bytes, got {str(path)!r}."
        )
    return path
