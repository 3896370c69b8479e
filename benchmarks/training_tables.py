"""Tables of what was measured of training."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from .records import absent, exists, kinds, markdown, processor, record


def camvid_training() -> str:
    """Mean IoU on CamVid by processor, system and length."""
    if not exists("camvid_training"):
        return absent("camvid_training")
    rows = []
    for found in kinds("camvid_training"):
        where = f"{found['environment']['cpu']}, {found['precision']}"
        for row in found["summary"]:
            epochs = f"{row['epochs_of_segzoo']}"
            if row["system"] == "fastai":
                epochs = f"as long as segzoo's {epochs}"
            rows.append(
                [
                    where,
                    row["system"],
                    epochs,
                    row["runs"],
                    f"{row['miou_mean']:.3f}",
                    f"{row['miou_least']:.3f} to {row['miou_greatest']:.3f}",
                    f"{row['cpu_seconds_mean']:.0f} s",
                ]
            )
    head = ["processor, precision", "system", "epochs", "seeds", "mean IoU", "over seeds"]
    return markdown([*head, "processor time"], rows)


def camvid_anchor() -> str:
    """Mean IoU of Unet-resnet34 on CamVid by processor, size, length and first weights."""
    if not exists("camvid_anchor"):
        return absent("camvid_anchor")
    rows = []
    for found in kinds("camvid_anchor"):
        where = f"{found['environment']['cpu']}, {found['precision']}"
        rows += [[where, *row] for row in _anchors(found["runs"])]
    head = ["processor, precision", "size", "epochs", "first weights", "seeds", "mean IoU"]
    return markdown([*head, "over seeds", "pixel accuracy", "processor time"], rows)


def _anchors(runs: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """A row for all seeds of one size, length and first weights."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        key = (tuple(run["size"]), run["epochs"], run["pretrained"], run["device"])
        groups.setdefault(key, []).append(run)
    for ((height, width), epochs, pretrained, device), alike in sorted(groups.items()):
        values = [run["miou"] for run in alike]
        accuracy = statistics.mean(run["pixel_accuracy"] for run in alike)
        hours = statistics.mean(run["cpu_seconds"] for run in alike) / 3600
        yield [
            f"{height}x{width}",
            epochs,
            "pretrained" if pretrained else "random",
            len(alike),
            f"{statistics.mean(values):.3f}",
            f"{min(values):.3f} to {max(values):.3f}",
            f"{accuracy:.3f}",
            f"{hours:.2f} h" if device == "cpu" else device,
        ]


def kill_training() -> str:
    """Kills, and how many trainings ended with the same bits."""
    if not exists("kill_training"):
        return absent("kill_training")
    rows = [
        [name, way["kills"], way["trainings"], way["bit_equal_ends"]]
        for name, way in record("kill_training")["ways"].items()
    ]
    return markdown(
        ["training", "kills -9", "trainings", "ended bit for bit as if never killed"], rows
    )


def training_overhead() -> str:
    """Time and memory of the loop beside a bare one."""
    if not exists("training_overhead"):
        return absent("training_overhead")
    names = {"toy": "two convolutions", "resnet10t": "`Unet('resnet10t')`, 8 of 90x120"}
    rows = [
        [
            names[name],
            f"{row['bare_ms']['median']:.2f} ms",
            f"{row['segzoo_ms']['median']:.2f} ms",
            f"{row['difference_ms']:+.2f} ms",
            f"{row['bare_peak_mib']:.0f} MiB",
            f"{row['segzoo_peak_mib']:.0f} MiB",
        ]
        for name, row in record("training_overhead").items()
        if name in names
    ]
    head = ["model", "step, bare loop", "step, segzoo", "difference", "peak, bare", "peak, segzoo"]
    return markdown(head, rows)


def training_precision() -> str:
    """A step in bfloat16 and in float32, on each kind of processor."""
    if not exists("training_precision"):
        return absent("training_precision")
    rows = [
        [
            processor(found["environment"]),
            f"`Unet('{row['encoder']}')`, {'x'.join(map(str, row['batch']))}",
            f"{row['float32']['median']:.0f} ms",
            f"{row['bfloat16']['median']:.0f} ms",
            f"{row['speed_up']:.2f}",
        ]
        for found in kinds("training_precision")
        for row in found["rows"]
    ]
    head = ["processor", "model, batch", "float32", "bfloat16", "times as fast"]
    return markdown(head, rows)


def loader_throughput() -> str:
    """Images a second of a training that reads files, beside the model's own."""
    if not exists("loader_throughput"):
        return absent("loader_throughput")
    rows = [
        [
            f"`Unet('{row['encoder']}')`",
            row["augmentation"],
            row["way"],
            f"{row['images_per_second']:.2f}",
            f"{row['of_the_model']:.2f}",
        ]
        for row in record("loader_throughput")["rows"]
    ]
    head = ["model", "pictures are", "batches", "images/s", "of the model's own"]
    return markdown(head, rows)
