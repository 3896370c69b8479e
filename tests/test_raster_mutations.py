"""Damaged pictures: values, or one of segzoo's errors, in little memory."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import strategies as st
from PIL import Image

from segzoo.data.lossy import lossy_format
from segzoo.data.mask_file import orientation
from segzoo.data.pictures import read_mask, read_picture
from segzoo.data.raster import is_georeferenced
from segzoo.errors import InputError

from .fuzzing import CORPUS, damaged, fuzz
from .picture_files import values

#: Above it nothing is decoded; a case may claim any size.
LIMIT = 1 << 16


def tiff(dtype: str, bands: int, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values(dtype, bands), **options)
    return file.getvalue()


def pillow(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values("uint8", 3)).save(file, kind, **options)
    return file.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "grey tiff": lambda: tiff("uint8", 1, photometric="minisblack"),
    "tiles of 16 bits": lambda: tiff("uint16", 3, photometric="rgb", tile=(16, 16), compression="zlib"),
    "five bands": lambda: tiff("uint8", 5, photometric="minisblack", planarconfig="separate"),
    "big tiff": lambda: tiff("float32", 1, bigtiff=True),
    "png": lambda: pillow("PNG"),
    "jpeg": lambda: pillow("JPEG"),
    "webp": lambda: pillow("WEBP", lossless=True),
    "gif": lambda: pillow("GIF"),
    "bmp": lambda: pillow("BMP"),
    "jpeg 2000": lambda: pillow("JPEG2000"),
}  # fmt: skip


def look_at(path: Path) -> None:
    """Everything that is asked of a stranger's picture."""
    for ask in (
        lambda: read_picture(path, max_pixels=LIMIT),
        lambda: read_mask(path, max_pixels=LIMIT),
        lambda: lossy_format(path),
        lambda: orientation(path),
        lambda: is_georeferenced(path),
    ):
        with contextlib.suppress(InputError):
            found = ask()
            assert not hasattr(found, "numel") or found.numel() <= 64 * LIMIT


def tag(number: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", number, kind, count, value)


@st.composite
def tiff_of_any_tags(draw: st.DrawFn) -> bytes:
    """A directory whose entries say anything, with some bytes behind it."""
    numbers = st.sampled_from([254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 322,
                               323, 324, 325, 338, 339, 33550, 33922, 42113])  # fmt: skip
    amounts = st.one_of(
        st.integers(0, 300), st.sampled_from([2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
    )
    entries = draw(st.lists(st.tuples(numbers, st.integers(0, 19), amounts, amounts), max_size=14))
    following = draw(st.sampled_from([0, 0, 0, 8, 2**32 - 1]))
    directory = b"".join(tag(*entry) for entry in entries) + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(range(256)) * 2


@pytest.mark.filterwarnings("ignore")  # decoders complain as they like
def test_mutated_pictures_raise_nothing_but_our_errors(tmp_path):
    whole = {name: make() for name, make in WHOLE.items()}

    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*whole, "any tags", "any tags"]))
        case = tiff_of_any_tags() if name == "any tags" else damaged(whole[name], header=250)
        (tmp_path / "x").write_bytes(data.draw(case))
        look_at(tmp_path / "x")

    fuzz(check, examples=120)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted((CORPUS / "picture").iterdir()), ids=lambda path: path.stem)
def test_pictures_of_the_corpus_are_told(path):
    look_at(path)
    with pytest.raises(InputError):
        read_picture(path, max_pixels=LIMIT)


def test_whole_pictures_are_read(tmp_path):
    """What is damaged above is honest to begin with."""
    for make in WHOLE.values():
        (tmp_path / "x").write_bytes(make())
        if make is not WHOLE["big tiff"]:
            assert read_picture(tmp_path / "x", max_pixels=LIMIT).numel()
        assert np.prod(values("uint8", 3).shape[:2]) <= LIMIT
