"""Which image sizes a backbone takes: described by a value, found by trying.

No table and no test on a name: the backbone is run on the meta device, where only shapes are
computed, at sizes of growing strictness. What it accepts is its rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import EncoderError
from ..features import ceil_div

Size = tuple[int, int]

#: Images go as they are (from a smallest size), are padded to a multiple, or resized to one size.
SIZE_KINDS = ("any", "multiple", "fixed")


@dataclass(frozen=True)
class SizeRule:
    """What has to be done to an image of any size before a backbone takes it.

    Args:
        multiple: Both sides must be a multiple of this; 1 where any size goes.
        minimum: The smallest side that the backbone takes.
        fixed: The one ``(height, width)`` that it takes, or None.
        padded: With ``fixed``: images of this ``(height, width)`` are padded to it, not resized.
    """

    multiple: int = 1
    minimum: int = 1
    fixed: Size | None = None
    padded: Size | None = None

    @property
    def kind(self) -> str:
        """One of :data:`SIZE_KINDS`: what happens to an image of no particular size."""
        if self.fixed:
            return "fixed"
        return "any" if self.multiple == 1 else "multiple"

    def __str__(self) -> str:
        if self.fixed:
            only = f"only {self.fixed[0]}x{self.fixed[1]}"
            if self.padded and self.padded != self.fixed:
                only += f" ({self.padded[0]}x{self.padded[1]} is padded to it)"
            return f"{only}: other images are resized"
        rule = "any" if self.multiple == 1 else f"multiples of {self.multiple}: images are padded"
        return rule if self.minimum <= self.multiple else f"{rule}, from {self.minimum} pixels"

    def fit(self, image: Tensor) -> Tensor:
        """The image ``(N, C, H, W)`` at a size that the backbone takes.

        Padded with zeros (the mean colour of a normalised image) on the right and at the bottom,
        or resized where only one size goes; the same tensor where nothing has to be done.
        """
        height, width = image.shape[-2:]
        if self.fixed and self.pads(image):
            return _pad_to(image, *self.fixed)
        if self.fixed:
            return _resized_to(image, self.fixed)
        if self.multiple > 1:
            # Without a test on the amount, so that an exported graph works at every size.
            image = _pad_to(
                image,
                ceil_div(height, self.multiple) * self.multiple,
                ceil_div(width, self.multiple) * self.multiple,
            )
        if height < self.minimum or width < self.minimum:
            image = _pad_to(
                image, max(image.shape[-2], self.minimum), max(image.shape[-1], self.minimum)
            )
        return image

    def pads(self, image: Tensor) -> bool:
        """Whether an image keeps its resolution: it is padded, if anything is done to it."""
        return self.fixed is None or tuple(image.shape[-2:]) in (self.fixed, self.padded)

    def restore(self, logits: Tensor, size: Size) -> Tensor:
        """Undo :meth:`fit` on the logits, for an image that was ``size`` = (height, width)."""
        if self.fixed and size not in (self.fixed, self.padded):
            return F.interpolate(logits, size, mode="bilinear")
        if self.fixed or self.multiple > 1 or min(size) < self.minimum:
            return _pad_to(logits, *size)
        return logits


def _resized_to(image: Tensor, size: Size) -> Tensor:
    """The image at another resolution, smoothed where that is lower."""
    half = image.device.type == "cpu" and image.dtype in (torch.float16, torch.bfloat16)
    # Of 16 bits torch can do so on GPUs only.
    given = image.float() if half else image
    found = F.interpolate(given, size, mode="bilinear", antialias=True)
    return found.to(image.dtype)


def _pad_to(image: Tensor, height: int, width: int) -> Tensor:
    """Zeros added on the right and at the bottom, or what is there cut off.

    Slices would do for the cut, but leave ``torch.export`` with a guard that it cannot prove.
    """
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))


#: The rule of a backbone that takes any image as it is.
ANY_SIZE = SizeRule()

#: Sides with different remainders by every small number: a backbone that takes these takes any.
_ODD: tuple[Size, ...] = ((131, 160), (250, 317), (161, 223))
#: How many multiples further each side is tried: four in a row, which a larger multiple would not
#: hit each time; and, where multiples are small, one short of a power of two and a few at random.
_STEPS = ((0, 3), (1, 2), (2, 1), (3, 0), (-2, 11), (6, -2), (7, 6), (13, 9))
#: What multiples are looked for: powers of two, and patches of 3, 5, 7, 9 times a power of two.
_POWERS = 9
_MULTIPLES = sorted({odd << power for odd in (1, 3, 5, 7, 9) for power in range(_POWERS)} - {1})


def find_size_rule(accepts: Callable[[Size], bool], native: Size) -> SizeRule:
    """The least strict rule that a backbone obeys.

    Args:
        accepts: Whether the backbone gives its maps for an image of that ``(height, width)``.
        native: The size that it was made for, tried last.

    Raises:
        EncoderError: It does not even take its native size.
    """
    # First one that is larger than it was made for: tables of positions may end there.
    height, width = native
    if all(map(accepts, ((height + 131, width + 160), *_ODD))):
        return SizeRule(minimum=_smallest(accepts, 1))

    @functools.cache
    def takes_largest(odd: int) -> bool:
        # A multiple of all the powers of two times this number: where it is refused none of them
        # is the rule, and a backbone that takes one size only is known by five runs, not by fifty.
        step = odd << (_POWERS - 1)
        return accepts((ceil_div(height + 1, step) * step, ceil_div(width + 1, step) * step))

    # From small to large: the first that holds pads least.
    for multiple in _MULTIPLES:
        if not takes_largest(multiple // (multiple & -multiple)):
            continue
        tall, wide = 256 // multiple + 1, 192 // multiple + 1
        steps = _STEPS if multiple <= 16 else _STEPS[:4]
        sizes = [((height // multiple + 2) * multiple, (width // multiple + 1) * multiple)]
        sizes += [((tall + a) * multiple, (wide + b) * multiple) for a, b in steps]
        if all(map(accepts, sizes)):
            return SizeRule(multiple=multiple, minimum=_smallest(accepts, multiple))
    if accepts(native):
        return SizeRule(fixed=native)
    raise EncoderError(
        f"The backbone gives no feature maps for an image of its own size, {native[0]}x{native[1]}."
    )


def sizes_to_build_for(wanted: Size) -> list[Size]:
    """``wanted``, and larger sizes whose sides are multiples of 2, 3, 4 ..., the smallest first.

    Among them are squares, which some backbones ask for.

    >>> sizes_to_build_for((250, 317))[:4]
    [(250, 317), (250, 318), (250, 320), (252, 318)]
    """
    sizes = {
        (ceil_div(height, multiple) * multiple, ceil_div(width, multiple) * multiple)
        for height, width in (wanted, (max(wanted), max(wanted)))
        for multiple in (1, *_MULTIPLES)
    }
    fitting = [size for size in sizes if max(size) < max(wanted) + 256]
    return sorted(fitting, key=lambda size: (size[0] * size[1], size))


def _smallest(accepts: Callable[[Size], bool], step: int) -> int:
    """The smallest multiple of ``step`` that is accepted as a side, by doubling, then halving."""
    high = 1
    while not accepts((high * step, high * step)):
        high *= 2
        if high * step > 1024:
            raise EncoderError("The backbone takes no square image of up to 1024 pixels.")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accepts((middle * step, middle * step)) else (middle, high)
    return high * step
