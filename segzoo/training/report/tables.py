"""The tables of a report: classes, confusions and plain facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...data.drawing import class_colors
from ..score_values import HEADERS, Scores, class_rows
from .text import escape

#: Up to so many classes the confusion matrix is a table.
MATRIX_CLASSES = 40
#: Up to so many its cells are large.
_LARGE = 20
#: How many confusions are named.
_CONFUSIONS = 10


def class_table(scores: Scores) -> str:
    """A row for each class, then their means."""
    colors = class_colors(scores.classes).tolist()
    rows = []
    for i, cells in enumerate(class_rows(scores)):
        name, iou, *others = map(escape, cells)
        mean = i == scores.classes
        swatch = "" if mean else _swatch(colors[i])
        value = scores.miou if mean else scores.iou[i]
        bar = f'<span class="bar"><i style="width:{(value or 0) * 100:.1f}%"></i></span>'
        rows.append(
            f'<tr{" class=mean" if mean else ""}><th scope="row">{swatch}{name}</th>'
            f"<td>{bar}{iou}</td>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"
        )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in HEADERS)
    caption = (
        "Over all pixels of all images together; a dash stands where a class is not there. The "
        "last column is the share of pixels that are of the class."
    )
    return _scroll(
        "Scores of each class",
        f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        caption,
    )


def _swatch(color: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:rgb({",".join(map(str, color))})"></span>'


def most_confused(scores: Scores) -> str:
    """Which classes are taken for which others most often."""
    found = sorted(
        (
            (pixels, true, said)
            for true, row in enumerate(scores.counts)
            for said, pixels in enumerate(row)
            if true != said and pixels
        ),
        key=lambda item: (-item[0], item[1:]),
    )[:_CONFUSIONS]
    if not found:
        return "<p>No pixel was confused.</p>"
    wrong = scores.pixels - sum(scores.right_pixels)
    rows = "".join(
        f'<tr><th scope="row">{escape(scores.names[true])}</th>'
        f"<td>{escape(scores.names[said])}</td>"
        f"<td>{pixels:,}</td><td>{pixels / scores.true_pixels[true]:.1%}</td>"
        f"<td>{pixels / wrong:.1%}</td></tr>"
        for pixels, true, said in found
    )
    heads = ("true", "predicted", "pixels", "of the class", "of all errors")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return _scroll(
        "The most frequent confusions",
        f'<table class="pairs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>',
        "The most frequent confusions",
    )


def matrix(scores: Scores) -> str:
    """The confusion matrix, in percent of each true class."""
    rows = []
    for i, (row, total) in enumerate(zip(scores.counts, scores.true_pixels, strict=True)):
        cells = []
        for pixels in row:
            share = pixels / total if total else 0.0
            text = f"{share * 100:.0f}" if share >= 0.005 else ""
            kind = ' class="strong"' if share > 0.5 else ""
            cells.append(f'<td{kind} style="--s:{share:.3f}">{text}</td>')
        name = escape(scores.names[i])
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in scores.names)
    small = " small" if scores.classes > _LARGE else ""
    caption = (
        "Confusion matrix in percent of the true class (rows) by what was predicted (columns); "
        "below half a percent nothing is written."
    )
    return _scroll(
        "Confusion matrix",
        f'<table class="matrix{small}">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
        caption,
    )


def fact_table(title: str, facts: Mapping[str, Any]) -> str:
    """Names and values; empty where there are none."""
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(key.replace("_", " "))}</th>'
        f"<td>{escape(_text(value))}</td></tr>"
        for key, value in facts.items()
    )
    table = f'<table class="wide facts"><tbody>{rows}</tbody></table>'
    return f"<h2>{escape(title)}</h2>{_scroll(title, table)}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def _scroll(name: str, table: str, caption: str = "") -> str:
    """A table in a box of its own, which a keyboard can scroll where the page is narrow."""
    above = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    label = f'role="region" aria-label="{escape(name)}" tabindex="0"'
    return f'{above}<div class="scroll" {label}>{table}</div>'
