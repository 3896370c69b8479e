"""The loops of docs/other-loops.md: each example there runs, learns, and scores exactly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import Tensor

import segzoo
from tests.helpers import tiny_unet

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
    names: dict[str, object] = {
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


RANK = """
from tests.helpers import tiny_unet
from tests.training.test_other_loops import Squares, example
names = {"model": tiny_unet(classes=2), "train": Squares(), "val": Squares(), "epochs": 1}
text = example("Lightning").replace("max_epochs", "devices=2, strategy='ddp', max_epochs")
exec(compile(text.replace('"auto"', '"cpu"'), "Lightning", "exec"), names)
assert (names["scores"].images, names["scores"].pixels) == (7, 7 * 22 * 24)
"""


@pytest.mark.usefixtures("_lightning")
def test_lightning_on_two_ranks_counts_each_image_once(tmp_path):
    """Seven images on two ranks: its sampler gives one of them twice."""
    on_two_ranks(RANK, tmp_path)


ONE_MODEL = """
import torch
from accelerate.utils import gather_object
import segzoo
from tests.helpers import tiny_unet
from tests.training.test_other_loops import Squares, example
names = {"model": tiny_unet(classes=2), "train": Squares(), "val": Squares(), "epochs": 1}
exec(compile(example("Accelerate"), "Accelerate", "exec"), names)
assert names["accelerator"].num_processes == 2
# Each rank has seen other images; what they score together is the model of either.
assert len(set(gather_object([sum(float(item.sum()) for item in names["model"].buffers())]))) == 1
alone = segzoo.evaluate(names["model"], Squares(), ignore_index=255)
assert abs(names["scores"].confusion - alone.confusion).max() <= 2
"""


def test_accelerate_scores_one_model_on_two_ranks(tmp_path):
    pytest.importorskip("accelerate")
    on_two_ranks(ONE_MODEL, tmp_path, ACCELERATE_USE_CPU="true")


def on_two_ranks(text: str, folder: Path, **environment: str) -> None:
    """Run a script in two processes."""
    script = folder / "rank.py"
    script.write_text(text)
    root = str(PAGE.parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
