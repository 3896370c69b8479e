"""Markdown tables for the documentation, made from the committed results and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .attack_tables import attacks, kills
from .deployment_tables import int8
from .encoders.table import encoders
from .encoders.tables import coverage, flat_pyramid, genericity
from .eomt_tables import eomt_parity, eomt_speed
from .figures import fastest, figures
from .growth_tables import growth
from .many_tables import kill_predictions, listing, predict_throughput
from .parity.tables import (
    architecture_chooser,
    architecture_coverage,
    architecture_parity,
    architecture_speed,
    architectures,
    camvid_fastai,
    dynamic_parity,
    dynamic_unet,
    parity,
    training,
)
from .records import RESULTS, environment, exists, markdown, record
from .serving_tables import serving, serving_batches, thread_helpers
from .throughput.report import title as title_of
from .throughput.tables import (
    achieved,
    convolutions,
    cpu_variants,
    kernel_compiling,
    optimized,
    roofline,
    throughput,
    throughput_bf16,
    throughput_others,
)
from .tiling_tables import tiling, tiling_margins, tiling_memory
from .training_tables import (
    camvid_anchor,
    camvid_training,
    kill_training,
    loader_throughput,
    training_overhead,
    training_precision,
)
from .vit_tables import vit, vit_camvid, vit_licences
from .zoo.rows import zoo


def importing() -> str:
    """What the import costs."""
    result = record("importing")
    statements = {"torch": "`import torch`", "segzoo": "`import segzoo; segzoo.Unet`"}
    rows = [
        [statements[name], f"{times['median']:.0f} ms"]
        for name, times in result["milliseconds"].items()
    ]
    return markdown(["statement", "whole process, median"], [*rows, ["ratio", result["ratio"]]])


def loading() -> str:
    """What loading a saved model costs."""
    rows = [
        [name, f"{row['total_s']:.2f} s", f"{row['peak_kib'] / 1024:.0f} MiB"]
        for name, row in record("loading")["medians"].items()
    ]
    return markdown(["whole process", "time, median", "peak memory, median"], rows)


def rivals() -> str:
    """The same trials on every library."""
    result = record("rivals")
    names = list(result["versions"])
    reached = record("coverage")
    works, total = reached["works_at_all_sizes"], reached["architectures"]
    works_as = (
        f"Works as a U-Net's encoder at {', '.join(reached['sizes'])}, no options given, on the "
        f"meta device (shapes, no pixels): all of timm's {total} architectures"
    )
    counts = [f"{works[n]} of {total}" if n in works else "not measured" for n in names]
    rows = [[works_as, *counts]]
    measured = record("throughput_cpu")["results"][0]
    rows.append(
        [
            f"Images per second on a CPU, each at its fastest: {title_of(measured)}",
            *(_speed(measured, name) for name in names),
        ]
    )
    for trial, row in result["trials"].items():
        rows.append([trial, *(row[name].partition(":")[0] for name in names)])
    return markdown(["", *(f"{name} {result['versions'][name]}" for name in names)], rows)


def _speed(measured: Mapping[str, Any], library: str) -> str:
    way, images = fastest(measured, library)
    return f"{images} ({way})" if way else "not measured"


def demo_iou() -> str:
    """The demo over its seeds."""
    rows = [
        [run["seed"], run["steps"], f"{run['iou']:.4f}", f"{run['cpu_seconds']:.0f} s"]
        for run in record("demo_iou")["runs"]
    ]
    return markdown(["seed", "steps", "IoU on the held-out third", "processor time"], rows)


def data_check() -> str:
    """Reading and checking pictures; augmentation beside torchvision."""
    measured = record("data_check")["milliseconds_a_pair"]
    rows = [[name, f"{value:.1f} ms"] for name, value in measured.items() if ": " not in name]
    reading = markdown(["of one pair", "processor time, median"], rows)
    names = [name.partition(": ")[2] for name in measured if name.startswith("segzoo: ")]
    compared = [
        [
            name,
            *(
                f"{measured[key]:.2f} ms" if (key := f"{library}: {name}") in measured else "-"
                for library in ("segzoo", "torchvision")
            ),
        ]
        for name in names
    ]
    return f"{reading}\n{markdown(['augmentation', 'segzoo', 'torchvision'], compared)}"


#: The record's name -> its table.
TABLES: dict[str, Callable[[], str]] = {
    "architectures": architectures,
    "architecture_parity": architecture_parity,
    "architecture_chooser": architecture_chooser,
    "architecture_coverage": architecture_coverage,
    "architecture_speed": architecture_speed,
    "parity": parity,
    "importing": importing,
    "coverage": lambda: coverage("coverage"),
    "coverage_real": lambda: coverage("coverage_real"),
    "coverage_pyramids": lambda: coverage("coverage_pyramids"),
    "loading": loading,
    "rivals": rivals,
    "figures": figures,
    "demo_iou": demo_iou,
    "dynamic_unet": dynamic_unet,
    "dynamic_parity": dynamic_parity,
    "training": training,
    "camvid_anchor": camvid_anchor,
    "camvid_training": camvid_training,
    "kill_training": kill_training,
    "attacks": attacks,
    "kills": kills,
    "training_overhead": training_overhead,
    "training_precision": training_precision,
    "loader_throughput": loader_throughput,
    "camvid_fastai": camvid_fastai,
    "throughput_cpu": lambda: throughput("cpu"),
    "throughput_cpu_bf16": throughput_bf16,
    "throughput_others": throughput_others,
    "throughput_gpu": lambda: throughput("gpu"),
    "roofline": roofline,
    "achieved_cpu": lambda: achieved("cpu"),
    "achieved_gpu": lambda: achieved("gpu"),
    "optimized": optimized,
    "convolutions": convolutions,
    "kernel_compiling": kernel_compiling,
    "cpu_variants": cpu_variants,
    "genericity": genericity,
    "flat_pyramid": flat_pyramid,
    "data_check": data_check,
    "int8": int8,
    "listing": listing,
    "predict_throughput": predict_throughput,
    "kill_predictions": kill_predictions,
    "serving": serving,
    "serving_batches": serving_batches,
    "thread_helpers": thread_helpers,
    "tiling": tiling,
    "tiling_margins": tiling_margins,
    "tiling_memory": tiling_memory,
    "vit": vit,
    "vit_camvid": vit_camvid,
    "vit_licences": vit_licences,
    "eomt_parity": eomt_parity,
    "eomt_speed": eomt_speed,
    "zoo": zoo,
    "growth": growth,
    "encoders": lambda: encoders(record("encoders")["rows"]),
}


def write_all(folder: Path) -> None:
    """Write every table, and the sentence on its environment, for the pages to include."""
    folder.mkdir(exist_ok=True)
    for name, table in TABLES.items():
        where = environment(name) if exists(name) else ""
        (folder / f"{name}.md").write_text(f"{table()}\n{where}\n")


#: What README shows of it, between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
IN_README: dict[str, Callable[[], str]] = {"figures": lambda: figures("docs/"), "rivals": rivals}


def readme(text: str) -> str:
    """README with its tables as the records have them.

    Raises:
        ValueError: A table has no place in it.
    """
    for name, table in IN_README.items():
        head, begin, rest = text.partition(f"<!-- table: {name} -->\n")
        _, end, tail = rest.partition("<!-- end of table -->")
        if not end:
            raise ValueError(f"README has no place for the table {name}.")
        text = f"{head}{begin}{table()}{end}{tail}"
    return text


def update_readme() -> None:
    """Put the tables where README has marked their places."""
    path = RESULTS.parents[1] / "README.md"
    path.write_text(readme(path.read_text()))


if __name__ == "__main__":
    update_readme()
