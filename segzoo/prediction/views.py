"""Test-time views: several views of a picture, each undone exactly, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from .. import checks
from ..errors import ArgumentError


@dataclass(frozen=True)
class Symmetry:
    """An element of the dihedral group of the square: a mirror image, then quarter turns.

    Args:
        mirrored: Left and right are exchanged first.
        quarters: Counterclockwise quarter turns afterwards, 0 to 3.
    """

    mirrored: bool = False
    quarters: int = 0

    def apply(self, image: Tensor) -> Tensor:
        """A view of ``(..., H, W)``; odd quarter turns exchange height and width."""
        flipped = image.flip(-1) if self.mirrored else image
        return flipped.rot90(self.quarters, (-2, -1)) if self.quarters else flipped

    def undo(self, image: Tensor) -> Tensor:
        """The exact inverse of :meth:`apply`: every value goes back to its place."""
        turned = image.rot90(-self.quarters, (-2, -1)) if self.quarters else image
        return turned.flip(-1) if self.mirrored else turned


#: Name -> the views that are averaged.
SYMMETRIES: Mapping[str, tuple[Symmetry, ...]] = MappingProxyType(
    {
        "none": (Symmetry(),),
        "mirror": (Symmetry(), Symmetry(mirrored=True)),
        # A half turn of the mirror image is the one that exchanges top and bottom.
        "flips": tuple(Symmetry(m, q) for m in (False, True) for q in (0, 2)),
        "dihedral": tuple(Symmetry(m, q) for m in (False, True) for q in range(4)),
    }
)


def _factor(name: str, item: object) -> float:
    return checks.number(name, item, minimum=0.1, maximum=10)


@dataclass(frozen=True)
class Views:
    """What is averaged: each symmetry at each scale.

    Args:
        tta: One of :data:`SYMMETRIES`.
        scales: Factors of the picture's size, 0.1 to 10.
    """

    tta: str = "none"
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        checks.choice("tta", self.tta, SYMMETRIES)
        scales = checks.sequence("scales", self.scales, _factor)
        if not scales:
            raise ArgumentError("scales must have at least one factor; 1 is the picture's size.")
        object.__setattr__(self, "scales", scales)

    @property
    def symmetries(self) -> tuple[Symmetry, ...]:
        """The views."""
        return SYMMETRIES[self.tta]

    @property
    def count(self) -> int:
        """Forward passes for each picture."""
        return len(self.symmetries) * len(self.scales)

    @property
    def turns(self) -> bool:
        """Whether rows become columns in a view."""
        return any(item.quarters % 2 for item in self.symmetries)


#: No views: one view, at the picture's size.
AS_IT_IS = Views()
