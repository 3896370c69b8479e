"""The tables of tiles, from the committed records."""

from __future__ import annotations

from typing import Any

from .records import markdown, record


def _share(pixels: float) -> str:
    return f"{pixels:.5%}" if pixels else "0"


def tiling_margins() -> str:
    """How far encoders look, and how exact their tiles are."""
    rows: list[list[Any]] = []
    for row in record("tiling_margins")["rows"]:
        margin = row["margin"]
        rows.append(
            [
                row["encoder"],
                f"trained, {row['steps']} steps" if "steps" in row else "random",
                row["precision"],
                f"{margin['left']} / {margin['right']}",
                "padded" if row["padded"] else "as it is",
                f"{row['difference']:.1e} of {row['largest_logit']:.2f}",
                _share(row["flipped"]),
                row["overwork"],
            ]
        )
    head = [
        *("encoder of a Unet", "weights", "precision", "margin before / after, pixels", "picture"),
        *("largest difference of logits", "other class", "pixels computed for one"),
    ]
    refused = ", ".join(record("tiling_margins")["refused"])
    return markdown(head, rows) + f"\nRefused, because they look at everything: {refused}.\n"


def tiling() -> str:
    """One model by every way of tiling."""
    rows: list[list[Any]] = []
    for row in record("tiling")["rows"]:
        margin = row.get("margin")
        known = "difference" in row
        rows.append(
            [
                row["method"],
                f"{margin['left']} / {margin['right']}" if margin else "",
                f"{row['difference']:.1e} of {row['largest_logit']:.1f}" if known else "",
                _share(row["flipped"]) if known else "",
                f"{row['cpu_seconds']:.1f} s",
                f"{row['peak_mib']:,} MiB" if "peak_mib" in row else "",
            ]
        )
    head = [
        *("", "margin", "largest difference of logits", "other class", "processor time"),
        "memory for it",
    ]
    return markdown(head, rows)


def tiling_memory() -> str:
    """Peak memory at two heights."""
    rows = [
        [
            f"{row['height']:,} x {row['width']:,}",
            f"{row['forwards']} of {row['tiles']}",
            f"{row['peak_mib']:,} MiB",
            f"{row['cpu_seconds']:.0f} s",
        ]
        for row in record("tiling_memory")["rows"]
    ]
    return markdown(["GeoTIFF", "tiles with known pixels", "peak memory", "processor time"], rows)
