"""The same small trials on segzoo and on every rival that is installed.

    python -m benchmarks.rivals

A rival that is not installed is left out; ``pip install segmentation-models-pytorch torchseg
fastai monai`` brings them all. Nothing is downloaded: all models have random weights.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import segzoo
from benchmarks.common import write_result

Build = Callable[..., nn.Module]


def _segzoo(encoder: str = "resnet34", bands: int = 3, **extra: Any) -> nn.Module:
    return segzoo.Unet(encoder, classes=3, in_channels=bands, **extra)


def _smp(encoder: str = "resnet34", bands: int = 3, **extra: Any) -> nn.Module:
    smp = importlib.import_module("segmentation_models_pytorch")
    name = encoder if encoder == "resnet34" else f"tu-{encoder}"
    return smp.Unet(name, encoder_weights=None, classes=3, in_channels=bands, **extra)


def _torchseg(encoder: str = "resnet34", bands: int = 3, **extra: Any) -> nn.Module:
    torchseg = importlib.import_module("torchseg")
    return torchseg.Unet(encoder, encoder_weights=None, classes=3, in_channels=bands, **extra)


def _fastai(encoder: str = "resnet34", bands: int = 3, **extra: Any) -> nn.Module:
    learner = importlib.import_module("fastai.vision.learner")
    models = importlib.import_module("torchvision.models")
    return learner.create_unet_model(
        getattr(models, encoder, encoder), 3, (256, 256), pretrained=False, n_in=bands, **extra
    )


def _monai(encoder: str = "resnet34", bands: int = 3, **extra: Any) -> nn.Module:
    nets = importlib.import_module("monai.networks.nets")
    return nets.FlexibleUNet(bands, 3, encoder, pretrained=False, **extra)


#: The distribution's name, and how it builds a U-Net.
LIBRARIES: dict[str, tuple[str, Build]] = {
    "segzoo": ("segzoo", _segzoo),
    "smp": ("segmentation-models-pytorch", _smp),
    "torchseg": ("torchseg", _torchseg),
    "fastai": ("fastai", _fastai),
    "MONAI": ("monai", _monai),
}


@torch.no_grad()
def _runs(model: nn.Module, image: Tensor) -> bool:
    return tuple(model.eval()(image).shape) == (1, 3, *image.shape[-2:])


def odd_size(build: Build) -> bool:
    """U-Net with a resnet34 on an image of 250x317, no options given"""
    return _runs(build(), torch.rand(1, 3, 250, 317))


def thirteen_bands(build: Build) -> bool:
    """13 bands"""
    return _runs(build(bands=13), torch.rand(1, 13, 256, 256))


def plain_vit(build: Build) -> bool:
    """A plain vision transformer (`vit_tiny_patch16_224`) as its encoder, no options given"""
    return _runs(build("vit_tiny_patch16_224"), torch.rand(1, 3, 224, 224))


def stem_of_four(build: Build) -> bool:
    """An encoder whose stem has stride 4 (`convnext_atto`), at 250x317"""
    return _runs(build("convnext_atto"), torch.rand(1, 3, 250, 317))


def typo(build: Build) -> bool:
    """A misspelt keyword argument is an error"""
    try:
        build(clases=5)
    except Exception:
        return True
    return False


def freezing(build: Build) -> bool | str:
    """A frozen encoder's BatchNorm statistics stand still in training mode"""
    model = build()
    if not hasattr(model, "freeze_encoder"):
        return "no such method"
    model.freeze_encoder()
    model.train()
    before = [buffer.clone() for buffer in model.encoder.buffers()]
    model(torch.rand(2, 3, 64, 64))
    after = list(model.encoder.buffers())
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.no_grad()
def frozen_eval(build: Build) -> bool | str:
    """A frozen encoder with drop-path gives the same output twice in eval mode"""
    if not hasattr(build(), "freeze_encoder"):
        return "no such method"
    options = {"drop_path_rate": 0.9}
    extra = {"encoder_options": options} if build is _segzoo else options
    model: Any = build("convnext_atto", **extra)
    model.freeze_encoder()
    image = torch.rand(1, 3, 64, 64)
    return torch.equal(model.eval()(image), model(image))


TRIALS = (odd_size, stem_of_four, plain_vit, thirteen_bands, typo, freezing, frozen_eval)


def attempt(trial: Callable[[Build], bool | str], build: Build) -> str:
    """``yes``, ``no``, a word of the trial's own, or the error that came instead."""
    torch.manual_seed(0)
    try:
        result = trial(build)
        return result if isinstance(result, str) else "yes" if result else "no"
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return f"no: {type(error).__name__}: {first[:120]}"


def main() -> None:
    """Try everything and write the record."""
    warnings.simplefilter("ignore")
    versions, builds = {}, {}
    for name, (package, build) in LIBRARIES.items():
        try:
            versions[name] = version(package)
        except ImportError:
            print(f"{name} is not installed and is left out: pip install {package}")
        else:
            builds[name] = build
    trials = {
        str(trial.__doc__): {name: attempt(trial, build) for name, build in builds.items()}
        for trial in TRIALS
    }
    print(json.dumps(trials, indent=1))
    write_result("rivals", {"versions": versions, "trials": trials})


if __name__ == "__main__":
    main()
