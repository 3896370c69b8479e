"""What is checked of every architecture alike; the tests of each call it with their own options."""

from __future__ import annotations

import copy
import itertools
import operator
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, fx, nn

import segzoo
from segzoo.convert import from_smp
from segzoo.convert.keymap import rename
from segzoo.convert.smp.architecture import converters
from segzoo.encoders import build_on_meta
from segzoo.errors import ConversionError
from segzoo.inference.optimize.trace import trace

from .helpers import randomise

#: Sizes that smp takes as well.
EVEN = ((64, 64), (96, 128))
#: Of both sides one that no stride divides.
ODD = (97, 64)


#: Architectures that join no tokens to their encoder's blocks, so that any encoder will do.
ON_ANY_ENCODER = tuple(
    sorted(
        name
        for name, kind in segzoo.ARCHITECTURES.items()
        if kind.wants(kind.config_class()).queries is None
    )
)


def randomise_all(model: nn.Module) -> nn.Module:
    """Random statistics, and weights and biases of norms that are neither one nor zero."""
    randomise(model)
    for module in model.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


def smp_model(kind: str, encoder: str = "resnet18", **arguments: Any) -> Any:
    """A model of smp in eval mode, with random weights."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **arguments)
    return randomise_all(model).eval()


@torch.no_grad()
def assert_same_logits(
    theirs: nn.Module,
    sizes: Sequence[tuple[int, int]] = EVEN,
    *,
    ours: Any = None,
    same_layout: bool = True,
) -> Any:
    """Convert, unless that is done, and compare to the bit; returns the converted model.

    Where maps do not lie in memory as theirs do, a processor may add up in another order.
    """
    ours = (from_smp(theirs) if ours is None else ours).eval()
    for size in sizes:
        image = torch.randn(1, 3, *size)
        found, expected = ours(image), theirs(image)
        if same_layout:
            assert torch.equal(found, expected), size
        limit = 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=limit)
    return ours


def assert_recognised(
    theirs: nn.Module,
    architecture: str,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    size: tuple[int, int] = (64, 96),
) -> None:
    """Tensors without a config tell which architecture they are of, and give its logits.

    Args:
        theirs: A model of smp.
        architecture: Ours.
        tensors: Those of the model under other names; None for its own.
        size: Of the image.
    """
    tensors = theirs.state_dict() if tensors is None else tensors
    fitting = [name for name, item in converters().items() if item.recognises(tensors)]
    assert fitting == [architecture]
    ours = from_smp(tensors)
    assert ours.architecture == architecture
    assert_same_logits(theirs, [size], ours=ours)


def assert_refused(theirs: nn.Module, config: dict[str, Any], message: str, *, needed: str) -> None:
    """Tensors are refused with a config that is not theirs, and without one that is needed.

    Args:
        theirs: A model of smp on ``tu-test_resnet``.
        config: What is said of it.
        message: How it is refused.
        needed: A tensor, without which the message names it.
    """
    kind, tensors = type(theirs).__name__, theirs.state_dict()
    given = {"encoder_name": "tu-test_resnet", "_model_class": kind, **config}
    with pytest.raises(ConversionError, match=message):
        from_smp(tensors, given)
    del tensors[needed]
    missing = f"no {kind} of segmentation_models_pytorch.* not the tensor {re.escape(needed)}"
    with pytest.raises(ConversionError, match=missing):
        from_smp(tensors, given)


def assert_same_step(
    theirs: nn.Module, architecture: str, *, backbone: str = "encoder.backbone."
) -> None:
    """One training step in float64: the same loss, gradients and running statistics.

    Nothing is dropped, which would not be the same cells in both.
    """
    theirs = theirs.double().train()
    ours = from_smp(theirs).train()
    for module in (*theirs.modules(), *ours.modules()):
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    image, target = torch.randn(2, 3, 64, 64).double(), torch.randint(0, 2, (2, 64, 64))
    for model in (theirs, ours):
        nn.functional.cross_entropy(model(image), target).backward()
    renames = converters()[architecture].renames(ours)
    rules = ((r"^encoder\.(?:model\.)?", backbone), *renames)
    expected = rename(dict(theirs.named_parameters()) | dict(theirs.named_buffers()), rules)
    compared = 0
    for name, value in (*ours.named_parameters(), *ours.named_buffers()):
        other = expected[name]
        if isinstance(value, nn.Parameter):
            value, other = value.grad, other.grad
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
        compared += 1
    assert compared > 60


class Maps(nn.Module):
    """An encoder of any strides: each map is made of the image by one convolution."""

    def __init__(self, *strides: int) -> None:
        super().__init__()
        self.features = tuple(segzoo.FeatureSpec(4 + i, s) for i, s in enumerate(strides))
        self.convs = nn.ModuleList(nn.Conv2d(3, 4 + i, s, stride=s) for i, s in enumerate(strides))

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        maps = []
        for conv, feature in zip(self.convs, self.features, strict=True):
            stride = feature.stride
            padded = nn.functional.pad(image, (0, -width % stride, 0, -height % stride))
            maps.append(conv(padded))
        return maps


class Chain(nn.Module):
    """An encoder of one convolution for each map, on the map before: few steps to be recorded."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        strides = itertools.accumulate(steps, operator.mul)
        self.features = tuple(segzoo.FeatureSpec(4 + i, s) for i, s in enumerate(strides))
        self.convs = nn.ModuleList(
            nn.Conv2d(inside, 4 + i, 3, stride=step, padding=1)
            for i, (inside, step) in enumerate(zip((3, 4, 5, 6, 7), steps, strict=False))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for conv in self.convs:
            maps.append(conv(maps[-1]).relu())
        return maps[1:]


#: Encoders of every kind that there is: deep and shallow, with a map at stride 1, without one at 2
#: and 4, with gaps between strides, flat ones of patch 8, 14 and 16, maps that are all alike.
ENCODERS: dict[str, Any] = {
    "strides 2 to 32": lambda: "test_resnet",
    "strides 4 to 32": lambda: "test_convnext",
    "strides 1 to 16": lambda: Maps(1, 2, 4, 8, 16),
    "strides 8 to 32": lambda: Maps(8, 16, 32),
    "strides 16 to 64": lambda: Maps(16, 32, 64),
    "strides 2, 8, 32": lambda: Maps(2, 8, 32),
    "strides 7, 14": lambda: Maps(7, 14),
    "stride 2": lambda: Maps(2),
    "stride 64": lambda: Maps(64),
    "two maps at stride 8": lambda: Maps(4, 8, 8),
    "vit, patch 16": lambda: "test_vit",
    "flat, patch 14": lambda: Maps(14, 14, 14, 14),
    "flat, patch 8": lambda: Maps(8, 8, 8, 8),
}


def assert_takes(architecture: type, encoder: str, **arguments: Any) -> None:
    """A kind of encoder works at odd sizes, and every weight after it is trained."""
    model = architecture(ENCODERS[encoder](), classes=2, **arguments).train()
    for size in (ODD, (33, 50)):
        assert model(torch.rand(2, 3, *size)).shape == (2, 2, *size)
    model(torch.rand(2, 3, *ODD)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.", "head.")):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


class Given(nn.Module):
    """A backbone whose answer is known: what is compiled around it is ours alone."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = list(maps)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [*self.maps]


def with_given_maps(model: Any, image: Tensor) -> Any:
    """A copy of a model in which the backbone's layers are left out, at one image."""
    fixed = copy.deepcopy(model)
    fixed.encoder.backbone = Given(model.encoder.backbone(model.encoder.size_rule.fit(image)))
    return fixed


def assert_everyday(model: Any, folder: Path, *, whole: bool = False) -> None:
    """Save, load, predict, copy, compile, optimize; run on the meta device.

    The backbone's layers are compiled with it where ``whole``, which takes seconds; they are
    timm's, and the same whatever comes after them.
    """
    randomise_all(model).eval()
    image = torch.rand(2, 3, *ODD)
    with torch.no_grad():
        logits = model(image)
        loaded = segzoo.from_pretrained(model.save_pretrained(folder))
        assert loaded.config == model.config
        assert torch.equal(loaded(image), logits)
        assert torch.equal(copy.deepcopy(model)(image), logits)
        source = model if whole else with_given_maps(model, image)
        compiled = torch.compile(source, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(image), logits, rtol=1e-4, atol=1e-4)
        fast = segzoo.optimize(model, backend="eager", example=image)
        assert isinstance(trace(model, image).decode, fx.GraphModule)
        other = torch.rand(1, 3, 70, 130)
        for size, plain in ((image, logits), (other, model(other))):
            roundings = max(1e-4, 1e-5 * plain.abs().max().item())  # grow with the largest logit
            torch.testing.assert_close(fast(size), plain, rtol=1e-4, atol=roundings)
    assert model.predict(image).shape == (2, *ODD)
    meta = build_on_meta(lambda: type(model)("test_resnet", classes=2)).eval()
    assert meta(torch.empty(1, 3, 70, 130, device="meta")).shape == (1, 2, 70, 130)


def assert_exported(model: Any, path: Path) -> None:
    """A file that is recorded at one size runs at others, an odd one and a tiny one too.

    In ONNX Runtime, and the odd one in OpenVINO as well.
    """
    segzoo.export(randomise_all(model).eval(), path, size=(64, 96))
    session = onnxruntime.InferenceSession(path)
    # OpenVINO takes such files too; where it is fast in bfloat16 it computes so unless told.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    for shape in ((1, 3, 128, 70), (3, 3, 97, 131), (2, 3, 33, 36)):
        image = torch.rand(shape)
        with torch.no_grad():
            expected = model(image)
        runs = [session.run(None, {"image": image.numpy()})]
        if shape[0] == 3:
            runs.append(compiled([image.numpy()]))
        for found in runs:
            torch.testing.assert_close(
                torch.from_numpy(found[0]),
                expected,
                rtol=1e-4,
                atol=1e-4 * float(expected.abs().max()),
            )


def assert_same_gradients(model: Any, **computing: Any) -> None:
    """What ``configure_training`` changes of a model, in float64, is not its loss and gradients."""
    model.double().train()
    image = torch.rand(2, 3, 64, 32, dtype=torch.float64)
    found = []
    for options in ({}, computing):
        model.zero_grad()
        model.configure_training(**options)
        loss = model(image).square().mean()
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def assert_supervised(model: Any, size: tuple[int, int] = ODD) -> None:
    """Each step that ``deep_supervision`` names gives logits that reach the weights behind it."""
    outputs = model.train().forward_heads(torch.rand(2, 3, *size))
    assert set(outputs.auxiliary) == set(model.config.deep_supervision)
    for logits in outputs.auxiliary.values():
        assert logits.shape == (2, model.classes, *size)
    sum(logits.square().mean() for logits in outputs.auxiliary.values()).backward()
    assert all(parameter.grad is not None for parameter in model.auxiliary_heads.parameters())
