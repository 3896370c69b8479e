"""A model's training as one page of HTML that needs nothing else: no script and no network."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...errors import ArgumentError, StorageError
from ...files.atomic import read_bytes, write_text
from ...files.hub import Access, find_files
from ...files.local import path_of
from ...storage.config_json import Description
from ...storage.pretrained import check
from ..card import Records, dataset_name, read_records
from ..figures import best_epoch
from ..samples import KINDS
from ..score_values import Interval, Scores, number
from .charts import Line, line_chart, reliability_chart
from .style import STYLE
from .tables import MATRIX_CLASSES, class_table, fact_table, matrix, most_confused
from .text import escape

#: Bytes of a picture on it.
_LARGEST_PICTURE = 2**25
#: The page asks nothing of any other place, whatever a name in it may contain.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(
    folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Path:
    """Write the report of a model that was trained by segzoo.

    Args:
        folder: The model's folder.
        path: The page; None for ``report.html`` in ``training/``.

    Returns:
        The page.

    Raises:
        ArgumentError: The folder or the page is no path, or the page's name does not end in .html:
            whatever else lies there is not replaced by one.
        StorageError: The folder holds no model, or nothing is known of its training; or a picture
            of it cannot be read, or the page not be written.
    """
    root = path_of("folder", folder)
    target = root / "training" / "report.html" if path is None else path_of("path", path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(
            f"The report is a page of HTML, and {target} is no name of one: give report.html, say."
        )
    description = check(find_files(root, Access()))
    records = read_records(root)
    if records.scores is None:
        raise StorageError(
            f"{root} has no training/metrics.json, so there is nothing to report. It is there "
            "after segzoo train."
        )
    text = page(root.resolve().name, description, records)
    try:
        write_text(target, text)
    except OSError as error:
        raise StorageError(f"{target} could not be written: {error}.") from error
    return target


def page(title: str, description: Description, records: Records) -> str:
    """The page, for a model of that name."""
    scores = records.scores
    assert scores is not None
    config = description.config
    kind = f"{description.architecture} on {config.encoder}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">{escape(kind)}, {scores.classes} classes, {config.in_channels} bands; '
        f"trained on {escape(dataset_name(records.data))}.</p>",
        _tiles(scores),
        _curves(records),
        f"<h2>Classes</h2>{class_table(scores)}",
        _test(records),
        f"<h2>Confusions</h2>{most_confused(scores)}",
        _matrix(scores, records),
        _calibration(scores),
        _samples(records),
        fact_table("Recipe", records.recipe),
        fact_table("Data", _data(records.data)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n<footer>Made with segzoo {escape(__version__)}.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _tiles(scores: Scores) -> str:
    miou = accuracy = ""
    if scores.intervals is not None:
        miou, accuracy = map(_bounds, (scores.intervals.miou, scores.intervals.pixel_accuracy))
    tiles = [
        _tile("Mean IoU", number(scores.miou), miou),
        _tile("Pixel accuracy", number(scores.pixel_accuracy), accuracy),
        _tile("Mean Dice", number(scores.mean_dice), ""),
    ]
    if scores.boundary_f1 is not None:
        tiles.append(_tile("Boundary F1", number(scores.boundary_f1), ""))
    if scores.ece is not None:
        text = "" if scores.temperature is None else f"temperature {scores.temperature:.2f}"
        tiles.append(_tile("Calibration error", number(scores.ece), text))
    tiles.append(_tile("Images scored", f"{scores.images:,}", f"{scores.pixels:,} pixels"))
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _test(records: Records) -> str:
    """The last score, on images that decided nothing."""
    if records.test is None:
        return ""
    return (
        "<h2>Test</h2><p>Scores on the test images: no epoch and no setting was chosen by them.</p>"
        f"{_tiles(records.test)}{class_table(records.test)}"
    )


def _tile(name: str, value: str, note: str) -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}{small}</dd></div>'


def _bounds(bounds: Interval) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f} (95 %)"


def _curves(records: Records) -> str:
    history = records.history
    if not history:
        return ""
    epochs = [row["epoch"] for row in history]
    miou = [row["val"]["miou"] for row in history]
    accuracy = [row["val"]["pixel_accuracy"] for row in history]
    best = best_epoch(history)
    mark = None if best is None else (float(best), float(miou[epochs.index(best)]))
    charts = [
        line_chart("Training loss", [Line("loss", epochs, [row["loss"] for row in history])]),
        line_chart(
            "Validation",
            [
                Line("mean IoU", epochs, miou, "second"),
                Line("pixel accuracy", epochs, accuracy, "third"),
            ],
            y=(0.0, 1.0),
            mark=mark,
        ),
        line_chart("Learning rate", [Line("rate", epochs, [row["lr"] for row in history])]),
    ]
    note = "" if mark is None else f"The best epoch is {best}, with a mean IoU of {mark[1]:.3f}."
    return f'<h2>Training</h2><p>{note}</p><div class="charts">{"".join(charts)}</div>'


def _matrix(scores: Scores, records: Records) -> str:
    if scores.classes <= MATRIX_CLASSES:
        return matrix(scores)
    if "confusion.png" in records.figures:
        return _image(records.figures["confusion.png"], "The confusion matrix")
    return ""


def _calibration(scores: Scores) -> str:
    if scores.reliability is None or scores.ece is None:
        return ""
    text = (
        f"On the diagonal the model is as sure as it is right; on average it is {scores.ece:.1%} "
        "off it."
    )
    if scores.temperature is not None:
        text += (
            f" Dividing the logits by the temperature {scores.temperature:.2f} before the softmax "
            "brings it nearer, and changes no mask."
        )
    chart = reliability_chart(scores.reliability)
    return f'<h2>Calibration</h2><p>{text}</p><div class="charts">{chart}</div>'


def _samples(records: Records) -> str:
    drawn = [
        f'<figure class="sample"><figcaption>{kind.capitalize()}</figcaption>'
        + _image(
            records.figures[f"samples/{kind}.png"],
            f"The {kind} picture beside its truth, the prediction and the errors",
        )
        + "</figure>"
        for kind in KINDS
        if f"samples/{kind}.png" in records.figures
    ]
    return f"<h2>Samples</h2>{''.join(drawn)}" if drawn else ""


def _image(path: Path, text: str) -> str:
    try:
        data = base64.b64encode(read_bytes(path, largest=_LARGEST_PICTURE)).decode()
    except OSError as error:
        raise StorageError(
            f"The picture {path} of the report could not be read: {error}. Remove it, and the "
            "report is without it."
        ) from error
    return f'<img src="data:image/png;base64,{data}" alt="{escape(text)}">'


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the data, without lists of names."""
    return {
        key: value
        for key, value in data.items()
        if not (isinstance(value, list) and len(value) > 40)
    }
