"""What the page is told of a model, and which files it is made of."""

from __future__ import annotations

import json
import re

import pytest
import torch

import segzoo
from segzoo.data.drawing import class_colors
from segzoo.errors import ArgumentError
from segzoo.pages.site import ENGINES, PAGE_JSON, assets, page_json


def model(**options) -> segzoo.SegmentationModel:
    torch.manual_seed(0)
    return segzoo.Unet("test_resnet", depth=2, **{"classes": 3, **options})


def test_the_files_need_no_other_place():
    files = assets()
    assert {"index.html", "app.js", "style.css", "worker.js"} <= set(files)
    assert PAGE_JSON not in files
    for name, content in files.items():
        text = content.decode()
        addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+", text)
        assert set(addresses) <= {"http://www.w3.org"}, name  # the name space of SVG
        for other in re.findall(r"""(?:from|import|src=|href=) ?["']\.?/?([\w.-]+)["']""", text):
            assert other in files, f"{name} asks for {other}"
    page = files["index.html"].decode()
    assert "default-src 'none'" in page
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=", page)


def test_every_element_that_a_script_asks_for_is_there():
    files = {name: content.decode() for name, content in assets().items()}
    there = set(re.findall(r'\bid="([\w-]+)"', files["index.html"]))
    for name, text in files.items():
        if name.endswith(".js"):
            assert set(re.findall(r'\bat\("([\w-]+)"\)', text)) <= there, name
            assert "innerHTML" not in text, name


def test_the_page_is_told_what_predict_does():
    told = page_json(model(class_names=["ground", "<b>", "tree"]), engine="browser", title="A & B")
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert [item["name"] for item in told["classes"]] == ["ground", "<b>", "tree"]
    colors = [list(bytes.fromhex(item["color"][1:])) for item in told["classes"]]
    assert colors == class_colors(3).tolist()
    assert (told["title"], told["logits"], told["threshold"]) == ("A & B", 3, None)
    assert (told["in_channels"], len(told["mean"]), len(told["std"])) == (3, 3, 3)
    assert (told["segment"], told["max_pixels"]) == (None, 2**20)


def test_one_logit_tells_two_classes_apart():
    told = page_json(model(classes=1, class_names=["crack"]), engine="server", max_pixels=9)
    assert [item["name"] for item in told["classes"]] == ["background", "crack"]
    assert (told["logits"], told["threshold"]) == (1, 0.0)
    assert (told["segment"], told["max_pixels"]) == ("v1/segment", 9)
    assert [item["name"] for item in page_json(model(classes=1), engine="server")["classes"]] == [
        *("class 0", "class 1")
    ]


@pytest.mark.parametrize(
    ("options", "arguments", "reason"),
    [
        ({"in_channels": 4}, {"engine": "browser"}, "4 bands"),
        ({}, {"engine": "browsr"}, "Did you mean browser"),
        ({}, {"engine": ENGINES[0], "title": "x" * 201}, "title must have 1 to 200"),
        ({}, {"engine": ENGINES[0], "title": "a\nb"}, "one line"),
    ],
)
def test_what_cannot_be_shown(options, arguments, reason):
    with pytest.raises(ArgumentError, match=reason):
        page_json(model(**options), **arguments)
