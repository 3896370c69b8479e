"""A 3x3 convolution with a fraction of the multiplications, on a CPU.

Winograd's minimal filtering, F(4x4, 3x3) in Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016, section 4: tiles of 6x6 cells and the kernel are transformed so that their
products, summed over the channels, transform back into 4x4 outputs. That takes 36 products for each
pair of channels where direct convolution takes 144. The transforms are work for each channel, not
for each pair of them, so that it pays off where channels are many. Of a small map with many
channels much time goes into reading the transformed filters: there F(2x2, 3x3) is tried, whose
filters are less than half as large, beside F(4x4, 3x3), which a processor with little arithmetic
for its memory computes faster still. Maps that are concatenated are transformed one by one, and one
that is doubled first is read as it is: its tiles have 4x4 cells, or 3x3.

Both directions of a transform are one product with the Kronecker product of the matrices. That is
three times the arithmetic of one direction after the other, and still half the time: a product with
a matrix of 6x6 is mostly reading and writing.

The points are those of Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
Convolution for Deep Neural Networks", 2020, which keep the rounding errors small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._compat import convolve, fuses_on_cpu
from ...features import ceil_div
from .toom_cook import transforms

#: Taps of the kernel.
_TAPS = 3
#: The points for tiles of so many cells along a side that come out. Those that go in are one more
#: than the points: the last point is infinity. The second point is 1 in both, see ``_ONE``.
POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)),
}
#: The point whose product counts alike in all outputs of a tile, which is where a bias belongs.
_ONE = 1
#: Tiles are worked on in strips, whose cells take about so many bytes for each thread (what its
#: cache holds), but not fewer tiles than are worth reading all filters for.
_BYTES, _FEWEST = 5 << 18, 128
#: Of a map with fewer 4x4 tiles than this the filters are more to read than the tiles.
_SMALL = 28
#: Channels in and out from which on it is tried; benchmarks/convolutions.py times fewer as well.
_MANY = 128
#: Implementations by what multiplies, the library of torch's products or oneDNN, and by the tiles
#: of small maps. Which is faster depends on the processor.
WINOGRAD = ("winograd_blas", "winograd_4x4", "winograd")


def choices(weight: Tensor, x: Tensor, *, doubled: bool = False) -> list[str]:
    """Those of :data:`WINOGRAD` that can compute a convolution, and may be the fastest to do so.

    Args:
        weight: ``(O, C, 3, 3)``.
        x: The map.
        doubled: Whether it is doubled first.
    """
    able = x.device.type == "cpu" and x.dtype is torch.float32 and fuses_on_cpu()
    if not able or min(weight.shape[:2]) < _MANY:
        return []
    times = 2 if doubled else 1
    small = _is_small(len(x), times * x.shape[2], times * x.shape[3])
    return [name for name in WINOGRAD if small or name != "winograd_4x4"]


def _is_small(images: int, height: int, width: int) -> bool:
    """Whether a map has few 4x4 tiles."""
    return images * ceil_div(height, 4) * ceil_div(width, 4) < _SMALL


@dataclass(frozen=True)
class Part:
    """A map that a convolution reads, one of those that are concatenated.

    Args:
        channels: Channels of the map.
        doubled: Whether it is half the output's size, and each of its cells counts four times.
    """

    channels: int
    doubled: bool = False

    def step(self, outputs: int) -> int:
        """Cells of the map from one tile of so many outputs to the next."""
        return outputs // 2 if self.doubled else outputs

    def tile_matrix(self, tile: Tensor) -> Tensor:
        """The matrix for cells of this map, from the one for cells of the output's size."""
        if not self.doubled:
            return tile
        # Tiles begin one cell before an even one.
        shown = (torch.arange(len(tile), device=tile.device) + 1) // 2
        return tile @ F.one_hot(shown, self.step(len(tile) - 2) + 2).to(tile.dtype)

    def tiles(self, x: Tensor, outputs: int, rows: slice, columns: int) -> Tensor:
        """Some rows of overlapping tiles of a map ``(N, C, h, w)``, a view.

        Returns:
            ``(N, rows, columns, cells, cells, C)``.
        """
        step = self.step(outputs)
        cells = step + 2
        # A strip of the map with a cell more around it: zeros where the map ends.
        first, last = rows.start * step - 1, rows.stop * step + 1
        inside = slice(max(first, 0), min(last, x.shape[-2]))
        right = columns * step - x.shape[-1] + 1
        around = (0, 0, 1, right, inside.start - first, last - inside.stop)
        padded = F.pad(x.permute(0, 2, 3, 1)[:, inside], around)
        tiles = padded.unfold(1, cells, step).unfold(2, cells, step)
        return tiles.permute(0, 1, 2, 4, 5, 3)


