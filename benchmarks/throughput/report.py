"""A record of ``benchmarks.throughput.run`` as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .settings import from_json

#: Okabe and Ito's colours, which colour-blind people tell apart: ours, and the rival's.
_BLUE, _ORANGE = "#0072B2", "#E69F00"


def report(record: Mapping[str, Any]) -> str:
    """A table for each setting, and what is not there with the reason."""
    parts = [_table(result) for result in record["results"]]
    if record["gpu"] == "not measured":
        parts.append(
            "GPU: not measured; the machine of this run has none, or was told to use none."
        )
    if record["left_out"]:
        lines = [f"- {name}: {reason}" for name, reason in record["left_out"].items()]
        parts.append("Left out:\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def title(result: Mapping[str, Any]) -> str:
    """A setting in a line; the batch that was found, where one was searched."""
    values = dict(result["setting"])
    searched = values.pop("batch_searched")
    return str(from_json(values)) + (" (the best batch)" if searched else "")


def _table(result: Mapping[str, Any]) -> str:
    """One setting, fastest first; what was not timed last, with the reason."""
    head = ["", "ms (least to greatest)", "images/s", "to the best rival", "TFLOP/s", "GB/s"]
    timed = {name: row for name, row in result["ways"].items() if "ms" in row}
    memory = any("memory_gib" in row for row in timed.values())
    head += ["GiB"] if memory else []
    head += ["difference to float64"]
    lines = [head, ["---"] * len(head)]
    for name in sorted(timed, key=lambda name: timed[name]["ms"]["median"]):
        row = timed[name]
        ms, bold = row["ms"], "**" if name == result["best_rival"] else ""
        lines.append(
            [
                f"{bold}{name}{bold}",
                f"{ms['median']:.2f} ({ms['min']:.2f} to {ms['max']:.2f})",
                f"{row['images_per_second']:.2f}",
                f"{row['to_best_rival']:.2f}" if "to_best_rival" in row else "",
                f"{row['tflop_s']:.2f} ({row['of_ceiling']:.0%})",
                f"{row['gb_s']:.1f} ({row['of_copy']:.0%})" if "gb_s" in row else "",
                *([f"{row['memory_gib']:.2f}"] if memory else []),
                f"{row['difference']:.0e}",
            ]
        )
    text = f"{title(result)}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = list(_beside(result["ways"]))
    notes += [
        f"{name}: {row['not_timed']}" for name, row in result["ways"].items() if "ms" not in row
    ]
    if result["no_rival"]:
        notes.append(f"{result['library']}: {result['no_rival']}")
    return text + ("\n\n" + "\n".join(f"- {note}" for note in notes) if notes else "")


def _beside(ways: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What was found of the fastest of each side beside its rate."""
    for name, row in ways.items():
        if "latency_ms" not in row:
            continue
        one = row["latency_ms"]
        parts = [f"a call that is waited for takes {one['p50']:.2f} ms (99 %: {one['p99']:.2f})"]
        if "picture_to_mask_ms" in row:
            whole = row["picture_to_mask_ms"]
            parts.append(
                f"from 8-bit pictures to masks {whole['p50']:.2f} ms (99 %: {whole['p99']:.2f})"
            )
            parts.append(
                f"first call at another shape {row['first_call_at_another_shape_ms']:.0f} ms"
            )
        if "joules" in row:
            parts.append(f"{row['joules']:.3f} J a call")
        yield f"{name}: {'; '.join(parts)}"


def plot(record: Mapping[str, Any], path: Path) -> None:
    """Images per second as bars from zero, a panel for each setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [result for result in record["results"] if any("ms" in r for r in _rows(result))]
    if not results:
        return
    heights = [sum("ms" in row for row in _rows(result)) + 2 for result in results]
    figure, axes = plt.subplots(
        len(results),
        figsize=(8, 0.27 * sum(heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        constrained_layout=True,
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        rows = {name: row for name, row in result["ways"].items() if "ms" in row}
        names = sorted(rows, key=lambda name: rows[name]["images_per_second"])
        speeds = [rows[name]["images_per_second"] for name in names]
        colours = [_BLUE if name.startswith("segzoo") else _ORANGE for name in names]
        bars = axis.barh(names, speeds, color=colours)
        axis.bar_label(bars, [f"{speed:.3g}" for speed in speeds], padding=3, fontsize=8)
        axis.set_title(title(result), fontsize=9, loc="left")
        axis.set_xlim(0, 1.12 * max(speeds))
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("images per second", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _rows(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(result["ways"].values())
