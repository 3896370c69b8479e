"""Which parameters belong to which stage of a backbone: asked of the gradients, not of names."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import EncoderError

_SIDES = (224, 256, 384, 512, 64)


@torch.inference_mode(False)
@torch.enable_grad()
def parameter_stages(backbone: nn.Module, in_channels: int, count: int) -> list[list[str]]:
    """The parameter names of each of ``count`` stages; see :meth:`Encoder.stages`.

    The backbone's own weights are not touched: it runs on the meta device, where nothing is
    computed, and only the graph that leads from each map back to the parameters is read.
    """
    parameters = {
        name: parameter.to("meta").requires_grad_()
        for name, parameter in backbone.named_parameters()
        if parameter.is_floating_point()
    }
    buffers = {name: buffer.to("meta") for name, buffer in backbone.named_buffers()}
    maps = _maps(backbone, {**parameters, **buffers}, in_channels)
    names = list(parameters)
    stages: list[list[str]] = []
    left = dict.fromkeys(names)
    for item in maps[:count]:
        wanted = [parameters[name] for name in left]
        reached = (
            torch.autograd.grad(item.sum(), wanted, retain_graph=True, allow_unused=True)
            if wanted and item.requires_grad
            else ()
        )
        stage = [name for name, grad in zip(left, reached, strict=False) if grad is not None]
        stages.append(stage)
        for name in stage:
            del left[name]
    stages[-1].extend(left)
    return stages


def _maps(backbone: nn.Module, state: dict[str, Tensor], in_channels: int) -> list[Tensor]:
    """The maps on the meta device, at the first of a few common sizes that the backbone takes."""
    for side in _SIDES:
        image = torch.empty(2, in_channels, side, side, device="meta")
        try:
            maps: list[Tensor] = functional_call(backbone, state, (image,))
        except Exception as error:  # whatever a backbone raises at a size it does not take
            problem = error
        else:
            return maps
    raise EncoderError(f"The backbone's stages cannot be traced: {problem}") from problem


def whole_modules(backbone: nn.Module, parameters: Collection[str]) -> Iterator[nn.Module]:
    """The largest modules that have parameters, and all of them among ``parameters``.

    Yields a block as a whole, with what has no parameters in it (drop-path, dropout).
    """

    def visit(module: nn.Module, prefix: str) -> Iterator[nn.Module]:
        inside = [name for name, _ in module.named_parameters(prefix=prefix)]
        if inside and all(name in parameters for name in inside):
            yield module
            return
        for name, child in module.named_children():
            yield from visit(child, f"{prefix}.{name}" if prefix else name)

    return visit(backbone, "")
