"""The epsilon of a backbone's layer normalisations, which timm has no option for."""

from __future__ import annotations

from torch import nn

from .. import checks
from ..errors import ArgumentError


def set_norm_eps(backbone: nn.Module, eps: float | None) -> None:
    """Give every layer normalisation of a backbone this epsilon; None leaves them as they are.

    Other libraries train the same networks with other values.

    Raises:
        ArgumentError: The backbone has no layer normalisation, or the value is none for it.
    """
    if eps is None:
        return
    checks.number("encoder_options['norm_eps']", eps, minimum=0, maximum=1)
    layers = [item for item in backbone.modules() if isinstance(item, nn.LayerNorm)]
    if not layers:
        raise ArgumentError("norm_eps is for encoders with layer normalisation; this has none.")
    for layer in layers:
        layer.eps = eps
