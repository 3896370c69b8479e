"""Markdown tables for the documentation, made from the committed results and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .encoders.table import encoders
from .throughput.report import report
from .throughput.report import title as title_of

RESULTS = Path(__file__).parent / "results"


def record(name: str) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def markdown(head: list[str], rows: list[list[Any]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def environment(name: str) -> str:
    """One sentence on where a result was measured."""
    result = record(name)
    where = result["environment"]
    packages = ", ".join(f"{package} {number}" for package, number in where["packages"].items())
    if "modelled" in result:
        return f"Modelled with {packages}; commit `{where['commit']}`."
    device = where["gpu"] or f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores"
    return (
        f"Measured on {device}; Python {where['python']}, {packages}; commit `{where['commit']}`."
    )


def parity() -> str:
    """The Unet against smp."""
    rows = []
    for case in record("parity")["cases"]:
        named = ", ".join(f"{key}={value}" for key, value in case["arguments"].items())
        differences = case["eval_max_difference_float32"]
        rows.append(
            [
                named or "defaults",
                *(f"{value:g}" for value in differences.values()),
                f"{case['step_max_relative_difference_float64']:.1e}",
            ]
        )
    sizes = list(record("parity")["cases"][0]["eval_max_difference_float32"])
    head = ["arguments", *(f"logits, {size}" for size in sizes), "gradients and statistics"]
    return markdown(head, rows)


def importing() -> str:
    """What the import costs."""
    result = record("importing")
    statements = {"torch": "`import torch`", "segzoo": "`import segzoo; segzoo.Unet`"}
    rows = [
        [statements[name], f"{times['median']:.0f} ms"]
        for name, times in result["milliseconds"].items()
    ]
    return markdown(["statement", "whole process, median"], [*rows, ["ratio", result["ratio"]]])


def coverage(name: str) -> str:
    """How many architectures work, and what timm says of those that do not."""
    result = record(name)
    total = result["architectures"]
    rows = [[who, f"{count} of {total}"] for who, count in result["works_at_all_sizes"].items()]
    table = markdown(["library", f"works at {', '.join(result['sizes'])}"], rows)
    failures = [
        f"- `{name}`: {row['segzoo']}; timm alone: {row['timm']}\n"
        for name, row in result["segzoo_failures"].items()
    ]
    return f"{table}\n{''.join(failures)}"


def optimized() -> str:
    """What optimize does with one encoder of each module."""
    result = record("optimized")
    failed = [f"- `{row['module']}`: {row['error']}\n" for row in result["rows"] if "error" in row]
    total = result["modules"]
    counts = [[what, f"{result[what]} of {total}"] for what in ("optimized", "folded", "rewritten")]
    largest = result["largest_difference"], result["largest_plain_difference"]
    rows = [
        *counts,
        ["largest difference to float64: optimized, plain", "{:.0e}, {:.0e}".format(*largest)],
    ]
    return f"{markdown(['modules', ''], rows)}\n{''.join(failed)}"


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
            *(_fastest(measured, name) for name in names),
        ]
    )
    for trial, row in result["trials"].items():
        rows.append([trial, *(row[name].partition(":")[0] for name in names)])
    return markdown(["", *(f"{name} {result['versions'][name]}" for name in names)], rows)


def _fastest(result: Mapping[str, Any], library: str) -> str:
    """The images per second of a library's fastest way, and its name."""
    speeds = {
        way.removeprefix(f"{library} "): row["images_per_second"]
        for way, row in result["ways"].items()
        if way.startswith(f"{library} ") and "ms" in row
    }
    if not speeds:
        return "not measured"
    best = max(speeds, key=lambda way: speeds[way])
    return f"{speeds[best]} ({best})"


def demo_iou() -> str:
    """The demo over its seeds."""
    rows = [
        [run["seed"], run["steps"], f"{run['iou']:.4f}", f"{run['cpu_seconds']:.0f} s"]
        for run in record("demo_iou")["runs"]
    ]
    return markdown(["seed", "steps", "IoU on the held-out third", "processor time"], rows)


def dynamic_unet() -> str:
    """DynamicUnet against fastai's own."""
    result = record("dynamic_unet")
    size = "x".join(map(str, result["size"]))
    rows = [
        [f"{name}: GFLOPs at {size}", "", row["gflops"], ""] for name, row in result["work"].items()
    ]
    times = {
        "inference, batch 1, CPU ms": "inference_batch_1",
        "inference, batch 1, channels_last, CPU ms": "inference_batch_1_channels_last",
        "training step, batch 2, CPU ms": "training_step_batch_2",
    }
    for title, key in times.items():
        both = result[key]["cpu_ms"]
        values = [f"{both[who]['median']:.0f}" for who in ("fastai", "segzoo")]
        rows.append([title, *values, result[key]["ratio"]])
    memory = {
        "activations kept in training, batch 4, MiB": "training_activations_mib_batch_4",
        "rise of peak memory, inference, batch 1, MiB": "peak_rise_mib_inference_batch_1",
        "rise of peak memory, training step, batch 4, MiB": "peak_rise_mib_training_step_batch_4",
    }
    for title, key in memory.items():
        rows.append([title, *(result[key][who] for who in ("fastai", "segzoo", "ratio"))])
    return markdown(["resnet34", "fastai", "segzoo", "ratio"], rows)


