"""Models and inputs that several tests share."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy
import pytest
import timm
import torch
from packaging.version import Version
from torch import Tensor, nn

import segzoo

Item = TypeVar("Item")
Result = TypeVar("Result")

#: timm 1.0.31 gives the maps of CoaT and CrossViT, RegNet with an output stride, the strides that
#: PiT has, and tells the files of Swin without their classifier from those of its authors.
NEWER_TIMM = Version(timm.__version__) >= Version("1.0.31")
needs_timm_1_0_31 = pytest.mark.skipif(not NEWER_TIMM, reason="needs timm 1.0.31")


def skip_without_interpreter() -> None:
    """End a test where Triton, or its interpreter, cannot be used."""
    triton = pytest.importorskip("triton")
    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            int(numpy.array([1]))  # so it reads the bounds of loops
        except (TypeError, DeprecationWarning):
            pytest.skip(
                f"the interpreter of Triton {triton.__version__} cannot read the bounds of loops "
                f"with NumPy {numpy.__version__}, that of Triton 3.8 can"
            )


def shown(value: object) -> str:
    """The id of a parameter: of functions the name, for an address differs from run to run."""
    return getattr(value, "__qualname__", str(value))


class TinyBackbone(nn.Module):
    """Two maps, strides 2 and 4; quick to build and to run."""

    features = (segzoo.FeatureSpec(4, 2), segzoo.FeatureSpec(8, 4))

    def __init__(self, in_channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(in_channels, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        return [fine, self.coarse(fine)]


def tiny_unet(**arguments: object) -> segzoo.Unet:
    """A Unet of a few hundred weights."""
    bands = int(arguments.get("in_channels", 3))
    return segzoo.Unet(TinyBackbone(bands), **{"classes": 3, **arguments})


@functools.lru_cache(maxsize=1)
def reference() -> segzoo.Unet:
    """The reference model in eval mode, built once; do not change it."""
    torch.manual_seed(0)
    model = segzoo.Unet("resnet34", classes=3)
    randomise(model)
    return model.eval()


def randomise(model: nn.Module) -> None:
    """BatchNorm statistics that a mistake cannot hide behind."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)


def assert_same_tensors(model: nn.Module, expected: nn.Module) -> None:
    """Weights, statistics and tables are the same to the bit, those that are not saved too."""
    wanted, found = (
        {**dict(item.named_parameters()), **dict(item.named_buffers())}
        for item in (expected, model)
    )
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def assert_near(found: Tensor, expected: Tensor) -> None:
    """The same logits, where torch may add them up in another order.

    Two models with the same weights need not give the same last bits: a matrix product is computed
    by one function or another as its factors lie in memory, and as they need gradients or not.
    """
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * largest)


def ready(model: nn.Module) -> nn.Module:
    """The model in eval mode, with statistics that a mistake cannot hide behind."""
    randomise(model)
    return model.eval()


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = 8
) -> list[Result]:
    """What a function gives for each item, in several threads at once."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def close_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nobody may read folders of that name any more, not even the superuser."""

    def close(owner: object, ask: str) -> None:
        real = getattr(owner, ask)

        def answer(path: str | os.PathLike[str]) -> object:
            if str(path).endswith(name):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(owner, ask, answer)

    close(os, "scandir")
    close(os, "listdir")
    close(Path, "iterdir")  # which keeps a listdir of its own in Python 3.10
