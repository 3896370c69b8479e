"""Tables of what strangers' files and kills did."""

from __future__ import annotations

from .records import absent, exists, markdown, record


def attacks() -> str:
    """Cases of each kind, and what came of them."""
    if not exists("attacks"):
        return absent("attacks")
    rows = [
        [
            kind,
            row["cases"],
            row["refused"],
            row["held"],
            row["failed"],
            f"{row['most_memory']:.2f}",
            f"{row['longest_s']:.1f} s",
        ]
        for kind, row in record("attacks")["kinds"].items()
    ]
    head = ["kind", "cases", "refused", "held", "failed", "most memory, to honest", "longest"]
    return markdown(head, rows)


def kills() -> str:
    """Kills of each action, and after how many all was whole."""
    if not exists("kills"):
        return absent("kills")
    rows = [[name, row["kills"], row["whole"]] for name, row in record("kills")["actions"].items()]
    return markdown(["what was killed", "kills -9", "whole afterwards"], rows)