class Winograd:
    """``act(conv2d(cat(parts), weight, bias, padding=1) [+ other])`` of one shape, on a CPU.

    Args:
        weight: ``(O, C, 3, 3)``.
        bias: ``(O,)`` or None.
        shape: Shape of the map, ``(N, C, H, W)``; of the first, where several are concatenated.
        parts: What is concatenated, in this order; None for one map of the output's size.
        act: Changes a tensor in place, and gives it.
        form: One of :data:`WINOGRAD`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        shape: Sequence[int],
        parts: Sequence[Part] | None = None,
        *,
        act: Callable[[Tensor], Tensor] = lambda x: x,
        form: str = "winograd",
    ) -> None:
        self._parts = parts or [Part(weight.shape[1])]
        self._shape = tuple(shape)
        self._act, self._blas = act, form == "winograd_blas"
        times = 2 if self._parts[0].doubled else 1
        self._images, self._height, self._width = shape[0], times * shape[2], times * shape[3]
        small = _is_small(self._images, self._height, self._width)
        #: Cells along a tile's side that come out.
        self._size = 2 if small and form != "winograd_4x4" else 4
        self._rows = ceil_div(self._height, self._size)
        self._columns = ceil_div(self._width, self._size)
        back, kernel, tile = (
            item.to(weight.device) for item in transforms(POINTS[self._size], _TAPS)
        )
        #: Cells of a tile that go in, after the transform: so many products are summed up.
        self._cells = len(tile) ** 2
        # Where there is a bias in the sums: the product at 1 along both sides.
        self._middle = _ONE * (len(tile) + 1)
        images, rows = self._strip(self._cells * max(weight.shape[:2]) * weight.itemsize)
        #: Images, and rows of tiles, that are worked on together: lists of those side by side.
        self._strips = [
            [
                (slice(image, image + images), slice(row, row + rows))
                for row in range(0, self._rows, rows)
            ]
            for image in range(0, self._images, images)
        ]
        # The points make fractions that float32 cannot hold: in float64, once, when it is set up.
        outputs, channels = weight.shape[:2]
        taps = weight.double().flatten(2).permute(2, 1, 0)
        # Rounded once, after the transform.
        filters = (torch.kron(kernel, kernel) @ taps.flatten(1)).to(weight.dtype)
        filters = filters.view(self._cells, channels, outputs)
        self._back = torch.kron(back, back).to(weight.dtype)
        matrices = [part.tile_matrix(tile) for part in self._parts]
        self._tiles = [torch.kron(item, item).to(weight.dtype) for item in matrices]
        self._bias = weight.new_zeros(self._cells, len(weight))
        if bias is not None:
            self._bias[self._middle] = bias
        count = images * rows * self._columns
        self._filters = filters if self._blas else _packed(filters.transpose(1, 2), count)

    def _strip(self, bytes_of_tile: int) -> tuple[int, int]:
        """How many images, and rows of tiles of each, are worked on together.

        The transformed cells of a strip are written and read again for the products: they should
        still be in the cache then. Too few tiles, and all filters are read for too little work.
        """
        wanted = max(_FEWEST, _BYTES * torch.get_num_threads() // bytes_of_tile)
        # Half more than wanted is allowed, so that a divisor is likely to be found near it.
        most = wanted * 3 // (2 * self._columns)
        return _divisor(self._images, most // self._rows), _divisor(self._rows, most)

    def takes(self, x: Tensor) -> bool:
        """Whether the map, the first one, has the shape that it is made for."""
        return x.shape == self._shape

    def __call__(self, *maps: Tensor, other: Tensor | None = None) -> Tensor:
        """The parts, each ``(N, C, h, w)``, and what is to be added -> ``(N, O, H, W)``."""
        height, width = self._rows * self._size, self._columns * self._size
        if other is not None:
            # The last tiles reach beyond an edge that their side does not divide.
            below, right = height - self._height, width - self._width
            other = F.pad(other, (0, right, 0, below)) if below or right else other
            other = other.permute(0, 2, 3, 1).unflatten(2, (-1, self._size))
            other = other.unflatten(1, (-1, self._size))
        compiling = torch.compiler.is_compiling()
        out = (self._joined if compiling else self._written)(maps, other)
        out = out.reshape(self._images, height, width, -1)
        out = out[:, : self._height, : self._width].permute(0, 3, 1, 2)
        return out.contiguous(memory_format=torch.channels_last)

    def _written(self, maps: Sequence[Tensor], other: Tensor | None) -> Tensor:
        """The maps -> ``(N, rows, size, columns, size, O)``, each strip where it belongs."""
        size, outputs = self._size, self._bias.shape[1]
        out = maps[0].new_empty(self._images, self._rows, size, self._columns, size, outputs)
        for strip in itertools.chain(*self._strips):
            made, place = self._filtered(maps, strip), out[strip]
            if other is not None:
                self._act(torch.add(made, other[strip], out=place))
            elif self._act is torch.relu_:  # on the way
                torch.clamp_min(made, 0, out=place)
            else:
                self._act(place.copy_(made))
        return out

    def _joined(self, maps: Sequence[Tensor], other: Tensor | None) -> Tensor:
        """The same for a compiler, which takes no part of a tensor to write into."""
        made = [
            torch.cat([self._filtered(maps, strip) for strip in strips], dim=1)
            for strips in self._strips
        ]
        out = torch.cat(made)
        return self._act(out if other is None else out + other)

    def _filtered(self, maps: Sequence[Tensor], strip: tuple[slice, slice]) -> Tensor:
        """A strip of tiles -> what comes out of it, ``(N, rows, size, columns, size, O)``."""
        tiles = [
            part.tiles(x[strip[0]], self._size, strip[1], self._columns)
            for part, x in zip(self._parts, maps, strict=True)
        ]
        return self._by_blas(tiles) if self._blas else self._by_onednn(tiles)

    def _by_blas(self, tiles: Sequence[Tensor]) -> Tensor:
        """With the cells of a tile first: what is multiplied lies side by side."""
        cells = []
        for matrix, part in zip(self._tiles, tiles, strict=True):
            lying = part.permute(3, 4, 0, 1, 2, 5).reshape(matrix.shape[1], -1)
            cells.append(torch.mm(matrix, lying).view(self._cells, -1, part.shape[-1]))
        joined = cells[0] if len(cells) == 1 else torch.cat(cells, dim=-1)
        sums = torch.bmm(joined, self._filters)
        sums[self._middle] += self._bias[self._middle]
        made = torch.mm(self._back, sums.flatten(1))
        made = made.view(self._size, self._size, *tiles[0].shape[:3], self._bias.shape[1])
        return made.permute(2, 3, 0, 4, 1, 5)

    def _by_onednn(self, tiles: Sequence[Tensor]) -> Tensor:
        """With the cells of a tile as groups of channels of a 1x1 convolution."""
        cells = []
        for matrix, part in zip(self._tiles, tiles, strict=True):
            lying = part.reshape(-1, matrix.shape[1], part.shape[-1])
            cells.append(torch.bmm(matrix.expand(len(lying), *matrix.shape), lying))
        joined = cells[0] if len(cells) == 1 else torch.cat(cells, dim=-1)
        count, once, no = len(joined), (1, 1), (0, 0)
        sums = convolve(
            joined.view(1, count, 1, -1).permute(0, 3, 1, 2),
            *(self._filters, self._bias.flatten(), no, once, once, self._cells, "none", [], ""),
        )
        sums = sums.permute(0, 2, 3, 1).reshape(count, self._cells, -1)
        made = torch.bmm(self._back.expand(count, *self._back.shape), sums)
        made = made.view(*tiles[0].shape[:3], self._size, self._size, self._bias.shape[1])
        return made.transpose(2, 3)


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to ``most``, at least 1: strips of one size, as oneDNN is set up."""
    return max((n for n in range(1, most + 1) if number % n == 0), default=1)


def _packed(filters: Tensor, count: int) -> Tensor:
    """Filters ``(cells, O, C)`` for ``count`` tiles, in the order that oneDNN wants.

    A product of matrices for each cell of a tile, as a 1x1 convolution with a group for each cell:
    so oneDNN computes it too, whatever library torch's own products go to.
    """
    groups, _, channels = filters.shape
    filters = filters.reshape(-1, channels, 1, 1)
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    size = [1, groups * channels, count, 1]
    packed: Tensor = reorder(filters.to_mkldnn(), (0, 0), (1, 1), (1, 1), groups, size)
    return packed
