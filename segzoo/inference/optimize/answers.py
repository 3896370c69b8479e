"""The class of each pixel instead of its logits, for a recorded graph.

Logits of many classes are the largest map of a forward, written only to be read once. Where the
head is in the Triton kernel, that decides too; else the logits stay in the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ...prediction.masks import VOID
from .fuse_head import HeadedConv
from .trace import Body


class Answers(nn.Module):
    """Images that fit the encoder -> the class of each pixel ``(N, H, W)``, uint8.

    With one class 1 where the logit is above the threshold. Where a logit is NaN it is
    :data:`~segzoo.prediction.masks.VOID`, so there may be 255 classes at most.

    Args:
        run: A body, or what a compiler made of one.
        threshold: Of one class.
    """

    def __init__(self, run: nn.Module, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        fused = _with_answering_head(run, threshold) if isinstance(run, Body) else None
        self.fused = fused is not None
        self.run = run if fused is None else fused

    def forward(self, image: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, H, W)``."""
        found: Tensor = self.run(image)
        return found if self.fused else decided(found, self.threshold)


def decided(logits: Tensor, threshold: float) -> Tensor:
    """Logits ``(N, classes, H, W)`` -> the class of each pixel ``(N, H, W)``, uint8."""
    if logits.shape[1] == 1:
        largest = logits[:, 0]
        best = (largest > threshold).to(torch.uint8)
    else:
        largest, index = logits.max(dim=1)
        best = index.to(torch.uint8)
    return best.masked_fill(largest.isnan(), VOID)


class _AnsweringHead(nn.Module):
    """A step of a graph: what decides in the kernel that has the head."""

    def __init__(self, step: HeadedConv) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step.classes_of(x)


def _with_answering_head(body: Body, threshold: float) -> Body | None:
    """The same steps, the last of which gives classes; None where that is no kernel's."""
    if not isinstance(body.decode, fx.GraphModule) or threshold != 0:
        return None
    graph = fx.Graph()
    last = graph.graph_copy(body.decode.graph, {})
    if not isinstance(last, fx.Node) or last.op != "call_module":
        return None
    step = body.decode.get_submodule(str(last.target))
    if not isinstance(step, HeadedConv) or not step.decides:
        return None
    graph.output(last)
    # Its modules are those of the other graph: no weight is copied.
    decode = fx.GraphModule(body.decode, graph)
    name = "answering_head"
    decode.add_submodule(name, _AnsweringHead(step))
    last.target = name
    decode.recompile()
    return Body(body.encoder, decode)
