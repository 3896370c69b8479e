"""A number to hold on to: Unet with resnet34 on CamVid, eleven classes, by ``segzoo.train``.

    SEGZOO_CAMVID=folder python -m benchmarks.camvid_anchor
    SEGZOO_CAMVID=folder python -m benchmarks.camvid_anchor --size 360 480 --epochs 60 --minutes 120
    SEGZOO_CAMVID=folder python -m benchmarks.camvid_anchor --pretrained --device cuda --epochs 100

Void is neither learned nor scored; the mean IoU pools all pixels of all validation pictures, at
their full size, as ``segzoo evaluate`` does. :mod:`benchmarks.camvid` says what the folder holds.

Each training lies in a folder of its own. When the minutes are over, or with Ctrl-C, its state is
saved, and the same line goes on there: it ends as one that was never stopped, to the last bit. What
is finished is written into the record, and is not trained again.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import segzoo
from segzoo.training.precision import chosen

from . import camvid
from .common import write_result, written

NAME = "camvid_anchor"
ENCODER = "resnet34"
CLASSES, VOID = camvid.CLASSES - 1, camvid.VOID
#: Where trainings lie while nobody says another place; git does not see it.
FOLDER = Path(__file__).parent.parent / ".camvid-anchor"
#: What tells one run from another.
_KEYS = ("size", "epochs", "seed", "pretrained", "device")


@contextmanager
def limited(minutes: float) -> Iterator[None]:
    """Meanwhile SIGTERM comes when the time is over: a training then saves its state and ends."""
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def recipe(arguments: argparse.Namespace, seed: int) -> segzoo.Recipe:
    """The defaults, but for length, size, and the rate that random weights stand."""
    return segzoo.Recipe(
        epochs=arguments.epochs,
        size=tuple(arguments.size),
        learning_rate=1e-3 if arguments.pretrained else 3e-3,
        seed=seed,
    )


def train(arguments: argparse.Namespace, seed: int, out: Path) -> segzoo.TrainingResult:
    """One training, from wherever its folder is.

    Raises:
        SystemExit: The time is over; the state was saved.
    """
    torch.manual_seed(seed)
    model = segzoo.Unet(ENCODER, classes=CLASSES, pretrained=arguments.pretrained)
    data = segzoo.open_data(camvid.folder(), classes=CLASSES, ignore_index=VOID)
    return segzoo.train(
        model,
        data,
        out=out,
        recipe=recipe(arguments, seed),
        device=arguments.device,
        workers=arguments.workers,
        on_epoch=_say,
    )


def _say(row: Mapping[str, Any]) -> None:
    print(
        f"epoch {row['epoch']}: loss {row['loss']:.4f}, mIoU {row['val']['miou']:.4f}", flush=True
    )


def described(
    key: Mapping[str, Any], result: segzoo.TrainingResult, seconds: float
) -> dict[str, Any]:
    """What is kept of a run."""
    scores = result.scores
    interval = () if scores.intervals is None else scores.intervals.miou
    return {
        **key,
        "miou": round(scores.miou or 0, 4),
        "interval": [round(value, 4) for value in interval],
        "pixel_accuracy": round(scores.pixel_accuracy or 0, 4),
        "iou": [None if value is None else round(value, 4) for value in scores.iou],
        "best_epoch": result.best_epoch,
        "curve": [round(row["val"]["miou"], 4) for row in result.history],
        "cpu_seconds": round(seconds),
    }


def seconds_of(out: Path, more: float = 0.0) -> float:
    """Processor seconds of a training over all its parts; ``more`` are added to them."""
    file = out.with_suffix(".seconds")
    total = (float(file.read_text()) if file.exists() else 0.0) + more
    out.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{total}\n")
    return total


def run(arguments: argparse.Namespace, seed: int) -> None:
    """Train one, and write it down once it is finished.

    Raises:
        SystemExit: The time is over.
    """
    height, width = arguments.size
    values = ([height, width], arguments.epochs, seed, arguments.pretrained, arguments.device)
    key = dict(zip(_KEYS, values, strict=True))
    if any(all(each[name] == key[name] for name in _KEYS) for each in finished()):
        return
    kind = "pretrained" if arguments.pretrained else "random"
    name = f"{height}x{width}-{arguments.epochs}-{kind}-{arguments.device}-{seed}"
    out = arguments.folder / name
    print(out, flush=True)
    start = time.process_time()
    try:
        result = train(arguments, seed, out)
    finally:
        seconds = seconds_of(out, time.process_time() - start)
    # Read only now: another process may have finished a training meanwhile.
    runs = sorted(
        [*finished(), described(key, result, seconds)],
        key=lambda each: [each[name] for name in _KEYS],
    )
    precision = chosen("auto", torch.device(arguments.device))
    found = {"encoder": ENCODER, "precision": precision, "runs": runs}
    write_result(NAME, found, of_each_kind=True)


def finished() -> list[dict[str, Any]]:
    """What the record has of this kind of machine."""
    return list(written(NAME, of_each_kind=True).get("runs", []))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs=2, type=int, default=[180, 240], metavar=("H", "W"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="which ones")
    parser.add_argument("--pretrained", action="store_true", help="weights of timm, a download")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10**4, help="of the clock, for all runs")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        with limited(arguments.minutes):
            for seed in arguments.seeds:
                run(arguments, seed)
    except SystemExit:
        print("The time is over. The same line goes on here.")
        raise


if __name__ == "__main__":
    main()
