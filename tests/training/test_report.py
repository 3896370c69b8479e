"""The report: one page that needs nothing else, with every name as it is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import segzoo
from segzoo.errors import ArgumentError, StorageError
from segzoo.training.report.charts import Line, line_chart, ticks
from segzoo.training.report.page import write_report
from tests.pages.browser import CHROMIUM, need
from tests.training.trained import trained


class Page(HTMLParser):
    """Checks that tags close in order, and collects them with what they point at."""

    EMPTY = frozenset({"meta", "img", "br", "circle", "line", "polyline"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "a <model> & more"
    trained(folder)
    return folder


def test_one_page_with_everything(folder, tmp_path):
    path = write_report(folder, tmp_path / "r.html")
    text = path.read_text()
    page = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.tags.count("img") == 3
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert "<script>" not in text  # not of the fingerprint either
    assert "<b>" not in text
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in text
    for words in (
        "a <model> & more",
        "<b>road</b> & $x$",
        "car | bus",
        "3f2a<script>",
        "Calibration",
        "best epoch is 3",
    ):
        assert words in page.text


def test_it_lies_beside_the_records_and_can_be_written_again(folder):
    path = write_report(folder)
    assert path == folder / "training" / "report.html"
    before = path.read_bytes()
    assert write_report(folder).read_bytes() == before


def test_what_is_missing_is_left_out(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "training" / "samples")
    for name in ("metrics.jsonl", "recipe.json", "data.json"):
        (copy / "training" / name).unlink()
    page = Page(write_report(copy).read_text())
    assert "img" not in page.tags
    assert "Recipe" not in page.text
    (copy / "training" / "metrics.json").unlink()
    with pytest.raises(StorageError, match=r"has no training/metrics\.json"):
        write_report(copy)
    with pytest.raises(StorageError):
        write_report(tmp_path / "none")


def test_what_is_no_page_is_not_replaced(folder, tmp_path):
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    for name in (weights, tmp_path / "page", tmp_path / "report.pdf"):
        with pytest.raises(ArgumentError, match=r"give report\.html"):
            write_report(folder, name)
    assert weights.read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_scores_on_test_images_stand_apart(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "training" / "metrics.json"
    assert "Test" not in Page(write_report(copy).read_text()).text
    found = json.loads(file.read_text())
    test = segzoo.Scores(counts=((5, 0, 0), (0, 4, 0), (1, 0, 0)), images=2)
    file.write_text(json.dumps({**found, "test": test.to_json()}))
    text = Page(write_report(copy).read_text()).text
    assert "Scores on the test images" in text
    assert "0.900" in text  # its pixel accuracy


@pytest.mark.parametrize("classes", [30, 60])
def test_many_classes(folder, tmp_path, classes):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    counts = np.diag(np.arange(classes)).tolist()
    counts[3][4] = 7
    scores = segzoo.Scores(counts=tuple(map(tuple, counts)), images=2)
    (copy / "training" / "metrics.json").write_text(
        json.dumps({"epoch": 1, "val": scores.to_json()})
    )
    page = Page(write_report(copy).read_text())
    assert page.tags.count("img") == (3 if classes <= 40 else 4)
    assert "class 29" in page.text


def test_charts_of_odd_values():
    assert line_chart("nothing", [Line("a", [1, 2], [None, None])]) == ""
    for values in ([0.0], [1e-9], [3.0, None, 5.0], [1e6] * 20):
        chart = line_chart("a & b", [Line("x", range(1, 1 + len(values)), values)])
        Page(chart)
        assert "nan" not in chart
        assert "a &amp; b" in chart
    assert ticks(3, 3) == [3]


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it(folder, tmp_path, dark):
    need(CHROMIUM is not None, "chromium")
    page = write_report(folder, tmp_path / "r.html")
    shot = tmp_path / "shot.png"
    subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=400,2000",
            f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("L"))
    corner = pixels[:20, :20].mean()
    assert corner < 60 if dark else corner > 230
    assert pixels.std() > 15


def test_a_picture_that_cannot_be_read_is_told_by_its_name(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "training" / "report.html").unlink(missing_ok=True)
    picture = copy / "training" / "samples" / "worst.png"
    picture.unlink()
    picture.mkdir()
    with pytest.raises(StorageError, match=r"picture .*worst\.png of the report could not be read"):
        write_report(copy)
    assert not (copy / "training" / "report.html").exists()
