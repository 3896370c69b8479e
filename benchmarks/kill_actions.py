"""What is killed in ``benchmarks.kills``: each action in a process that was forked for it."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import segzoo
from segzoo.cli import main
from segzoo.storage import transfer

#: Sides of the pictures that are segmented, and how many there are.
_PICTURE, PICTURES = (96, 128), 6
_REPO = "user/{}"
NAMES = {2: ("road", "rest"), 3: ("sky", "sea", "land")}


def context() -> Any:
    """Where processes are forked from: one that has imported everything."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["benchmarks.kill_actions", "segzoo.training.train"])
    return found


def marked(classes: int) -> segzoo.Unet:
    """A model whose weights say how many classes it has, so that a mixture is recognised."""
    torch.manual_seed(0)
    model = segzoo.Unet(
        "test_resnet",
        classes=classes,
        class_names=NAMES[classes],
        decoder_channels=(16, 8, 8, 8, 8),
    ).eval()
    nn.init.constant_(model.head.conv.bias, classes)
    return model


def whole(name: str | os.PathLike[str], **options: Any) -> int | None:
    """The classes of the model that is there, or None for none.

    Raises:
        SegzooError: It cannot be loaded.
        AssertionError: Its config and its weights are of two models.
    """
    if isinstance(name, Path) and not any(name.glob("[!.]*")):
        return None
    model = segzoo.from_pretrained(name, **options)
    assert torch.equal(model.head.conv.bias, torch.full((model.classes,), float(model.classes)))
    assert model.class_names == NAMES[model.classes]
    return model.classes


def leftovers(folder: Path) -> int:
    """Hidden files in a folder and its subfolders."""
    return sum(path.is_file() for path in folder.rglob(".*"))


@contextlib.contextmanager
def quiet() -> Any:
    """Without what commands print."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def save(begun: Event, folder: Path, classes: int) -> None:
    """Save a model over another one."""
    model = marked(classes)
    begun.set()
    model.save_pretrained(folder, card=segzoo.ModelCard(license="mit"))


def push(begun: Event, repo_id: str, classes: int) -> None:
    """Push a model over another one."""
    model = marked(classes)
    begun.set()
    with quiet():
        model.push_to_hub(repo_id)


def pull(begun: Event, repo_id: str, folder: Path) -> None:
    """Pull a model over another one, without what was downloaded before."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache, quiet():
        begun.set()
        transfer.pull(repo_id, folder, cache_dir=cache)


def predict(begun: Event, pictures: Path, model: Path, out: Path) -> None:
    """Segment what is missing of a folder."""
    torch.set_num_threads(1)
    begun.set()
    with quiet():
        code = main(["predict", str(pictures), "-m", str(model), "-o", str(out), "--skip-existing"])
    assert code == 0


def convert(begun: Event, checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint of another library over a model."""
    begun.set()
    with quiet():
        code = main(["convert", "smp", str(checkpoint), str(out)])
    assert code == 0


def make_pictures(folder: Path) -> None:
    """Pictures of noise."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for i in range(PICTURES):
        values = chance.integers(0, 256, (*_PICTURE, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")


def make_checkpoint(path: Path) -> None:
    """A folder of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    model = smp.Unet(
        "resnet18", encoder_weights=None, classes=3, decoder_channels=(16, 16, 8, 8, 8)
    )
    with torch.no_grad():
        model.segmentation_head[0].bias.fill_(3.0)
    model.save_pretrained(path)


Action = Callable[..., None]