def training() -> str:
    """A training step of the Unet beside smp's."""
    head = [record("training")["encoder"]]
    settings = record("training")["settings"].values()
    for setting in settings:
        what = f"{setting['batch']} images of {setting['size']}x{setting['size']}"
        head += [f"{what}: images/s", "against smp's best", "kept, MiB", "peak, MiB"]
    rows = []
    for name in next(iter(settings))["candidates"]:
        row = [name]
        for found in (setting["candidates"][name] for setting in settings):
            faster = found["speed_up_over_smp's_best"]
            row += [
                f"{found['images_per_second']:.2f}",
                f"{faster:.2f}",
                f"{found['kept_mib']:.0f}",
                f"{found['peak_mib']:.0f}",
            ]
        rows.append(row)
    return markdown(head, rows)


def dynamic_parity() -> str:
    """DynamicUnet against fastai's own, on the same weights."""
    cases = record("dynamic_parity")["cases"]
    encoders = sorted({case["case"].partition(",")[0] for case in cases})
    rows = []
    for encoder in encoders:
        mine = [case for case in cases if case["case"].partition(",")[0] == encoder]
        outputs = max(value for case in mine for value in case["eval"].values())
        step = max(value for case in mine for value in case["training_step_33x47"].values())
        rows.append([encoder, len(mine), f"{outputs:g}", f"{step:g}"])
    sizes = ", ".join(cases[0]["eval"])
    head = [
        "encoder",
        "option sets",
        f"outputs at {sizes}",
        "loss, gradients and buffers of a step",
    ]
    return markdown(head, rows)


def camvid_fastai() -> str:
    """Training on CamVid by unet_learner and by our model in fastai's Learner."""
    result = record("camvid_fastai")
    rows = [
        [who, *(f"{row[key]:.3f}" for key in ("mean", "least", "greatest"))]
        for who, row in result["miou_after_the_last_epoch"].items()
    ]
    head = f"validation mean IoU after {result['recipe']['epochs']} epochs"
    return markdown([head, "mean of 3 seeds", "least", "greatest"], rows)


def throughput(device: str) -> str:
    """Whole models beside the rivals' on one kind of device, and the picture."""
    if not _exists(f"throughput_{device}"):
        known = device == "gpu" and _exists("throughput_cpu")  # a record says why there is none
        return f"{device.upper()}: {record('throughput_cpu')['gpu'] if known else 'no record'}.\n"
    picture = f"images/throughput_{device}.png"
    return f"{report(record(f'throughput_{device}'))}\n![Images per second]({picture})\n"


def roofline() -> str:
    """Modelled bytes and floors of each part of the reference model."""
    result = record("roofline")
    accounts = list(result["total"])
    rows = [
        [row["part"], row["eager"]["gflops"], row["rewritten"]["gflops"]]
        + [row[account]["mb"] for account in accounts]
        + [row["block_fused"]["floor_us"]]
        for row in [*result["parts"], {"part": "**whole**", **result["total"]}]
    ]
    megabytes = [f"MB, {account.replace('_', '-')}" for account in accounts]
    head = ["part", "GFLOPs", "GFLOPs, rewritten", *megabytes, "floor, block-fused, µs"]
    given = result["given_ceilings"]
    floors = ", ".join(
        f"{account.replace('_', '-')} {1e6 / row['floor_us']:,.0f}"
        for account, row in result["total"].items()
    )
    return (
        f"{markdown(head, rows)}\nModelled for an image of {result['size'][0]}x{result['size'][1]} "
        f"in a batch of {result['batch']}, {result['bytes_per_value']} bytes a value, on a card "
        f"that is given as copying {given['gb_s']:,.0f} GB/s and multiplying "
        f"{given['tflop_s']:,.0f} TFLOP/s. At these floors, images per second: {floors}.\n"
    )


