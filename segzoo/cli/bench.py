"""``segzoo bench``: images per second on this machine."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from ..checks import shown
from .output import ARCHITECTURE_NAMES, PartialFailureError, device_option, json_option, print_json
from .reading import whole_number

if TYPE_CHECKING:
    from ..bench import Comparison


def _size(context: click.Context, option: click.Parameter, value: str) -> tuple[int, int]:
    """``512`` or ``480x640``: height and width."""
    height, *widths = map(whole_number, value.lower().split("x"))
    width = widths[-1] if widths else height
    if len(widths) > 1 or not height or not width:
        raise click.BadParameter(
            f"{shown(value)} is no size: give 512, or height and width as 480x640."
        )
    return height, width


@click.command("bench")
@click.argument("encoder")
@click.option("--arch", default="unet", show_default=True, help=f"{ARCHITECTURE_NAMES}.")
@click.option(
    "--size",
    callback=_size,
    default="256",
    show_default=True,
    help="Of the images: 512, or height and width as 480x640.",
)
@click.option("--batch", default=1, show_default=True, help="Images at a time.")
@device_option
@click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of the CPU; torch's choice if left.")
@json_option
def bench_command(
    encoder: str,
    arch: str,
    size: tuple[int, int],
    batch: int,
    device: str,
    dtype: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time a model on ENCODER: eager, optimized, and smp's where it is installed.

    Random weights, the same in all; every output is compared with float64 before it is timed.

    \b
    Example:
      segzoo bench resnet34 --size 512 --batch 4
    """
    import torch

    from ..bench import run_bench
    from ..devices import choose_device
    from ..environment.machine import processor_name

    where = choose_device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        facts = {
            "encoder": encoder,
            "arch": arch,
            "size": size,
            "batch": batch,
            "dtype": dtype,
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else str(where),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "processor": processor_name(),
            "segzoo": __version__,
            "torch": torch.__version__,
        }
        found = run_bench(encoder, arch=arch, size=size, batch=batch, device=where, dtype=dtype)
    finally:
        torch.set_num_threads(before)
    rows = _rows(found, batch)
    if as_json:
        print_json({**facts, "baseline": found.baseline, "smp": found.reason, "ways": rows})
    else:
        _print(facts, found, rows)
    failed = [name for name, row in rows.items() if name.startswith("segzoo") and "reason" in row]
    if failed:
        raise PartialFailureError(f"Not timed: {', '.join(failed)}.")


def _rows(found: Comparison, batch: int) -> dict[str, dict[str, Any]]:
    """For each implementation its figures, or the reason why it has none."""
    base = found.results[found.baseline].timing if found.baseline else None
    rows: dict[str, dict[str, Any]] = {}
    for name, result in found.results.items():
        if result.timing is None or base is None:
            rows[name] = {"reason": result.reason}
            continue
        rows[name] = {
            "ms": result.timing.summary(),
            "images_per_second": round(batch * 1e3 / result.timing.median, 2),
            "ratio": round(result.timing.speed_up_over(base), 3),
            "difference_to_float64": result.difference,
        }
    return rows


def _print(facts: dict[str, Any], found: Comparison, rows: dict[str, dict[str, Any]]) -> None:
    height, width = facts["size"]
    click.echo(
        f"{facts['arch']} on {facts['encoder']}, {facts['batch']} x {height}x{width}, "
        f"{facts['dtype']}, {_where(facts)}, torch {facts['torch']}\n"
    )
    click.echo(f"{'':18}{'ms':>10}{'images/s':>10}{'ratio':>8}")
    for name, row in rows.items():
        if "reason" in row:
            click.echo(f"{name:18}not timed: {row['reason']}")
            continue
        click.echo(
            f"{name:18}{row['ms']['median']:>10.2f}{row['images_per_second']:>10.2f}"
            f"{row['ratio']:>8.2f}"
        )
    if found.baseline:
        click.echo(f"\nratio: how many times faster than {found.baseline}")
    if found.reason:
        click.echo(f"smp: {found.reason}")
    click.echo(f"\n{_line(facts, found, rows)}")


def _where(facts: dict[str, Any]) -> str:
    """What computes: the card, or the processor with its threads."""
    if facts["device"] != "cpu":
        return str(facts["device"])
    return f"{facts['processor']}, {facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"


def _line(facts: dict[str, Any], found: Comparison, rows: dict[str, dict[str, Any]]) -> str:
    """All that another machine's figures are compared by, in one line to send on."""
    timed = {name: row for name, row in rows.items() if "reason" not in row}
    ours = {name: row for name, row in timed.items() if name.startswith("segzoo")}
    height, width = facts["size"]
    model = f"{facts['arch']} {facts['encoder']} {facts['batch']}x{height}x{width} {facts['dtype']}"
    if not ours:
        return f"{model} | {_where(facts)} | not timed"
    best = max(ours, key=lambda name: float(ours[name]["images_per_second"]))
    figure = f"{ours[best]['images_per_second']:.2f} images/s ({best.removeprefix('segzoo ')})"
    if found.baseline != best:
        figure += f", {ours[best]['ratio']:.2f} x {found.baseline}"
    return (
        f"{model} | {_where(facts)} | {figure} | segzoo {facts['segzoo']}, torch {facts['torch']}"
    )
