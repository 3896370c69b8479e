"""The demo itself, from photograph to picture of the result."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import checks
from ..architectures.base import from_pretrained
from ..architectures.unet import Unet
from ..data.drawing import write_mask
from ..devices import choose_device
from ..files.atomic import make_folder
from ..training.recipe import Recipe
from ..training.scores import ScoreMeter
from ..training.train import train
from .figure import draw_result, require_matplotlib
from .scene import Scene, coins_scene

#: Enough for an IoU above 0.95 on the coins; benchmarks/demo_iou.py measures it.
STEPS = 80
#: Crops in each step, and their side in pixels.
BATCH, CROP = 8, 128
#: The steps are divided into at most so many epochs.
_EPOCHS = 4


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo found.

    Attributes:
        iou: Intersection over union on the right third, which was not trained on: the mean over
            the classes after the first (the background), for the coins simply that of the coins.
        class_iou: The same for each class by its name; None where neither truth nor prediction
            show it.
        identical: Whether the model loaded from its folder gave the same mask, bit for bit.
        steps: Training steps.
        losses: The mean training loss of each epoch, equal parts of the training.
        encoder: The full name of the encoder.
        seed: The seed of weights and crops.
        seconds: Wall time of training, evaluation, saving and loading.
        cpu_seconds: Processor time of the same, over all cores.
        model_folder: The saved model.
        mask: The predicted mask of the right third, a palette PNG.
        picture: Photograph, truth, prediction and error map in one PNG.
    """

    iou: float
    class_iou: dict[str, float | None]
    identical: bool
    steps: int
    losses: tuple[float, ...]
    encoder: str
    seed: int
    seconds: float
    cpu_seconds: float
    model_folder: Path
    mask: Path
    picture: Path


def run_demo(
    scene: Scene | None = None,
    *,
    out: str | os.PathLike[str] = "demo-output",
    encoder: str = "resnet34",
    pretrained: bool = False,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> DemoResult:
    """Train a U-Net on the left two thirds of a photograph and judge it on the right third.

    It is a call of :func:`segzoo.train`: the model is chosen by its scores on the left, and the
    right third is segmented once, in one piece, at its own size. The saved model is loaded again,
    and both masks are compared. The global random state is left as it was.

    Args:
        scene: A photograph with its mask; None for :func:`coins_scene`.
        out: Folder for ``model/``, ``mask.png`` and ``demo.png``, made where it is missing.
        encoder: A name of :func:`segzoo.list_encoders`.
        pretrained: Start from timm's weights, which have to be downloaded once.
        steps: Training steps of 8 crops of 128x128 pixels, 2 or more.
        seed: Seed of weights and crops; 0 or more.
        device: A device of torch, or ``auto``.
        progress: Show a bar on stderr.

    Raises:
        MissingPackageError: matplotlib, or for the coins scikit-image, is not installed.
        ArgumentError: An argument out of its range, an unknown encoder or device.
        StorageError: The folder cannot be written.
    """
    checks.integer("steps", steps, minimum=2, maximum=1_000_000)
    checks.integer("seed", seed, minimum=0, maximum=2**63 - 1)
    target = choose_device(device)
    require_matplotlib()
    scene = coins_scene() if scene is None else scene
    folder = make_folder(out)
    wall, cpu = time.perf_counter(), time.process_time()
    left, unseen = scene.left(), scene.right()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Unet(
            encoder, classes=scene.classes, pretrained=pretrained, class_names=scene.class_names
        )
    trained = train(
        model,
        (Shown(left, steps // epochs_of(steps) * BATCH), Shown(left, 1)),
        out=folder / "model",
        recipe=recipe(left, steps=steps, seed=seed),
        device=device,
        restart=True,
        progress=progress,
    )
    mask = model.predict(unseen.photo).cpu()
    again = from_pretrained(trained.out).to(target).predict(unseen.photo).cpu()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    by_class = class_iou(mask, unseen.truth, scene.classes)
    foreground = [value for value in by_class[1:] if value is not None]
    iou = sum(foreground) / len(foreground)
    title = (
        f"U-Net on {encoder}, {steps} steps from {'pretrained' if pretrained else 'random'} "
        f"weights: IoU {iou:.3f} on the third it never saw"
    )
    return DemoResult(
        iou=iou,
        class_iou=dict(zip(scene.class_names, by_class, strict=True)),
        identical=torch.equal(mask, again),
        steps=steps,
        losses=tuple(row["loss"] for row in trained.history),
        encoder=model.encoder.name,
        seed=seed,
        seconds=wall,
        cpu_seconds=cpu,
        model_folder=trained.out,
        mask=write_mask(folder / "mask.png", mask, classes=scene.classes),
        picture=draw_result(folder / "demo.png", scene, mask, title=title),
    )


def class_iou(mask: Tensor, truth: Tensor, classes: int) -> tuple[float | None, ...]:
    """Intersection over union of each class; None where both have none of it.

    >>> class_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]]), 3)
    (0.5, 0.6666666666666666, None)
    """
    meter = ScoreMeter(classes, boundaries=False)
    meter.update(mask[None], truth[None])
    return meter.compute().iou


@dataclass(frozen=True)
class Shown:
    """A scene as a dataset that shows it again and again: every crop of it is another one.

    Attributes:
        scene: The photograph with its truth.
        times: How often.
    """

    scene: Scene
    times: int

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.times:
            raise IndexError(index)
        return self.scene.photo, self.scene.truth


def recipe(scene: Scene, *, steps: int, seed: int) -> Recipe:
    """Crops of a scene, mirrored both ways."""
    height, width = scene.truth.shape
    return Recipe(
        epochs=epochs_of(steps),
        batch_size=BATCH,
        crop=(min(CROP, height), min(CROP, width)),
        vflip=True,
        seed=seed,
    )


def epochs_of(steps: int) -> int:
    """Into how many equal parts the steps are divided."""
    return max(count for count in range(1, _EPOCHS + 1) if steps % count == 0)
