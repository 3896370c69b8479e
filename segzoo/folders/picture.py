"""One picture in three steps: read, computed, written. Only the middle one needs the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.drawing import write_mask, write_overlay
from ..data.pictures import to_bands
from ..data.pixel_values import choose_bands, read_pixels
from ..data.raster import Raster, open_raster
from ..devices import lacks_memory
from ..errors import InputError, SegzooError
from ..files.atomic import make_folder
from ..prediction.masks import VOID, Segmenter
from .jobs import Job, Outputs, Prediction, check_paths
from .task import Reading, Task
from .tiled_jobs import predict_job


@dataclass(frozen=True)
class Read:
    """A picture that was read.

    Args:
        job: What it is read for.
        outputs: What is to be written.
        picture: Its bands for a person; None for one that is cut into tiles, which is read later.
        pixels: Its bands for the model, likewise.
    """

    job: Job
    outputs: Outputs
    picture: Tensor | None = None
    pixels: Tensor | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What pictures have in common that can be one batch."""
        assert self.pixels is not None
        return (*self.pixels.shape, self.pixels.dtype)


def read(job: Job, task: Task, in_channels: int) -> Read:
    """Look at a picture, and read it unless it is to be cut into tiles.

    Raises:
        SegzooError: It cannot be read, or its results must not be written.
    """
    ending = task.ending(job.image)
    outputs = job.outputs(ending, overlays=task.overlays)
    make_folder(outputs.mask.parent)
    check_paths(outputs.paths, [job.image], overwrite=task.tiles.overwrite)
    if ending is not None:
        return Read(job, outputs)
    with open_raster(job.image, max_pixels=task.reading.max_pixels) as raster:
        picture, pixels = read_for_model(raster, in_channels, task.reading)
    return Read(job, outputs, picture, pixels)


def read_for_model(raster: Raster, wanted: int, reading: Reading) -> tuple[Tensor, Tensor]:
    """The pixels of a picture for a person, and for a model of ``wanted`` bands.

    Raises:
        InputError: They cannot be read, or nothing tells which bands the model gets.
    """
    info = raster.info
    if reading.bands is None and wanted == 1 and info.bands - info.alpha == 3:
        colours = read_pixels(raster, (1, 2, 3), reading.value_range)
        return colours, to_bands(colours, 1)
    numbers = choose_bands(info, reading.bands, wanted)
    pixels = read_pixels(raster, numbers, reading.value_range)
    return pixels, pixels


def computed(batch: list[Read], model: Segmenter, least: float | None = None) -> list[Tensor]:
    """The masks of pictures of one kind, ``(H, W)`` each, on the CPU.

    Args:
        batch: The pictures.
        model: What gives the masks.
        least: Pixels of a smaller probability become void; None for none.
    """
    images = [item.pixels for item in batch if item.pixels is not None]
    # One alone goes as one alone: that is what a mask is compared with.
    given = images[0] if len(images) == 1 else torch.stack(images)
    found = model.predict(given) if least is None else model.predict(given, min_confidence=least)
    found = found[None] if len(images) == 1 else found
    # An eighth of the memory, while masks wait to be written.
    small = torch.uint8 if model.classes <= 256 else torch.int32
    return list(found.to(small).cpu())


def written(item: Read, mask: Tensor, model: Segmenter, *, void: bool = False) -> Prediction:
    """Write the files of a picture, the mask last: where it is, nothing is missing.

    Args:
        item: The picture.
        mask: Its mask.
        model: What gave it.
        void: Whether pixels may be void.

    Raises:
        StorageError: One cannot be written; then none of them stays.
    """
    classes = max(model.classes, 2)  # one logit tells two classes apart
    values, outputs = mask.numpy(), item.outputs
    # Not by torch, which would start threads beside the model's for each thread that writes.
    counts = np.bincount(values.ravel(), minlength=VOID + 1 if void else classes)
    unknown = int(counts[VOID]) if void else 0
    if outputs.overlay is not None and item.picture is not None:
        seen = torch.from_numpy(np.where(values == VOID, 0, values)) if unknown else mask
        write_overlay(outputs.overlay, item.picture, seen)
    try:
        # The palette needs a place for void too.
        write_mask(outputs.mask, mask, classes=VOID + 1 if void else classes)
    except Exception:
        if outputs.overlay is not None:  # of no mask, it would be in the way of the next run
            outputs.overlay.unlink(missing_ok=True)
        raise
    found = enumerate(counts.tolist())
    shares = {index: pixels / mask.numel() for index, pixels in found if pixels}
    named_shares = named(shares, model, void=void)
    return Prediction(item.job.image, outputs.mask, outputs.overlay, shares=named_shares)


def in_tiles(item: Read, model: Segmenter, task: Task) -> Prediction:
    """Segment a picture in tiles, from its file into its result.

    Raises:
        SegzooError: It cannot be read, cut or written.
    """
    found = predict_job(model, item.job.image, item.outputs.mask, task.tiles, **vars(task.reading))
    return Prediction(
        item.job.image,
        item.outputs.mask,
        None,
        shares=named(found.shares, model, void=task.tiles.min_confidence is not None),
        tiling=found.tiling.as_json(),
        whole=found.path is not None,
    )


def named(shares: dict[int, float], model: Segmenter, *, void: bool = False) -> dict[str, float]:
    """The same by the names of classes; ``void`` says that :data:`VOID` is none of them."""
    names = model.class_names if model.classes > 1 else None

    def name(index: int) -> str:
        if void and index == VOID:
            return "void"
        return names[index] if names else f"class {index}"

    return {name(index): share for index, share in shares.items()}


def told(job: Job, error: Exception, *, tile: int | None = None) -> SegzooError:
    """A failure of one picture, in our words.

    Args:
        job: The picture.
        error: What failed.
        tile: The largest side of its tiles where it is cut into some; else None.
    """
    if isinstance(error, SegzooError):
        # Of the results without an ending: the name alone may be a word, or a part of one.
        known = (str(job.image), f"{job.target}.", f"{job.target}_")
        named_already = any(name in str(error) for name in known)
        # Some are made of other things than a text.
        kind = SegzooError if "__init__" in vars(type(error)) else type(error)
        return error if named_already else kind(f"{job.image}: {error}")
    if lacks_memory(error) and tile is not None:
        return InputError(
            f"{job.image}: there is not enough memory for it in tiles of {tile} pixels a side. "
            f"Make them smaller: --tile {max(tile // 2, 32)}."
        )
    if lacks_memory(error):
        return InputError(
            f"{job.image}: there is not enough memory for it in one piece. Cut it into tiles: "
            "--tiling auto."
        )
    return SegzooError(f"{job.image}: {type(error).__name__}: {error}")
