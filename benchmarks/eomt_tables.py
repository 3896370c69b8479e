"""Tables of EoMT beside transformers' own."""

from __future__ import annotations

from typing import Any

from .records import absent, exists, kinds, markdown, processor, record


def eomt_parity() -> str:
    """The largest difference of masks and classes, over all sizes."""
    if not exists("eomt_parity"):
        return absent("parity.eomt")
    rows = record("eomt_parity")["rows"]
    found: dict[tuple[str, str], dict[tuple[str, bool], float]] = {}
    columns = [(dtype, masked) for dtype in ("float32", "float64") for masked in (False, True)]
    for row in rows:
        worst = max(row[what]["difference"] / row[what]["largest"] for what in ("masks", "classes"))
        cells = found.setdefault((row["kind"], row["backbone"]), {})
        key = (row["dtype"], row["masked"])
        cells[key] = max(cells.get(key, 0.0), worst)
    head = [f"{dtype}, {'within masks' if masked else 'no masks'}" for dtype, masked in columns]
    table = [
        [f"{kind}, {backbone}", *(f"{cells[column]:.1e}" for column in columns)]
        for (kind, backbone), cells in found.items()
    ]
    return markdown(["", *head], table)


def eomt_speed() -> str:
    """Milliseconds of a picture, and how many times as fast as transformers' own."""
    if not exists("eomt_speed"):
        return absent("eomt_speed")
    found = kinds("eomt_speed")
    names = list(found[0]["rows"][0]["milliseconds"])
    table = [
        [
            processor(one["environment"]),
            f"{row['kind']} {row['backbone']}, {row['side']}x{row['side']}, {row['queries']} "
            f"queries, {row['classes']} classes",
            *(_time(row, name) for name in names),
        ]
        for one in found
        for row in one["rows"]
    ]
    return markdown(["processor", "", *names], table)


def _time(row: dict[str, Any], name: str) -> str:
    """Milliseconds, and the ratio; of ``auto`` also what it chose."""
    if name not in row["milliseconds"]:
        return "not measured"
    chosen = f"{row['auto']}: " if name.endswith("auto") else ""
    return f"{chosen}{row['milliseconds'][name]['median']:.0f} ms ({row['speed_up'][name]:.2f})"
