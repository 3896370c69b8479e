"""CamVid by ``segzoo.train``, by smp's Unet in the same loop and as its example does, by fastai.

    SEGZOO_CAMVID=folder python -m benchmarks.camvid_training
    SEGZOO_CAMVID=folder python -m benchmarks.camvid_training --epochs 30 --systems segzoo

From random weights at 90x120, scored on the validation masks at their full size: eleven classes,
void neither learned nor scored, all pixels pooled. :mod:`benchmarks.camvid` says what the folder
holds. fastai trains its own way (float32, cross-entropy, Adam, one cycle) for as many epochs as go
into the processor seconds that segzoo took for the same seed. One thread. The two that go
through segzoo's loop compute in the precision that ``auto`` chooses here; the record says which.
Every run is written down when it ends, and a second call goes on with what is missing.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import Tensor, nn

import segzoo
from segzoo.data.dataset import SegmentationData
from segzoo.training import loaders
from segzoo.training.kept import Kept, room_for_pairs
from segzoo.training.learner import Learner, Settled
from segzoo.training.order import Order
from segzoo.training.precision import chosen
from segzoo.training.processes import Processes
from segzoo.training.schedule import OneCycle
from segzoo.training.validate import Validator

from . import camvid
from .common import write_result, written

NAME = "camvid_training"
ENCODER, SIZE, VOID = "resnet10t", (90, 120), camvid.VOID
CLASSES = camvid.CLASSES - 1
BATCH = 8
SYSTEMS = ("segzoo", "smp", "smp, its example", "fastai")
#: fastai's steps that are timed before its epochs are chosen.
_TIMED = 6


def recipe(epochs: int, seed: int) -> segzoo.Recipe:
    """The defaults, but for size and rate."""
    return segzoo.Recipe(epochs=epochs, size=SIZE, learning_rate=3e-3, seed=seed)


@functools.cache
def data() -> segzoo.DataSplits:
    """CamVid as two splits of files."""
    return segzoo.open_data(camvid.folder(), classes=CLASSES, ignore_index=VOID)


def in_memory(split: SegmentationData, *, masks: bool) -> Kept:
    """A split as segzoo's own loop reads it: each file once."""
    return Kept(split, split, size=SIZE, masks=masks, limit=room_for_pairs(0))


def validator(values: segzoo.Recipe, precision: str) -> Validator:
    """Scores on the validation split, at the masks' size."""
    return Validator(
        in_memory(data().val, masks=False),
        Processes("cpu"),
        classes=CLASSES,
        class_names=None,
        ignore_index=VOID,
        size=SIZE,
        batch_size=BATCH,
        workers=0,
        precision=precision,
        channels_last=values.channels_last,
    )


def train_segzoo(epochs: int, seed: int) -> dict[str, Any]:
    """``segzoo.train`` as anybody calls it."""
    torch.manual_seed(seed)
    model = segzoo.Unet(ENCODER, classes=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = segzoo.train(
            model, data(), out=Path(folder) / "model", recipe=recipe(epochs, seed), device="cpu"
        )
        seconds = time.process_time() - start
    curve = [row["val"]["miou"] for row in result.history]
    return described(result.scores, curve, epochs, seconds)


class Foreign(nn.Module):
    """A model of another library with what a loop asks of one of ours.

    Args:
        inner: Takes normalised images, gives logits.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        encoder = segzoo.create_encoder(ENCODER)
        self.normalization = encoder.normalization
        self.config = SimpleNamespace(
            deep_supervision=(), auxiliary_stride=None, classification=None
        )
        self.in_channels, self.base_model = 3, None
        self.classes, self.threshold = CLASSES, 0.0
        self.encoder = SimpleNamespace(
            frozen_stages=0, features=encoder.features, began_pretrained=False
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.inner(image)
        return logits

    def unfreeze_encoder(self) -> None:
        """Nothing is frozen."""

    def parameter_groups(self, lr: float, *, encoder_scale: float) -> list[dict[str, Any]]:
        """One rate for all."""
        return [{"name": "all", "params": list(self.parameters()), "lr": lr}]


def train_smp(epochs: int, seed: int) -> dict[str, Any]:
    """smp's Unet on the same encoder, through the same steps, batches and scores."""
    model, values = smp_model(seed), recipe(epochs, seed)
    processes = Processes("cpu")
    settled = Settled(BATCH, values.learning_rate, chosen("auto", processes.device))
    learner = Learner(model, values, settled, processes, ignore_index=VOID)
    learner.begin(frozen=False)
    cycle = OneCycle(epochs * order(seed).batches, values.warmup)

    def step(number: int, batch: tuple[Tensor, Tensor]) -> None:
        learner.update([batch], *cycle.at(number))

    return steps_taken(model, step, epochs, seed, precision=settled.precision)


def train_example(epochs: int, seed: int) -> dict[str, Any]:
    """The same, learning as smp's example of CamVid does: Dice, Adam at 2e-4, cosine to 1e-5.

    The example takes void for a class of its own; here it is left out as everywhere. Size, batches
    and mirroring are ours.
    """
    import segmentation_models_pytorch as smp

    model = smp_model(seed)
    loss_of = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=VOID)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, epochs * order(seed).batches, eta_min=1e-5
    )

    def step(number: int, batch: tuple[Tensor, Tensor]) -> None:
        image = model.normalization(batch[0]).contiguous(memory_format=torch.channels_last)
        loss_of(model(image), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    return steps_taken(model, step, epochs, seed, precision="float32")


def smp_model(seed: int) -> Any:
    """smp's Unet with random weights."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(seed)
    model = Foreign(smp.Unet(f"tu-{ENCODER}", encoder_weights=None, classes=CLASSES))
    return model.to(memory_format=torch.channels_last)


def order(seed: int) -> Order:
    """Which image comes when."""
    return Order(len(data().train), BATCH, seed=seed)


def steps_taken(
    model: Any,
    step: Callable[[int, tuple[Tensor, Tensor]], None],
    epochs: int,
    seed: int,
    *,
    precision: str,
) -> dict[str, Any]:
    """Train by steps, judge after each epoch in that precision, and score the best."""
    values, batches = recipe(epochs, seed), order(seed)
    stream = loaders.batches(
        in_memory(data().train, masks=True),
        values,
        batches,
        process=0,
        start=(0, 0),
        epochs=epochs,
        workers=0,
        ignore_index=VOID,
        pin_memory=False,
    )
    judge = validator(values, precision)
    curve, best, kept = [], -1.0, {}
    torch.manual_seed(seed)
    start = time.process_time()
    for epoch in range(epochs):
        model.train()
        for batch in range(batches.batches):
            step(epoch * batches.batches + batch, next(stream))
        curve.append(judge(model).miou)
        if curve[-1] > best:
            best = curve[-1]
            kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    scores = judge(model, fully=True)
    return described(scores, curve, epochs, time.process_time() - start)


def train_fastai(seconds: float, seed: int) -> dict[str, Any]:
    """``unet_learner`` for as many epochs as go into the seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        import_module("fastai.callback.schedule")  # it gives fastai's learner fit_one_cycle
        from fastai.torch_core import set_seed

    set_seed(seed, reproducible=True)
    learn = fastai_learner()
    batches = len(learn.dls.train)
    start = time.process_time()
    for number, batch in zip(range(_TIMED + 1), learn.dls.train, strict=False):
        if number == 1:  # the first one warms up
            start = time.process_time()
        learn.loss_func(learn.model(batch[0]), batch[1]).backward()
    step = (time.process_time() - start) / _TIMED
    epochs = max(1, round(seconds / (step * batches * 1.2)))  # a fifth goes to its validation
    set_seed(seed, reproducible=True)
    learn = fastai_learner()
    start = time.process_time()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-3)
    taken = time.process_time() - start
    learn.model.eval()
    model: Any = Foreign(Plain(learn.model))
    scores = validator(recipe(1, 0), "float32")(model)
    return described(scores, [], epochs, taken)


