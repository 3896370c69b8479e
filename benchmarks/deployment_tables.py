"""The tables of exported files, from the committed records."""

from __future__ import annotations

from .records import absent, exists, markdown, record


def int8() -> str:
    """Files in 8-bit integers beside those in float32."""
    if not exists("int8"):
        return absent("int8")
    found = record("int8")
    rows = [
        [
            row["what"],
            f"{row['miou']:.2%}",
            f"{row['agreement']:.2%}" if row.get("agreement") else "",
            f"{row['ms']['median']:.1f}" if "ms" in row else "",
            f"{row['megabytes']:.0f}" if "megabytes" in row else "",
        ]
        for row in found["rows"]
    ]
    head = ["", "mIoU", "the model's class", "ms an image", "MB"]
    faster = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found["speed_up"].items())
    height, width = found["size"]
    return (
        f"{markdown(head, rows)}\n"
        f"Unet on {found['encoder']}, {found['epochs']} epochs of CamVid, {height}x{width}, one "
        f"image at a time; {found['pictures']} pictures for calibrating and judging. As many "
        f"times as fast as in float32: {faster}.\n"
    )
