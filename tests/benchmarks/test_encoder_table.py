"""The record of all encoders, and the table with a search that the documentation makes of it."""

import html.parser
import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.encoders import describe
from benchmarks.encoders import table as encoders_table
from benchmarks.records import RESULTS, record
from tests.pages.browser import CHROMIUM, need

SCRIPT = Path(__file__).parents[2] / "docs" / "static" / "encoders.js"
RECORD = record("encoders")
node = shutil.which("node")


class Table(html.parser.HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_the_record_has_every_architecture_on_a_line_of_its_own():
    names = [row["name"] for row in RECORD["rows"]]
    assert len(names) == len(set(names)) == RECORD["architectures"]
    assert RECORD["described"] == sum("error" not in row for row in RECORD["rows"])
    lines = (RESULTS / "encoders.json").read_text().partition('"rows": [\n')[2].splitlines()
    assert [json.loads(line.rstrip(","))["name"] for line in lines[:-2]] == names


@pytest.mark.skipif(
    version("timm") != RECORD["environment"]["packages"]["timm"],
    reason="the record was made with another version of timm",
)
@pytest.mark.parametrize(
    "name", ["resnet34", "crossvit_9_240", "levit_128s", "vit_tiny_patch16_224", "mixer_s16_224"]
)
def test_the_record_is_what_encoder_info_says(name):
    row = next(row for row in RECORD["rows"] if row["name"] == name)
    assert json.loads(json.dumps(describe.describe(name))) == row


def test_the_table_shows_the_record():
    head, *rows = Table(encoders_table.encoders(RECORD["rows"])).rows
    assert len(rows) == len(RECORD["rows"])
    for cells, row in zip(rows, RECORD["rows"], strict=True):
        shown = dict(zip(head, cells, strict=True))
        assert shown["encoder"] == row["name"]
        if "error" in row:
            assert shown["image sizes"] == row["error"]
            continue
        assert shown["parameters"] == f"{row['parameters'] / 1e6:.2f} M"
        assert shown["strides"] == ", ".join(map(str, row["strides"]))
        assert shown["channels"] == ", ".join(map(str, row["channels"]))
        assert (shown["image sizes"], shown["licence"]) == (row["size_rule"], row["license"] or "")


def run_script(code):
    """What a line of JavaScript gives that uses the functions of the page."""
    code = f"const page = require({json.dumps(str(SCRIPT))}); console.log(JSON.stringify({code}))"
    result = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.skipif(not node, reason="needs node")
def test_the_words_of_a_search_are_all_wanted():
    row = {"text": "resnet34 any apache-2.0", "lists": ["2,4,8,16,32", "64,64,128,256,512"]}
    queries = {
        "": True,
        "RESNET apache": True,
        "apache resnet34": True,
        "resnet mit": False,
        "2,4,8,16,32": True,
        " 2, 4, 8, 16, 32  any": True,
        "4,8,16,32": False,  # a part of the strides is another encoder's
        "64,64,128,256,512 34": True,
        "64": False,
    }
    code = f"{json.dumps(list(queries))}.map(q => page.matches({json.dumps(row)}, page.words(q)))"
    assert dict(zip(queries, run_script(code), strict=True)) == queries


@pytest.mark.skipif(not node, reason="needs node")
def test_a_filter_lets_through_what_it_says():
    asked = {
        ("most", "21.28 m", "21.28"): True,
        ("most", "21.28 m", "21"): False,
        ("most", "5.00 at 256x256", "5"): True,
        ("most", "?", "5"): False,  # what is not known is not known to be small
        ("most", "?", ""): True,
        ("least", "4", "1"): True,
        ("least", "0", "1"): False,
        ("is", "mit", "mit"): True,
        ("is", "mit-0", "mit"): False,
        ("is", "", ""): True,
    }
    code = f"{json.dumps(list(asked))}.map((each) => page.passes(...each))"
    assert dict(zip(asked, run_script(code), strict=True)) == asked


@pytest.mark.skipif(not node, reason="needs node")
@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("text", ["", "any", "resnet9", "resnet18"]),
        ("number", ["0.05", "3.63", "5.00 at 256x256", "21.28 M", "?"]),
        ("list", ["", "2, 4, 8", "2, 4, 8, 16", "4, 8", "14, 14"]),
    ],
)
def test_columns_are_sorted_by_what_they_hold(kind, cells):
    code = f"{json.dumps(cells[::-1])}.sort((a, b) => page.compare({kind!r}, a, b))"
    assert run_script(code) == cells


def test_the_page_in_a_browser(tmp_path):
    need(CHROMIUM is not None, "chromium")
    shown = [row for row in RECORD["rows"] if row["name"] in ("resnet18", "resnet34", "vgg11")]
    page = tmp_path / "page.html"
    act = """
        const input = document.querySelector(".encoder-search input");
        input.value = "2,4,8,16,32 resnet";
        input.dispatchEvent(new Event("input", { bubbles: true }));
        const button = document.querySelectorAll(".encoder-table button")[1];
        button.click(); button.click();
        document.title = [...document.querySelectorAll("tbody tr:not([hidden]) th")]
            .map((cell) => cell.textContent).join(" ")
            + "; " + document.querySelector("[role=status]").textContent
            + "; " + document.querySelector("[aria-sort=descending]").textContent
            + "; " + input.labels.length;
    """
    table = "\n".join(encoders_table.encoders(shown).splitlines()[1:-1])
    page.write_text(
        f"<!doctype html><body>{table}<script>{SCRIPT.read_text()}</script>"
        f"<script>addEventListener('load', () => {{{act}}})</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    expected = "resnet34 resnet18; 2 of 3 encoders; parameters; 1"
    assert f"<title>{expected}</title>" in result.stdout
