"""How time and memory grow, from the committed record: a table, sentences and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import absent, exists, markdown, record

#: What an axis of the record is called, and the size of its other values.
AXES = {
    "batch": "images of 256x256",
    "side": "side of one image",
    "classes": "classes, one image of 512x512",
}
#: Colours (Okabe and Ito's) and markers of the ways, in the order of the table.
STYLES = {
    "segzoo optimize": ("#0072B2", "o"),
    "segzoo eager": ("#56B4E9", "s"),
    "smp compiled, frozen": ("#D55E00", "v"),
    "smp eager": ("#E69F00", "^"),
}


def growth() -> str:
    """A table for each axis, what failed, and the picture."""
    if not exists("growth"):
        return absent("growth")
    rows = record("growth")["rows"]
    parts = [_table(rows, axis) for axis in AXES]
    failed = list(_failures(rows))
    if failed:
        parts.append("\n".join(f"- {line}" for line in failed) + "\n")
    return "\n".join([*parts, "![Growth of time and memory](images/growth.png)\n"])


def _table(rows: Sequence[Mapping[str, Any]], axis: str) -> str:
    rows = [row for row in rows if row["axis"] == axis]
    names = [name for name in STYLES if any(name in row.get("ways", {}) for row in rows)]
    head = [AXES[axis], "threads", *(f"{name}: ms (a megapixel), MiB" for name in names)]
    lines = [[row["value"], row["threads"], *(_cell(row, name) for name in names)] for row in rows]
    return markdown(head, lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    way = row.get("ways", {}).get(name)
    if way is None:
        return "-"
    if "ms" not in way:
        return "failed"
    middle = way["ms"]["median"]
    return f"{middle:,.0f} ({middle / megapixels(row):,.0f}), {way['peak_mib']:,}"


def megapixels(row: Mapping[str, Any]) -> float:
    """Of the batch."""
    return float(row["batch"] * row["side"] ** 2 / 1e6)


def _failures(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was not measured, with the reason."""
    for row in rows:
        where = f"{AXES[row['axis']]}: {row['value']}, threads: {row['threads']}"
        if "failed" in row:
            yield f"{where}: {row['failed']}"
        for name, way in row.get("ways", {}).items():
            if "failed" in way:
                yield f"{where}: {name}: {way['failed']}"


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Milliseconds and MiB a megapixel with one thread: what grows in step is a level line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(AXES), figsize=(10, 5.5), sharex="col", sharey="row", constrained_layout=True
    )
    for column, axis in zip(axes.T, AXES, strict=True):
        points = [row for row in rows if row["axis"] == axis and row["threads"] == 1]
        for name, (colour, marker) in STYLES.items():
            known = [row for row in points if "ms" in row.get("ways", {}).get(name, {})]
            values = [row["value"] for row in known]
            style = {"color": colour, "marker": marker, "markersize": 5, "label": name}
            times = [row["ways"][name]["ms"]["median"] / megapixels(row) for row in known]
            memory = [row["ways"][name]["peak_mib"] / megapixels(row) for row in known]
            column[0].plot(values, times, **style)
            column[1].plot(values, memory, **style)
        column[1].set_xscale("log", base=2)
        ticks = sorted({row["value"] for row in points})
        column[1].set_xticks(ticks, [str(tick) for tick in ticks])
        column[1].set_xlabel(AXES[axis], fontsize=9)
    for axis, label in zip(axes[:, 0], ("ms a megapixel", "MiB a megapixel"), strict=True):
        axis.set_ylabel(label, fontsize=9)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
