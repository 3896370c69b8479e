"""Tables of what was timed and of what was modelled."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import fastest
from benchmarks.records import absent, exists, kinds, markdown, processor, record

from .report import report, title


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


def throughput(device: str) -> str:
    """Whole models beside the rivals' on one kind of device, and the picture."""
    if not exists(f"throughput_{device}"):
        known = device == "gpu" and exists("throughput_cpu")  # a record says why there is none
        return f"{device.upper()}: {record('throughput_cpu')['gpu'] if known else 'no record'}.\n"
    picture = f"images/throughput_{device}.png"
    return f"{report(record(f'throughput_{device}'))}\n![Images per second]({picture})\n"


def throughput_bf16() -> str:
    """Whole models in bfloat16 on a CPU."""
    return report(record("throughput_cpu_bf16"))


def throughput_others() -> str:
    """The fastest of each side on CPUs of other kinds, from the records that were put aside."""
    rows = []
    for result in kinds("throughput_cpu")[1:]:
        where = result["environment"]
        for measured in result["results"]:
            (ours, mine), (theirs, other) = (
                fastest(measured, library) for library in ("segzoo", measured["library"])
            )
            if ours and theirs:
                faster = f"**{mine / other:.2f}**"
                sides = [f"{mine:.2f} ({ours})", f"{other:.2f} ({theirs})", faster]
                rows.append([processor(where), title(measured), *sides, f"`{where['commit']}`"])
    head = ["processor", "", "segzoo, images/s", "smp, images/s", "ratio", "commit"]
    return markdown(head, rows)


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
    if not exists(f"achieved_{device}"):
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


def cpu_variants() -> str:
    """Other ways to compute a step, those that are taken and those that are not."""
    if not exists("cpu_variants"):
        return absent("cpu_variants")
    rows = [
        [row["name"], row["dtype"], "yes" if row["taken"] else "no"]
        + [f"{row[name]['median']:.2f}" for name in ("plain", "variant")]
        + [f"{row['speed_up']:.2f}"]
        for row in record("cpu_variants")["rows"]
    ]
    head = ["what", "precision", "taken", "plain, ms", "so, ms", "speed-up"]
    return markdown(head, rows)


def convolutions() -> str:
    """Algorithms for one convolution."""
    rows = []
    for row in record("convolutions")["rows"]:
        (what, side), (plain, *others) = (row["channels"], row["side"]), row["ways"].items()
        for other in others:
            rows.append(
                [f"{what[0]} to {what[1]} at {side}x{side}", other[0]]
                + [f"{timed['ms']['median']:.2f}" for _, timed in (plain, other)]
                + [f"{other[1]['speed_up']:.2f}"]
                + [f"{timed['difference_to_float64']:.0e}" for _, timed in (plain, other)]
            )
    head = ["channels", "algorithm", "oneDNN, ms", "its, ms", "speed-up"]
    return markdown([*head, "oneDNN to float64", "its to float64"], rows)


def kernel_compiling() -> str:
    """What optimising the reference compiles, by card and type."""
    cards: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in record("kernel_compiling")["rows"]:
        cards.setdefault((row["capability"], row["type"]), []).append(row)
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "TF32"}
    return markdown(
        ["card", "in", "kernels", "processor time", "registers", "shared memory", "spill"],
        [
            [
                f"sm_{capability}",
                names[kind],
                len(rows),
                f"{sum(row['cpu_seconds'] for row in rows):.0f} s",
                f"{max(row['registers'] for row in rows)} at most",
                f"{max(row['shared_kib'] for row in rows):.0f} KiB at most",
                sum(row["stack_bytes"] > 0 for row in rows),
            ]
            for (capability, kind), rows in cards.items()
        ],
    )
