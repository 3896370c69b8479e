"""The table of all encoders, as HTML, for the page that searches it."""

from __future__ import annotations

import html
from typing import Any

#: What the columns are called, and what is in them: the page sorts by it.
COLUMNS = {
    **{"encoder": "text", "parameters": "number", "GFLOPs": "number", "strides": "list"},
    **{"channels": "list", "image sizes": "text", "licence": "text", "weights": "number"},
}


def encoders(records: list[dict[str, Any]]) -> str:
    """Every encoder, as HTML: it is quicker to build than Markdown, and its rows have heads."""
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in COLUMNS.items())
    rows = [
        f'<tr><th scope="row"><code>{_name(row["name"])}</code></th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in encoder_cells(row))
        + "</tr>"
        for row in records
    ]
    lines = [
        "```{raw} html",
        '<div class="encoder-table" role="region" aria-label="Encoders" tabindex="0">',
        "<table>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        "</table>",
        "</div>",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _name(name: str) -> str:
    """An encoder's name that a browser may break behind each underscore."""
    return html.escape(name).replace("_", "_<wbr>")


def encoder_cells(row: dict[str, Any]) -> list[str]:
    """What stands beside an encoder's name."""
    if "error" in row:
        return ["", "", "", "", row["error"], "", ""]
    size = "x".join(map(str, row["gflops_size"]))
    gflops = "?" if row["gflops"] is None else f"{row['gflops']:.2f}"
    return [
        f"{row['parameters'] / 1e6:.2f} M",
        gflops if size == "224x224" else f"{gflops} at {size}",
        ", ".join(map(str, row["strides"])),
        ", ".join(map(str, row["channels"])),
        row["size_rule"],
        row["license"] or "",
        str(row["pretrained_tags"]),
    ]
