"""The record of reference models as a table of Markdown."""

from __future__ import annotations

from benchmarks.records import absent, exists, markdown, record


def zoo() -> str:
    """What was trained, pushed and pulled."""
    if not exists("zoo"):
        return absent("zoo.publish")
    result = record("zoo")
    rows = [
        [
            f"`{row['model']}`",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{100 * row['miou_mean']:.1f} "
            f"({100 * row['miou_least']:.1f} to {100 * row['miou_greatest']:.1f})",
            f"{100 * row['miou_pushed']:.1f}",
            f"{100 * row['miou_pulled']:.1f}",
        ]
        for row in result["rows"]
    ]
    head = ["model", "weights", f"mIoU, {result['seeds']} seeds", "of the pushed", "of the pulled"]
    return markdown(head, rows)
