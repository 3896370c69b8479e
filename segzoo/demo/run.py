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
from .figure import draw_result, require_matplotlib
from .scene import Scene, coins_scene
from .training import train

#: Enough for an IoU above 0.95 on the coins; benchmarks/demo_iou.py measures it.
STEPS = 80
#: Learning rates fall by this towards the image where the encoder has learned already.
PRETRAINED_SCALE = 0.3


@dataclass(frozen=True)
class DemoResult:
    """What a run of the demo found.

    Attributes:
        iou: Intersection over union on the right third, which was not trained on: the mean over
            the classes after the first (the background), for the coins simply that of the coins.
        class_iou: The same for each class by its name; None where neither truth nor prediction
            show it.
        identical: Whether the model loaded from its folder gave the same mask, bit for bit.
        losses: The training loss at each step.
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

    The right third is segmented in one piece, at its own size. The model is saved, loaded again,
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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Unet(
            encoder, classes=scene.classes, pretrained=pretrained, class_names=scene.class_names
        ).to(target)
        losses = train(
            model,
            scene.left(),
            steps=steps,
            encoder_scale=PRETRAINED_SCALE if pretrained else 1.0,
            seed=seed,
            progress=progress,
        )
    unseen = scene.right()
    mask = model.predict(unseen.photo).cpu()
    saved = model.save_pretrained(folder / "model")
    again = from_pretrained(saved).to(target).predict(unseen.photo).cpu()
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
        losses=losses,
        encoder=model.encoder.name,
        seed=seed,
        seconds=wall,
        cpu_seconds=cpu,
        model_folder=saved,
        mask=write_mask(folder / "mask.png", mask, classes=scene.classes),
        picture=draw_result(folder / "demo.png", scene, mask, title=title),
    )


def class_iou(mask: Tensor, truth: Tensor, classes: int) -> tuple[float | None, ...]:
    """Intersection over union of each class; None where both have none of it.

    >>> class_iou(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    (0.5, 0.6666666666666666, None)
    """
    found = []
    for index in range(classes):
        predicted, true = mask == index, truth == index
        union = int((predicted | true).sum())
        found.append(int((predicted & true).sum()) / union if union else None)
    return tuple(found)
