"""A dozen pictures with their masks on one sheet: what no check can see, a person does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..checks import printable
from ..errors import ArgumentError, InputError, StorageError
from ..files.atomic import check_file, replacing
from ..files.local import is_there, path_of
from .dataset import PairDataset
from .drawing import class_colors
from .resample import resize_image, resize_mask
from .splits import DataSplits, names_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELL = 320
_GAP = 12
_LINE = 22
_COLUMNS = 4
_VOID = (128, 128, 128)
_INK, _PAPER = (32, 32, 32), (255, 255, 255)
#: More do not fit, and nobody tells so many colours apart.
_LEGEND = 40


def check_sheet(data: DataSplits, path: str | os.PathLike[str]) -> None:
    """Raise where a sheet could not be written, or would replace one of the data's own files.

    Raises:
        ArgumentError: It would.
        StorageError: It could not.
    """
    path = path_of("path", path)
    check_file(path)
    if not is_there(path):
        return
    parts = [part for part in (data.train, data.val, data.test) if isinstance(part, PairDataset)]
    ours = os.path.realpath(path)
    for pair in (pair for part in parts for pair in part.pairs):
        if ours in (os.path.realpath(pair.image), os.path.realpath(pair.mask)):
            raise ArgumentError(f"{path} is one of the pictures or masks; give another name.")


def draw_samples(
    data: DataSplits, path: str | os.PathLike[str], *, count: int = 12, opacity: float = 0.55
) -> Path:
    """Draw pictures of train and val with their masks laid over them, and the classes' colours.

    Void, and what is no class, is hatched; class 0 is left as it is unless the data have colours of
    their own. The pictures are spread evenly over the splits; one that cannot be read is left out.

    Args:
        data: What :func:`segzoo.open_data` gives.
        path: The PNG; its folder must exist.
        count: How many pictures.
        opacity: Of the classes, 0 to 1.

    Raises:
        ArgumentError: The file is one of the data's own.
        StorageError: The file cannot be written.
    """
    check_sheet(data, path)
    colors = np.array(data.palette or class_colors(data.classes), dtype=np.uint8)
    opacities = np.full(data.classes, opacity, dtype=np.float32)
    if data.palette is None:
        opacities[0] = 0
    cells = [
        (f"{split}: {name}", _cell(image, mask, colors, opacities, data.ignore_index))
        for split, name, image, mask in _samples(data, count)
    ]
    legend = [
        (name, tuple(colors[index].tolist()))
        for index, name in enumerate(data.class_names or map(str, range(data.classes)))
    ][:_LEGEND]
    if data.palette is None:
        legend[0] = (f"{legend[0][0]} (not tinted)", legend[0][1])
    sheet = _sheet(cells, [*legend, *([] if data.ignore_index is None else [("void", None)])])
    target = Path(path)
    try:
        with replacing(target) as temporary:
            sheet.save(temporary, format="PNG")
    except OSError as error:
        raise StorageError(f"{target} could not be written: {error}.") from error
    return target


def _samples(data: DataSplits, count: int) -> list[tuple[str, str, Tensor, Tensor]]:
    """Three quarters of train, a quarter of val, spread evenly."""
    found = []
    for split, part, share in (("train", data.train, 0.75), ("val", data.val, 0.25)):
        wanted = min(max(round(count * share), 1), len(part))
        names = names_of(part)
        for step in range(wanted):
            place = (2 * step + 1) * len(part) // (2 * wanted)
            try:
                found.append((split, names[place], *part[place]))
            except InputError:
                continue
    return found


def _cell(
    image: Tensor,
    mask: Tensor,
    colors: NDArray[np.uint8],
    opacities: NDArray[np.float32],
    ignore_index: int | None,
) -> Image.Image:
    height, width = mask.shape
    scale = min(_CELL / max(height, width), 4.0)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    labels = resize_mask(mask, size).numpy()
    pixels = _visible(resize_image(image, size))
    # Values that are no class are told by the checks, and have no colour.
    void = (labels == ignore_index) | (labels < 0) | (labels >= len(colors))
    tint = colors[np.where(void, 0, labels)].astype(np.float32)
    rows, columns = np.indices(labels.shape)
    tint[void] = np.where((rows + columns)[void, None] % 8 < 4, 90, 190)
    weight = np.where(void, opacities.max(), opacities[np.where(void, 0, labels)])[..., None]
    mixed = pixels + weight * (tint - pixels)
    edge = np.zeros(labels.shape, dtype=bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge &= weight[..., 0] > 0
    mixed[edge] = tint[edge]
    return Image.fromarray(mixed.round().astype(np.uint8))


def _visible(image: Tensor) -> NDArray[np.float32]:
    """Any picture as ``(H, W, 3)`` of 0 to 255: up to three bands, stretched where not 8 bit."""
    bands = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    values = bands.permute(1, 2, 0).to(torch.float32)
    if image.dtype != torch.uint8:
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / max(high - low, 1e-12))
    return np.ascontiguousarray(values.numpy())


def _sheet(
    cells: list[tuple[str, Image.Image]], legend: list[tuple[str, tuple[int, ...] | None]]
) -> Image.Image:
    font = ImageFont.load_default(size=14)
    columns = min(_COLUMNS, max(len(cells), 1))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(image.height for _, image in row) + _LINE + _GAP for row in rows]
    width = columns * (_CELL + _GAP) + _GAP
    per_line = max(width // 200, 1)
    legend_height = -(-len(legend) // per_line) * _LINE + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + legend_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (title, image) in enumerate(row):
            left = _GAP + column * (_CELL + _GAP)
            sheet.paste(image, (left, top))
            draw.text((left, top + image.height + 2), _fitted(title, font, _CELL), _INK, font)
        top += height
    for place, (name, color) in enumerate(legend):
        left = _GAP + place % per_line * 200
        y = top + place // per_line * _LINE
        draw.rectangle((left, y + 3, left + 16, y + 17), color or _VOID, _INK)
        draw.text((left + 24, y + 1), _fitted(name, font, 170), _INK, font)
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too wide: names differ there."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
