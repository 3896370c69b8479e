"""fastai's own DynamicUnet, and the same model here with the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import segzoo
from benchmarks.common import randomise
from segzoo.convert import fastai as converter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    from fastai.layers import NormType
    from fastai.vision.learner import create_body
    from fastai.vision.models.unet import DynamicUnet as FastaiUnet


@dataclass(frozen=True)
class Case:
    """An option set, in fastai's words and, where weights leave no trace of it, in ours."""

    encoder: str = "resnet18"
    bands: int = 3
    fastai: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = [f"{name}={getattr(value, 'name', value)}" for name, value in self.fastai.items()]
        return ",".join([self.encoder, f"{self.bands} bands", *options])


def both(**options: Any) -> dict[str, Any]:
    """Options that have the same name on both sides."""
    return {"fastai": options, "told": options}


CASES = (
    Case(fastai={"self_attention": True}),
    Case(**both(blur=True)),
    Case(**both(blur=True, blur_final=False)),
    Case(fastai={"last_cross": False}, bands=4),
    Case(**both(y_range=(-1.0, 2.0)), bands=1),
    Case(fastai={"norm_type": NormType.Batch, "self_attention": True}),
    Case(fastai={"norm_type": NormType.Weight}),
    Case(fastai={"norm_type": NormType.Spectral, "self_attention": True}),
    Case(fastai={"norm_type": NormType.Instance}),
    Case(fastai={"act_cls": nn.Mish}, told={"act": "mish"}),
)


def fastai_unet(case: Case, *, classes: int = 3, fresh: bool = False) -> nn.Module:
    """fastai's model, with statistics that a mistake cannot hide behind unless ``fresh``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weight_norm, which torch would replace
        arch = getattr(torchvision.models, case.encoder)
        body = create_body(arch(weights=None), case.bands, False, -2)
        model: nn.Module = FastaiUnet(body, classes, (64, 64), **case.fastai)
    if not fresh:
        randomise(model)
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(parameter, 0.7)  # zero would switch the attention off
    return model.eval()


def make_pair(case: Case, *, classes: int = 3) -> tuple[nn.Module, segzoo.DynamicUnet]:
    """The same model in fastai and here, in eval mode."""
    theirs = fastai_unet(case, classes=classes)
    return theirs, segzoo.convert.from_fastai(theirs.state_dict(), **case.told)


def our_names(theirs: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by fastai's names -> the same by ours."""
    state = theirs.state_dict()
    return converter.rename(tensors, converter.key_rules(state, "fastai's model"))


@torch.no_grad()
def eval_difference(theirs: nn.Module, ours: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest absolute difference between the outputs."""
    image = torch.randn(shape)
    return float((plain(theirs(image)) - ours(image)).abs().max())


def step_difference(
    theirs: nn.Module, ours: nn.Module, shape: tuple[int, ...], *, steps: int = 2
) -> dict[str, float]:
    """Training steps: the largest difference of losses, gradients and buffers."""
    worst = 0.0
    for _ in range(steps):
        image = torch.randn(shape)
        mask = torch.randint(0, 3, (shape[0], *shape[2:]))
        losses = []
        for model in (theirs.train(), ours.train()):
            loss = nn.functional.cross_entropy(plain(model(image)), mask)
            loss.backward()
            losses.append(loss.item())
        worst = max(worst, abs(losses[0] - losses[1]))
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    buffers = our_names(theirs, dict(theirs.named_buffers()))
    ours_by_name = dict(ours.named_parameters())
    renamed = our_names(theirs, gradients)
    assert renamed.keys() == ours_by_name.keys()
    assert buffers.keys() == dict(ours.named_buffers()).keys()
    return {
        "loss": worst,
        "gradients": max(_gap(grad, ours_by_name[n].grad) for n, grad in renamed.items()),
        "buffers": max(_gap(buffers[n], buffer) for n, buffer in ours.named_buffers()),
    }


def _gap(a: Tensor, b: Tensor | None) -> float:
    assert b is not None
    return float((a.double() - b.double()).abs().max())


def plain(output: Tensor) -> Tensor:
    """Without fastai's subclass."""
    return output.as_subclass(Tensor)