def achieved(device: str) -> str:
    """What each part of the reference model takes, beside its floor."""
    if not _exists(f"achieved_{device}"):
        return f"{device.upper()}: not measured.\n"
    result = record(f"achieved_{device}")
    rows = [
        [row["part"], row["gflops"], row["least_mb"], f"{row['floor_ms']:.2f}"]
        + [f"{row[name]['median']:.2f}" for name in ("plain", "optimized")]
        + [f"{row['floor_ms'] / row['optimized']['median']:.0%}"]
        for row in result["parts"]
    ]
    floor = sum(row["floor_ms"] for row in result["parts"])
    plain, optimized = (result["whole"][name]["median"] for name in ("plain", "optimized"))
    whole = [f"{value:.2f}" for value in (floor, plain, optimized)]
    rows.append(["**whole**", "", "", *whole, f"{floor / optimized:.0%}"])
    head = [
        "part",
        "GFLOPs",
        "least MB",
        "floor, ms",
        "plain, ms",
        "optimized, ms",
        "floor / optimized",
    ]
    limits, size = result["ceilings"], "x".join(map(str, result["size"]))
    return (
        f"{markdown(head, rows)}\nFor an image of {size} in a batch of {result['batch']}, "
        f"{result['dtype']}, channels last; floors at {limits['copy_gb_s']:,.0f} GB/s and "
        f"{limits['tflop_s']:.3g} TFLOP/s, measured in the same run.\n"
    )


def convolutions() -> str:
    """Ways to compute one convolution."""
    rows = []
    for row in record("convolutions")["rows"]:
        (what, side), (plain, other) = (row["channels"], row["side"]), row["ways"].items()
        rows.append(
            [f"{what[0]} to {what[1]} at {side}x{side}", other[0]]
            + [f"{way['ms']['median']:.2f}" for _, way in (plain, other)]
            + [f"{other[1]['speed_up']:.2f}"]
            + [f"{way['difference_to_float64']:.0e}" for _, way in (plain, other)]
        )
    head = ["channels", "way", "oneDNN, ms", "this way, ms", "speed-up"]
    return markdown([*head, "oneDNN to float64", "this way to float64"], rows)


def _exists(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def genericity() -> str:
    """What it costs that the Unet takes any backbone."""
    result = record("genericity")
    size = "x".join(map(str, result["size"]))
    cases = {f"forward, {name}, {size}": row for name, row in result["forward"].items()}
    for which, row in result["building_resnet34"].items():
        cases[f"building with resnet34, {which} in a process"] = row
    rows = []
    for title, row in cases.items():
        times = [f"{row['milliseconds'][who]['median']:.0f} ms" for who in ("by hand", "segzoo")]
        difference = f"{row['max_difference']:g}" if "max_difference" in row else ""
        rows.append([title, *times, row["ratio"], difference])
    head = ["median", "by hand", "segzoo", "ratio", "largest difference of the logits"]
    return markdown(head, rows) + (
        f"\n{result['rounds']} forwards and {result['processes']} processes each; load of the "
        f"machine when it began: {result['load_at_the_start']}.\n"
    )


def flat_pyramid() -> str:
    """Pyramids for a flat backbone, trained on CamVid."""
    result = record("flat_pyramid")
    rows = []
    for variant, cost in result["costs"].items():
        miou = result["miou"][variant]
        rows.append(
            [
                variant,
                *(f"{miou[key]:.3f}" for key in ("mean", "least", "greatest")),
                f"{cost['parameters']:,}",
                cost["gflops"],
                f"{cost['forward_ms']['median']:.1f} ms",
            ]
        )
    return markdown(
        [
            f"validation mean IoU, {result['recipe']['seeds']} seeds",
            *("mean", "least", "greatest", "parameters", "GFLOPs", "forward, median"),
        ],
        rows,
    )


#: The record's name -> its table.
TABLES: dict[str, Callable[[], str]] = {
    "parity": parity,
    "importing": importing,
    "coverage": lambda: coverage("coverage"),
    "coverage_real": lambda: coverage("coverage_real"),
    "coverage_pyramids": lambda: coverage("coverage_pyramids"),
    "loading": loading,
    "rivals": rivals,
    "demo_iou": demo_iou,
    "dynamic_unet": dynamic_unet,
    "dynamic_parity": dynamic_parity,
    "training": training,
    "camvid_fastai": camvid_fastai,
    "throughput_cpu": lambda: throughput("cpu"),
    "throughput_gpu": lambda: throughput("gpu"),
    "roofline": roofline,
    "achieved_cpu": lambda: achieved("cpu"),
    "achieved_gpu": lambda: achieved("gpu"),
    "optimized": optimized,
    "convolutions": convolutions,
    "genericity": genericity,
    "flat_pyramid": flat_pyramid,
    "encoders": lambda: encoders(record("encoders")["rows"]),
}


def write_all(folder: Path) -> None:
    """Write every table, and the sentence on its environment, for the pages to include."""
    folder.mkdir(exist_ok=True)
    for name, table in TABLES.items():
        where = environment(name) if _exists(name) else ""
        (folder / f"{name}.md").write_text(f"{table()}\n{where}\n")


def update_readme() -> None:
    """Put the tables where the README has marked their places."""
    path = RESULTS.parents[1] / "README.md"
    pattern = r"(<!-- table: rivals -->\n).*?(<!-- end of table -->)"
    text = re.sub(pattern, rf"\g<1>{rivals()}\g<2>", path.read_text(), flags=re.DOTALL)
    path.write_text(text)


if __name__ == "__main__":
    update_readme()
