"""What encoders share that come with segzoo and are not timm's."""

from __future__ import annotations

from .. import checks
from ..errors import ArgumentError, EncoderError
from ..preprocessing import Normalization

#: Mean and standard deviation of ImageNet's images, which all of these are trained with.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def no_weights(name: str, pretrained: bool | str) -> None:
    """Refuse weights for an encoder that has none to download.

    Raises:
        EncoderError: Some are asked for.
    """
    if pretrained:
        raise EncoderError(
            f"There are no pretrained weights for {name!r} alone: build it with pretrained=False, "
            "or bring over a whole model with segzoo.convert."
        )


def maps_wanted(name: str, count: int, depth: int | None) -> int:
    """How many of an encoder's ``count`` maps are wanted.

    Raises:
        ArgumentError: It has not that many.
    """
    if depth is None:
        return count
    checks.integer("depth", depth, minimum=1, maximum=1024)
    if not 1 <= depth <= count:
        raise ArgumentError(
            f"depth must be between 1 and {count} for {name!r} (it gives {count} maps), got "
            f"{depth}."
        )
    return depth


def share(option: str, value: float) -> float:
    """The value of an option between 0 and 1, checked.

    Raises:
        ArgumentError: It is none.
    """
    return checks.number(f"encoder_options[{option!r}]", value, minimum=0, maximum=1)
