"""Batch normalisation folded into the convolution before it, in double precision.

In eval mode a batch norm multiplies each channel by a constant and adds another one; both can be
put into the weights of the convolution before it (Jacob et al., "Quantization and Training of
Neural Networks", 2018, section 3.2). One rounding to the model's own precision happens at the end.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...nn.layers import BatchNorm
from .trace import module_at, simplify


def fold_batchnorm(graph: fx.GraphModule) -> int:
    """Fold what can be folded, in place.

    A batch norm is folded where it is the only user of a convolution's output and each of both is
    called once; a kind of batch norm or convolution that torch does not know is first tried on
    random values.

    Returns:
        How many were folded.
    """
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    folded = 0
    for node in list(graph.graph.nodes):
        norm = module_at(graph, node)
        before = node.args[0] if isinstance(norm, BatchNorm) else None
        conv = module_at(graph, before)
        if (
            not isinstance(norm, BatchNorm)
            or not isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
            or not isinstance(before, fx.Node)
            or len(before.users) > 1
            or calls.count(before.target) > 1
            or calls.count(node.target) > 1
        ):
            continue
        rest = _rest(norm)
        if rest is None or not _obeys_its_weight(conv):
            continue
        graph.set_submodule(str(before.target), _folded(conv, norm))
        graph.set_submodule(str(node.target), rest)
        folded += 1
    simplify(graph)
    return folded


def _folded(conv: nn.Conv2d | nn.ConvTranspose2d, norm: BatchNorm) -> nn.Module:
    """A copy of the convolution that does the normalisation as well."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    folded = copy.deepcopy(conv)
    weight = conv.weight.double()
    if isinstance(conv, nn.ConvTranspose2d):  # (in, out / groups, kh, kw)
        inputs, outputs, *window = weight.shape
        grouped = weight.view(conv.groups, inputs // conv.groups, outputs, *window)
        weight = (grouped * scale.view(conv.groups, 1, outputs, 1, 1)).view_as(weight)
    else:
        weight = weight * scale.view(-1, 1, 1, 1)
    folded.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    return folded


def _rest(norm: BatchNorm) -> nn.Module | None:
    """What a batch norm does besides normalising: nothing, or its own activation; None: unknown."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return nn.Identity()
    act = getattr(norm, "act", None)
    rest = act if isinstance(act, nn.Module) else nn.Identity()
    x = _random(norm.running_mean, 2, norm.num_features, 4, 4)
    plain = F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    return rest if torch.allclose(norm(x), rest(plain), atol=1e-6) else None


def _obeys_its_weight(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether twice the weight gives twice the output; not so where it is standardised first."""
    if type(conv) in (nn.Conv2d, nn.ConvTranspose2d):
        return True
    twice = copy.deepcopy(conv)
    twice.weight.data.mul_(2)
    if twice.bias is not None:
        twice.bias.data.mul_(2)
    side = 2 + max(d * k for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    x = _random(conv.weight, 1, conv.in_channels, side, side)
    return torch.allclose(twice(x), 2 * conv(x), rtol=1e-4, atol=1e-5)


def _random(like: Tensor, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)
