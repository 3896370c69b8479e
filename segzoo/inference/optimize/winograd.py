"""A 3x3 convolution with a quarter of the multiplications, on a CPU.

Winograd's minimal filtering, F(4x4, 3x3) in Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016, section 4: tiles of 6x6 cells and the kernel are transformed so that their
products, summed over the channels, transform back into 4x4 outputs. That takes 36 products for each
pair of channels where direct convolution takes 144. The transforms are work for each channel, not
for each pair of them, so that it pays off where channels are many. Maps that are concatenated are
transformed one by one, and one that is doubled first is read as it is: its tiles have 4x4 cells.

The points are those of Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
Convolution for Deep Neural Networks", 2020, which keep the rounding errors small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._compat import convolve, fuses_on_cpu
from ...features import ceil_div
from .toom_cook import transforms

#: Cells along a tile's side that come out, taps of the kernel, cells that go in.
_OUT, _TAPS = 4, 3
_IN = _OUT + _TAPS - 1
#: One fewer than cells that go in: the last point is infinity.
_POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))
#: Tiles are worked on in strips, whose cells take about so many bytes for each thread (what its
#: cache holds), but not fewer tiles than are worth reading all filters for.
_BYTES, _FEWEST = 5 << 18, 64


#: Channels in and out from which on it is tried; benchmarks/convolutions.py times fewer as well.
_MANY = 128


def pays(weight: Tensor, x: Tensor) -> bool:
    """Whether it can compute a convolution of that map, and may be the fastest to do so."""
    able = x.device.type == "cpu" and x.dtype is torch.float32 and fuses_on_cpu()
    return able and min(weight.shape[:2]) >= _MANY


@dataclass(frozen=True)
class Part:
    """A map that a convolution reads, one of those that are concatenated.

    Args:
        channels: Channels of the map.
        doubled: Whether it is half the output's size, and each of its cells counts four times.
    """

    channels: int
    doubled: bool = False

    @property
    def step(self) -> int:
        """Cells of the map from one tile to the next."""
        return _OUT // 2 if self.doubled else _OUT

    @property
    def cells(self) -> int:
        """Cells of the map along a tile's side: a doubled one shows each of them twice."""
        return self.step + 2

    def tile_matrix(self, tile: Tensor) -> Tensor:
        """The matrix for cells of this map, from the one for cells of the output's size."""
        if not self.doubled:
            return tile
        # Tiles begin one cell before an even one.
        shown = (torch.arange(_IN, device=tile.device) + 1) // 2
        return tile @ F.one_hot(shown, self.cells).to(tile.dtype)

    def tiles(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """``(N, C, h, w)`` -> overlapping tiles ``(N, rows, columns, cells, cells, C)``, a view."""
        below, right = rows * self.step - x.shape[-2] + 1, columns * self.step - x.shape[-1] + 1
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))
        tiles = padded.unfold(1, self.cells, self.step).unfold(2, self.cells, self.step)
        return tiles.permute(0, 1, 2, 4, 5, 3)


