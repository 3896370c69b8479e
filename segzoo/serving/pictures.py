"""From the bytes of a picture's file to a model's pixels, with the status of what is refused."""

from __future__ import annotations

from torch import Tensor

from ..data.raster import RasterInfo, open_raster
from ..errors import InputError, PixelLimitError
from ..folders.picture import read_for_model
from ..folders.task import Reading
from .refused import RefusedError

#: Bytes of all bands that are decoded for each pixel of the limit: four bands of eight bytes.
_BYTES_A_PIXEL = 32


def decode(content: bytes, bands: int, reading: Reading) -> Tensor:
    """The pixels ``(bands, H, W)`` of a picture, by the reader of ``segzoo predict``.

    Its size is known from its header, and checked, before anything of it is decoded.

    Args:
        content: The bytes of its file.
        bands: What the model takes.
        reading: How pictures are read, and the largest.

    Raises:
        RefusedError: 413 for too many pixels, 415 for what cannot be read as a picture, 422 for a
            picture that this model cannot take.
    """
    try:
        with open_raster(content, max_pixels=reading.max_pixels) as raster:
            _check_size(raster.info, reading)
            _check_bands(raster.info, bands, reading)
            return read_for_model(raster, bands, reading)[1]
    except PixelLimitError as error:
        raise _too_large(error.size, error.limit) from error
    except InputError as error:
        raise RefusedError(415, str(error)) from error


def _check_size(info: RasterInfo, reading: Reading) -> None:
    """Also of pictures that could be read by windows, and of many bands: all is read at once."""
    limit = reading.max_pixels
    if info.width * info.height > limit:
        raise _too_large((info.width, info.height), limit)
    size = info.width * info.height * info.bands * info.dtype.itemsize
    if size > limit * _BYTES_A_PIXEL:
        raise RefusedError(
            413,
            f"The file has {info.bands} bands of {info.dtype} values, {size:,} bytes once they are "
            f"decoded, more than the limit of {limit * _BYTES_A_PIXEL:,}.",
        )


def _check_bands(info: RasterInfo, wanted: int, reading: Reading) -> None:
    """In words for somebody who has no say in how the server reads."""
    given, alpha = info.bands, info.bands - info.alpha
    if reading.bands is not None:
        if max(reading.bands) > given:
            raise RefusedError(
                422,
                f"The picture has {given} bands, and this server reads the bands "
                f"{', '.join(map(str, reading.bands))} of each.",
            )
    elif given != wanted and alpha != wanted and {alpha, wanted} != {1, 3}:
        raise RefusedError(
            422, f"The picture has {given} bands, and this server's model takes {wanted}."
        )


def _too_large(size: tuple[int, int], limit: int) -> RefusedError:
    return RefusedError(
        413,
        f"The picture has {size[0]}x{size[1]} pixels, more than the limit of {limit:,}. Send a "
        "smaller one.",
    )