class Plain(nn.Module):
    """fastai's model, without the subclasses of tensors that it gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.inner(image).as_subclass(Tensor)
        return logits


def fastai_learner() -> Any:
    """The same pictures at the same size, mirrored at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.data.block import DataBlock
        from fastai.data.transforms import FuncSplitter, Normalize
        from fastai.losses import CrossEntropyLossFlat
        from fastai.vision.augment import Flip, Resize, ResizeMethod
        from fastai.vision.core import imagenet_stats
        from fastai.vision.data import ImageBlock, MaskBlock
        from fastai.vision.learner import unet_learner

    root = camvid.folder()
    masks = dict(pair for split in ("train", "val") for pair in camvid.pairs(root, split))
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=[str(i) for i in range(CLASSES)])),
        get_items=lambda _: list(masks),
        get_y=lambda path: masks[path],
        splitter=FuncSplitter(lambda path: path.parent.parent.name == "val"),
        item_tfms=Resize(SIZE, method=ResizeMethod.Squish),
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
    )
    dls = block.dataloaders(root, bs=8, num_workers=0)
    arch = functools.partial(timm.create_model, ENCODER)
    return unet_learner(
        dls,
        arch,
        pretrained=False,
        normalize=False,
        n_out=CLASSES,
        loss_func=CrossEntropyLossFlat(axis=1, ignore_index=VOID),
    )


#: fastai is told how long, not how many epochs.
TRAINERS = {"segzoo": train_segzoo, "smp": train_smp, "smp, its example": train_example}


def described(
    scores: segzoo.Scores, curve: list[Any], epochs: int, seconds: float
) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "epochs": epochs,
        "cpu_seconds": round(seconds, 1),
        "miou": round(scores.miou or 0, 4),
        "pixel_accuracy": round(scores.pixel_accuracy or 0, 4),
        "curve": [round(value, 4) for value in curve],
    }


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The record: all runs, and their means by system and length."""
    summary = [
        {"system": system, "epochs_of_segzoo": length, **found}
        for system, length, found in camvid.summarised(runs, SYSTEMS, "length")
    ]
    return {
        "encoder": ENCODER,
        "size": list(SIZE),
        "recipe": json.loads(recipe(10, 0).to_json()),
        "precision": chosen("auto", torch.device("cpu")),
        "summary": summary,
        "runs": runs,
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of fastai
    runs = list(written(NAME, of_each_kind=True).get("runs", []))
    for seed in range(arguments.seeds):
        for system in arguments.systems:
            key = (system, arguments.epochs, seed)
            if key in {(run["system"], run["length"], run["seed"]) for run in runs}:
                continue
            if system == "fastai":
                ours = [
                    r for r in runs if (r["system"], r["length"], r["seed"]) == ("segzoo", *key[1:])
                ]
                if not ours:
                    print(f"fastai, seed {seed}: segzoo's run says how long, and is not there")
                    continue
                found = train_fastai(ours[0]["cpu_seconds"], seed)
            else:
                found = TRAINERS[system](arguments.epochs, seed)
            runs.append({"system": system, "length": arguments.epochs, "seed": seed, **found})
            print(runs[-1], flush=True)
            write_result(NAME, report(runs), of_each_kind=True)


if __name__ == "__main__":
    main()