class Winograd:
    """``conv2d(cat(parts), weight, bias, padding=1) [+ other]`` of one shape, on a CPU.

    Args:
        weight: ``(O, C, 3, 3)``.
        bias: ``(O,)`` or None.
        shape: Shape of the map, ``(N, C, H, W)``; of the first, where several are concatenated.
        parts: What is concatenated, in this order; None for one map of the output's size.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        shape: Sequence[int],
        parts: Sequence[Part] | None = None,
    ) -> None:
        self._parts = parts or [Part(weight.shape[1])]
        self._shape = tuple(shape)
        times = 2 if self._parts[0].doubled else 1
        self._images, self._height, self._width = shape[0], times * shape[2], times * shape[3]
        self._rows, self._columns = ceil_div(self._height, _OUT), ceil_div(self._width, _OUT)
        # The transformed cells of a strip are written and read again for the products: they should
        # still be in the cache then. Too few tiles, and all filters are read for too little work.
        bytes_of_tile = _IN**2 * max(weight.shape[:2]) * weight.itemsize
        wanted = max(_FEWEST, _BYTES * torch.get_num_threads() // bytes_of_tile)
        # Half more than wanted is allowed, so that a divisor is likely to be found near it.
        most = wanted * 3 // (2 * self._columns)
        images, rows = _divisor(self._images, most // self._rows), _divisor(self._rows, most)
        #: Images, and rows of tiles, that are worked on together: lists of those side by side.
        self._strips = [
            [
                (slice(image, image + images), slice(row, row + rows))
                for row in range(0, self._rows, rows)
            ]
            for image in range(0, self._images, images)
        ]
        back, kernel, tile = (item.to(weight.device) for item in transforms(_POINTS, _TAPS))
        # The points make fractions that float32 cannot hold: in float64, once, when it is set up.
        filters = torch.einsum("ia,ocab,jb->ijoc", kernel, weight.double(), kernel)
        # Rounded once, after the transform.
        count = images * rows * self._columns
        self._filters = _packed(filters.flatten(0, 1).to(weight.dtype), count)
        self._back = back.to(weight.dtype)
        self._tiles = [part.tile_matrix(tile).to(weight.dtype) for part in self._parts]
        self._bias = weight.new_zeros(len(weight)) if bias is None else bias

    def takes(self, x: Tensor) -> bool:
        """Whether the map, the first one, has the shape that it is made for."""
        return x.shape == self._shape

    def __call__(self, *maps: Tensor, other: Tensor | None = None) -> Tensor:
        """The parts, each ``(N, C, h, w)``, and what is to be added -> ``(N, O, H, W)``."""
        tiles = [
            part.tiles(x, self._rows, self._columns)
            for part, x in zip(self._parts, maps, strict=True)
        ]
        out = self._joined(tiles) if torch.compiler.is_compiling() else self._written(tiles)
        out = out.reshape(self._images, self._rows * _OUT, self._columns * _OUT, -1)
        # The last tiles reach beyond an edge that four does not divide.
        out = out[:, : self._height, : self._width].permute(0, 3, 1, 2)
        out = out.contiguous(memory_format=torch.channels_last)
        return out if other is None else out.add_(other)

    def _written(self, tiles: Sequence[Tensor]) -> Tensor:
        """Tiles of each part -> ``(N, rows, 4, columns, 4, O)``, each strip where it belongs."""
        shape = (self._images, self._rows, _OUT, self._columns, _OUT, len(self._bias))
        out = tiles[0].new_empty(shape)
        for strip in itertools.chain(*self._strips):
            made = self._filtered([part[strip] for part in tiles])
            torch.add(made, self._bias, out=out[strip])
        return out

    def _joined(self, tiles: Sequence[Tensor]) -> Tensor:
        """The same for a compiler, which takes no part of a tensor to write into."""
        made = [
            [self._filtered([part[strip] for part in tiles]) + self._bias for strip in strips]
            for strips in self._strips
        ]
        return torch.cat([torch.cat(strips, dim=1) for strips in made])

    def _filtered(self, tiles: Sequence[Tensor]) -> Tensor:
        """Some tiles of each part -> what comes out of them, ``(N, rows, 4, columns, 4, O)``."""
        cells = [
            _both_ways(matrix, item.flatten(0, 2))
            for matrix, item in zip(self._tiles, tiles, strict=True)
        ]
        joined = cells[0] if len(cells) == 1 else torch.cat(cells, dim=-1)
        count, once, no = len(joined), (1, 1), (0, 0)
        sums = convolve(
            joined.view(1, count, 1, -1).permute(0, 3, 1, 2),
            *(self._filters, None, no, once, once, _IN**2, "none", [], ""),
        )
        made = _both_ways(self._back, sums.permute(0, 2, 3, 1).reshape(count, _IN, _IN, -1))
        return made.view(*tiles[0].shape[:3], _OUT, _OUT, -1).transpose(2, 3)


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to ``most``, at least 1: strips of one size, as oneDNN is set up."""
    return max((n for n in range(1, most + 1) if number % n == 0), default=1)


def _both_ways(matrix: Tensor, tiles: Tensor) -> Tensor:
    """The matrix applied along the rows and the columns of ``(T, n, n, C)``."""
    count, size, _, channels = tiles.shape
    made = len(matrix)
    tiles = torch.bmm(matrix.expand(count, made, size), tiles.reshape(count, size, -1))
    tiles = tiles.view(count * made, size, channels)
    tiles = torch.bmm(matrix.expand(count * made, made, size), tiles)
    return tiles.view(count, made, made, channels)


def _packed(filters: Tensor, count: int) -> Tensor:
    """Filters ``(36, O, C)`` for ``count`` tiles, in the order that oneDNN wants.

    A product of matrices for each cell of a tile, as a 1x1 convolution with a group for each cell:
    so oneDNN computes it too, whatever library torch's own products go to.
    """
    groups, _, channels = filters.shape
    filters = filters.flatten(0, 1)[..., None, None]
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    size = [1, groups * channels, count, 1]
    packed: Tensor = reorder(filters.to_mkldnn(), (0, 0), (1, 1), (1, 1), groups, size)
    return packed
