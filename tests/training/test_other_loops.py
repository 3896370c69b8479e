"""The loops of docs/other-loops.md: each example there runs, learns, and scores exactly."""

from __future__ import annotations

import os
import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor

import segzoo

from .. import forking
from ..helpers import tiny_unet

PAGE = Path(__file__).parents[2] / "docs" / "other-loops.md"
#: Later ones than these carried malware in two releases (GHSA-w37p-236h-pfx3).
LIGHTNING = Version("2.6.4")


class Squares:
    """Bright squares on dark ground: a few steps are enough to learn them."""

    names = tuple(f"square {i}" for i in range(7))

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        mask = torch.zeros(24, 24, dtype=torch.long)
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        mask[top : top + 12, left : left + 12] = 1
        noise = torch.randint(0, 60, (3, 24, 24), generator=generator)
        image = (mask * 150 + noise).to(torch.uint8)
        mask[:2] = 255
        return image, mask


def example(library: str) -> str:
    """The block of Python below the heading of a library."""
    text = PAGE.read_text()
    found = re.search(rf"^## {library}\n.*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{PAGE.name} has no example for {library}"
    return found[1]


def run(library: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the example leaves, run on a small model and small data, three epochs long."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "model": tiny_unet(classes=2), "train": Squares(), "val": Squares(), "epochs": 3,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their own
        exec(compile(example(library), f"{PAGE.name}: {library}", "exec"), names)
    return names


def check(names: dict[str, object]) -> None:
    """The model has learned, and the scores are those of segzoo.evaluate."""
    model, scores = names["model"], names["scores"]
    assert isinstance(scores, segzoo.Scores)
    assert scores.images == 7
    assert scores.pixels == 7 * 22 * 24
    expected = segzoo.evaluate(model, Squares(), ignore_index=255)
    # Whole batches and single images may differ in the last bit of a float, so in a pixel.
    assert abs(scores.confusion - expected.confusion).max() <= 2
    untrained = segzoo.evaluate(tiny_unet(classes=2), Squares(), ignore_index=255)
    assert scores.miou > max(0.6, untrained.miou + 0.1)


def test_accelerate(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    check(run("Accelerate", tmp_path, monkeypatch))


def test_hugging_face_trainer(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    check(run("Hugging Face Trainer", tmp_path, monkeypatch))


@pytest.fixture
def _lightning() -> None:
    try:
        installed = Version(version("lightning"))
    except PackageNotFoundError:
        pytest.skip("lightning is not installed")
    if installed < LIGHTNING:
        pytest.skip(f"lightning {installed} is older than {LIGHTNING}")


@pytest.mark.usefixtures("_lightning")
def test_lightning(tmp_path, monkeypatch):
    check(run("Lightning", tmp_path, monkeypatch))


def by_lightning(folder: Path) -> None:
    """One of two ranks: its sampler gives one of the seven images twice."""
    text = example("Lightning").replace("max_epochs", "devices=2, strategy='ddp', max_epochs")
    scores = on_this_rank(text.replace('"auto"', '"cpu"'), "Lightning", folder)["scores"]
    assert (scores.images, scores.pixels) == (7, 7 * 22 * 24)


@pytest.mark.usefixtures("_lightning")
def test_lightning_on_two_ranks_counts_each_image_once(tmp_path):
    forking.on_ranks(by_lightning, tmp_path, needs="lightning")


def by_accelerate(folder: Path) -> None:
    """One of two ranks, which have seen other images; what they score is the model of either."""
    from accelerate.utils import gather_object

    names = on_this_rank(example("Accelerate"), "Accelerate", folder)
    assert names["accelerator"].num_processes == 2
    model, found = names["model"], names["scores"]
    assert len(set(gather_object([sum(float(item.sum()) for item in model.buffers())]))) == 1
    alone = segzoo.evaluate(model, Squares(), ignore_index=255)
    assert abs(found.confusion - alone.confusion).max() <= 2


def test_accelerate_scores_one_model_on_two_ranks(tmp_path):
    pytest.importorskip("accelerate")
    forking.on_ranks(by_accelerate, tmp_path, needs="accelerate.utils", ACCELERATE_USE_CPU="true")


def on_this_rank(text: str, library: str, folder: Path) -> dict[str, Any]:
    """What an example leaves in a process that is a rank, after one epoch."""
    os.chdir(folder)
    names = {"model": tiny_unet(classes=2), "train": Squares(), "val": Squares(), "epochs": 1}
    exec(compile(text, library, "exec"), names)
    return names
