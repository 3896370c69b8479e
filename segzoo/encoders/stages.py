"""Which parameters belong to which stage of a backbone: asked of the gradients, not of names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..nn.sharing import copied_modules, in_eval_mode
from .positions import PositionsHaveValues
from .probe import on_meta
from .sizes import SizeRule


@torch.inference_mode(False)
@torch.enable_grad()
def parameter_stages(
    backbone: nn.Module, in_channels: int, size_rule: SizeRule, count: int | None = None
) -> list[list[str]]:
    """The parameter names of each stage; see :meth:`Encoder.stages`.

    The backbone runs on the meta device, where nothing is computed, and only the graph that leads
    from each map back to the parameters is read; with its own weights where it needs values.

    Args:
        count: How many of the backbone's outputs are maps, where others follow.
    """
    kinds = (item.dtype for item in backbone.parameters() if item.is_floating_point())
    kind = next(kinds, torch.float32)
    image = size_rule.fit(torch.empty(2, in_channels, 256, 256, dtype=kind, device="meta"))
    run, parameters = on_meta(backbone, gradients=True)
    try:
        with PositionsHaveValues():
            return _reached(run(image)[:count], parameters)
    except Exception:
        # A forward that reads pixels, which the meta device has none of, or one with learned
        # positions, whose values have no gradients there.
        # What is frozen by now belongs to a stage too, so others on the same values are looked at.
        parameters = {
            name: item.detach().requires_grad_(item.is_floating_point())
            for name, item in backbone.named_parameters()
        }
        device = next(iter(parameters.values())).device
        copied = copied_modules(backbone) or backbone
        with in_eval_mode(copied) as evaluating:  # statistics stay what they are
            zeros = torch.zeros(image.shape, dtype=kind, device=device)
            maps: Sequence[Tensor] = functional_call(evaluating, parameters, (zeros,))
        return _reached(maps[:count], parameters)


def _reached(maps: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of parameters that each map needs and no map before it; the rest with the last."""
    left = {name: item for name, item in parameters.items() if item.requires_grad}
    stages: list[list[str]] = []
    for item in maps:
        reached: tuple[Tensor | None, ...] = ()
        if left and item.requires_grad:
            reached = torch.autograd.grad(
                item.sum(), list(left.values()), retain_graph=True, allow_unused=True
            )
        found = dict(zip(left, reached, strict=False))
        stages.append([name for name, gradient in found.items() if gradient is not None])
        left = {name: item for name, item in left.items() if found.get(name) is None}
    assigned = {name for stage in stages for name in stage}
    stages[-1].extend(name for name in parameters if name not in assigned)
    return stages


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
