"""What a training leaves behind for people: figures, samples and a card that is filled in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import SegmentationData
from ..data.resample import resize_image
from ..data.splits import names_of
from ..files.atomic import make_folder
from ..nn.sharing import in_eval_mode
from ..storage.card import read_license
from ..storage.model_folder import CARD
from ..storage.pretrained import StoredModel, write_card
from .card import TRAINING, dataset_name, filled_card, read_records
from .figures import draw_confusion, draw_curves
from .samples import Sample, draw_sample, pick
from .score_values import Scores

#: Splits as the Hub calls them.
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def write_results(
    folder: Path,
    model: Any,
    data: SegmentationData,
    *,
    scores: Scores,
    image_miou: Mapping[str, float | None],
    history: Sequence[Mapping[str, Any]] = (),
    size: tuple[int, int] | None = None,
) -> None:
    """Draw curves, confusion matrix and samples into ``training/``, and fill in the card.

    Call it when ``recipe.json``, ``data.json`` and ``metrics.json`` are there: the card is made
    from them.

    Args:
        folder: The model's folder.
        model: That model.
        data: What it was scored on.
        scores: What was found.
        image_miou: The mean IoU of each image by its name in ``data``, of
            :meth:`~segzoo.ScoreMeter.image_miou`.
        history: The lines of ``metrics.jsonl``.
        size: ``(height, width)`` to which pictures are resized for the model.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: A file cannot be written.
    """
    inside = make_folder(folder / TRAINING)
    if history:
        draw_curves(inside / "curves.png", history)
    draw_confusion(inside / "confusion.png", scores)
    samples = draw_samples(inside / "samples", model, data, scores, image_miou, size=size)
    write_filled_card(folder, model, scores, picture=samples.get("median", samples.get("best")))


def write_evaluation(
    folder: Path,
    model: Any,
    data: SegmentationData,
    *,
    scores: Scores,
    image_miou: Mapping[str, float | None],
    source: Path,
    dataset: str | None = None,
    size: tuple[int, int] | None = None,
) -> Path:
    """Fill in the card of a model with scores on data that it was not trained on.

    Args:
        folder: The model's folder.
        model: That model.
        data: What it was scored on.
        scores: What was found.
        image_miou: The mean IoU of each image by its name.
        source: Where the data lie.
        dataset: What to call the data; None for the name of their folder.
        size: ``(height, width)`` to which pictures were resized for the model.

    Returns:
        The card.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: A file cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        samples = draw_samples(Path(scratch), model, data, scores, image_miou, size=size)
        return write_filled_card(
            folder,
            model,
            scores,
            dataset=dataset or dataset_name({"source": str(source.resolve())}),
            # Pictures that lie in no split were kept for this: a test.
            split=_SPLITS.get(getattr(data, "split", None) or "test", "test"),
            picture=samples.get("median", samples.get("best")),
        )


def draw_samples(
    folder: Path,
    model: Any,
    data: SegmentationData,
    scores: Scores,
    image_miou: Mapping[str, float | None],
    *,
    size: tuple[int, int] | None = None,
) -> dict[str, Path]:
    """Draw the best, the median and the worst picture of those that were scored.

    Returns:
        Kind -> file.
    """
    chosen = pick(image_miou)
    make_folder(folder)
    places = {name: place for place, name in enumerate(names_of(data))}
    files = {}
    for kind, name in chosen.items():
        image, target = data[places[name]]
        sample = Sample(
            name, image, target, _predicted(model, image, target, size), image_miou[name]
        )
        files[kind] = draw_sample(
            folder / f"{kind}.png",
            sample,
            classes=scores.classes,
            class_names=scores.class_names,
            ignore_index=scores.ignore_index,
        )
    return files


def write_filled_card(
    folder: Path,
    model: StoredModel,
    scores: Scores,
    *,
    dataset: str | None = None,
    split: str = "validation",
    picture: Path | None = None,
) -> Path:
    """Write the card of a model in a folder, from its scores and from what ``training/`` holds.

    A licence that the card states already stays; a card that a person edited is kept as it is.
    """
    card = filled_card(
        scores,
        read_records(folder),
        dataset=dataset,
        split=split,
        picture=picture,
        license=read_license(folder / CARD),
    )
    return write_card(model, folder, card)


@torch.no_grad()
def _predicted(model: Any, image: Tensor, target: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The classes of a picture, at the size of its mask, as :func:`segzoo.evaluate` has them."""
    weight = next(model.parameters())
    small = image if size is None else resize_image(image, size)
    batch = model.normalization(small[None].to(weight.device)).to(weight.dtype)
    with in_eval_mode(model) as ready:
        logits = ready(batch)
    if logits.shape[-2:] != target.shape:
        logits = F.interpolate(logits.float(), size=target.shape, mode="bilinear")
    one = logits.shape[1] == 1
    mask: Tensor = (logits[:, 0] > model.threshold).long() if one else logits.max(dim=1).indices
    return mask[0].cpu()
