"""Train on CamVid in fastai: ``unet_learner`` against our DynamicUnet in the same Learner.

    SEGZOO_CAMVID=folder python -m benchmarks.camvid_fastai
    python -m benchmarks.camvid_fastai --plot

From random weights, the same data, recipe and seeds for both; :mod:`benchmarks.camvid` says what
the folder holds. Every run is written down when it ends, and a second call goes on with what is
missing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import segzoo

from . import camvid
from .camvid import CLASSES, VOID
from .common import spread, write_result, written

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    import torchvision
    from fastai.callback.schedule import Learner  # where it gets its fit_one_cycle
    from fastai.data.block import DataBlock
    from fastai.data.transforms import FuncSplitter, Normalize
    from fastai.learner import Metric
    from fastai.losses import CrossEntropyLossFlat
    from fastai.torch_core import set_seed
    from fastai.vision.augment import Flip, Resize, ResizeMethod
    from fastai.vision.core import imagenet_stats
    from fastai.vision.data import ImageBlock, MaskBlock
    from fastai.vision.learner import unet_learner

NAME = "camvid_fastai"
PLOT = Path(__file__).parent.parent / "docs" / "images" / f"{NAME}.png"
RECIPE: dict[str, Any] = {
    "encoder": "resnet18",
    "size": [48, 64],
    "epochs": 4,
    "batch": 8,
    "lr": 1e-3,
    "seeds": 3,
}


class MeanIoU(Metric):
    """Mean intersection over union of the labelled classes, over the whole validation set."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.counts = torch.zeros(CLASSES, CLASSES, dtype=torch.long)

    def accumulate(self, learn: Any) -> None:
        """Count the pixels of a batch by label and prediction."""
        labels = learn.yb[0].as_subclass(Tensor)
        self.counts += camvid.confusion(labels, learn.pred.as_subclass(Tensor).argmax(dim=1))

    @property
    def value(self) -> float:
        """Between 0 and 1; classes that the labels do not have do not count."""
        return camvid.mean_iou(self.counts)

    @property
    def name(self) -> str:
        """For fastai's table."""
        return "miou"


def loaders(root: Path) -> Any:
    """CamVid at the recipe's size, mirrored at random, normalised."""
    masks = dict(pair for split in ("train", "val") for pair in camvid.pairs(root, split))
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=[str(i) for i in range(CLASSES)])),
        get_items=lambda _: list(masks),
        get_y=lambda path: masks[path],  # fastai dispatches on names of arguments
        splitter=FuncSplitter(lambda path: path.parent.parent.name == "val"),
        item_tfms=Resize(tuple(RECIPE["size"]), method=ResizeMethod.Squish),
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
    )
    return block.dataloaders(root, bs=RECIPE["batch"], num_workers=0)


def learner(kind: str, data: Any) -> Any:
    """A Learner of either kind, all else equal."""
    options = {
        "loss_func": CrossEntropyLossFlat(axis=1, ignore_index=VOID),
        "metrics": [MeanIoU()],
    }
    if kind == "fastai":
        arch = getattr(torchvision.models, str(RECIPE["encoder"]))
        # The loaders normalise already.
        return unet_learner(data, arch, pretrained=False, normalize=False, n_out=CLASSES, **options)
    model = segzoo.DynamicUnet(
        str(RECIPE["encoder"]),
        CLASSES,
        # torchvision's ResNet, which fastai takes, does not begin with closed residual branches.
        encoder_options={"zero_init_last": False},
    )
    return Learner(data, model, splitter=segzoo.fastai_splitter, **options)


def train(kind: str, seed: int, root: Path) -> dict[str, Any]:
    """One run; the losses and the mean IoU after each epoch."""
    start = time.perf_counter()
    set_seed(seed, reproducible=True)
    learn = learner(kind, loaders(root))
    set_seed(seed, reproducible=True)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(RECIPE["epochs"], RECIPE["lr"])
    names = ("train_loss", "valid_loss", "miou")
    epochs = [dict(zip(names, map(float, row), strict=True)) for row in learn.recorder.values]
    return {
        "kind": kind,
        "seed": seed,
        "epochs": [{name: round(value, 4) for name, value in row.items()} for row in epochs],
        "seconds": round(time.perf_counter() - start),
    }


def finished() -> list[dict[str, Any]]:
    """The runs of this recipe that are written down already."""
    record = written(NAME)
    return list(record["runs"]) if record.get("recipe") == RECIPE else []


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The record: recipe, mean IoU of the last epoch by kind, all runs."""
    last: dict[str, dict[str, Any]] = {}
    for kind in ("fastai", "segzoo"):
        values = [run["epochs"][-1]["miou"] for run in runs if run["kind"] == kind]
        if values:
            last[kind] = spread(values)
    return {"recipe": RECIPE, "miou_after_the_last_epoch": last, "runs": runs}


def plot(runs: list[dict[str, Any]]) -> None:
    """The curves of all runs, as a picture for the documentation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
    for run in runs:
        style = {"color": {"fastai": "tab:orange", "segzoo": "tab:blue"}[run["kind"]]}
        label = run["kind"] if run["seed"] == 0 else None
        for axis, name in zip(axes, ("valid_loss", "miou"), strict=True):
            values = [epoch[name] for epoch in run["epochs"]]
            axis.plot(range(1, len(values) + 1), values, label=label, alpha=0.8, **style)
    for axis, title in zip(axes, ("validation loss", "validation mean IoU"), strict=True):
        axis.set(xlabel="epoch", title=title, xticks=range(1, RECIPE["epochs"] + 1))
        axis.legend()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=120)
    print(f"wrote {PLOT}")


def main() -> None:
    """Run what is missing, then plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", action="store_true", help="only plot the runs there are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of fastai
    runs = finished()
    wanted = [(kind, seed) for seed in range(RECIPE["seeds"]) for kind in ("fastai", "segzoo")]
    done = {(run["kind"], run["seed"]) for run in runs}
    for kind, seed in [] if arguments.plot else [item for item in wanted if item not in done]:
        runs.append(train(kind, seed, camvid.folder()))
        print(runs[-1], flush=True)
        write_result(NAME, report(runs))
    plot(runs)


if __name__ == "__main__":
    main()
