"""docs/migrating.md names every argument of the others, and only arguments that exist here."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp

import segzoo

TEXT = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
RECIPE = {field.name for field in dataclasses.fields(segzoo.Recipe)}
ARCHITECTURES = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN"),
    *("DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer", "DPT"),
)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def arguments_of(kind: type) -> set[str]:
    return {*inspect.signature(kind).parameters}


def named(cell: str) -> Iterator[str]:
    """Arguments that a cell tells: ``name`` or ``name=...`` in a pair of backticks."""
    for code in re.findall(r"`([^`]*)`", cell):
        found = re.fullmatch(r"(\w+)(=.*)?", code)
        if found and not code.startswith(("segzoo", "model")):
            yield found[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_argument_of_smp_is_told(name):
    text = section("From segmentation_models_pytorch")
    for argument in {*inspect.signature(getattr(smp, name).__init__).parameters} - {
        "self",
        "kwargs",
    }:
        assert re.search(rf"`{argument}\b", text), f"{name}: {argument}"


def test_what_stands_beside_them_exists_here():
    text = section("From segmentation_models_pytorch").partition("What each has beside these:")[2]
    table = rows(text.partition("Around the model:")[0])[2:]
    told: set[str] = set()
    kinds: list[str] = []
    for kind, _, ours in table:
        kinds = re.findall(r"`(\w+)`", kind) or kinds
        told |= {*kinds}
        for argument in named(ours):
            if argument in ("dilation", "depth"):
                continue
            for name in kinds:
                assert argument in arguments_of(getattr(segzoo, name)), (name, argument)
    assert told == {*ARCHITECTURES}


def test_the_default_widths_that_are_told_are_the_defaults():
    number = r"`(\w+)=(\d+(?:\.\d+)?)`"
    compared = 0
    for kind, *pair in rows(section("From segmentation_models_pytorch")):
        theirs, ours = [re.fullmatch(number, cell) for cell in pair] if len(pair) == 2 else (0, 0)
        name = re.fullmatch(r"`(\w+)`", kind)
        if theirs and ours and name:
            default = inspect.signature(getattr(segzoo, name[1])).parameters[ours[1]].default
            assert theirs[2] == ours[2]
            assert default == float(ours[2]), (name[1], ours[1])
            compared += 1
    assert compared >= 4


def test_every_argument_of_fastai_is_told():
    # Read, not imported: that would take longer than all other tests of this file.
    package = Path(str(importlib.util.find_spec("fastai").origin)).parent
    tree = ast.parse((package / "vision" / "models" / "unet.py").read_text())
    (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "DynamicUnet"]
    (made,) = [n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    given = {argument.arg for argument in made.args.args}
    text = section("From fastai")
    assert "last_cross" in given
    # What unet_learner fills in, or what a model of fixed layers does not have.
    for argument in given - {"self", "encoder", "img_size", "init"}:
        assert f"`{argument}" in text, argument


def test_recipes_have_the_fields_that_are_told():
    told = [
        name
        for call in re.findall(r"Recipe\((.*?)\)", TEXT)
        for name in re.findall(r"(\w+)=", call)
    ]
    assert told
    assert {*told} <= RECIPE
    training = section("From mmsegmentation").partition("| The training's config | segzoo |")[2]
    known = RECIPE | {"epochs", "label_map", "ignore_index", "classes", "palette"}
    for _, ours in rows(training)[1:]:
        assert {*named(ours)} <= known, ours
    fastai = section("From fastai").partition("| fastai's training |")[2]
    for row in rows(fastai.partition("\n\n")[0])[1:]:
        assert {*named(row[-1])} <= RECIPE | {"wd_bn_bias"}, row


def test_heads_of_mmsegmentation_are_architectures_here():
    heads = rows(section("From mmsegmentation"))
    for theirs, ours in heads:
        if "Head`" in theirs and "auxiliary" not in theirs and "none" not in ours:
            for name in re.findall(r"`(\w+)`", ours):
                assert issubclass(getattr(segzoo, name), segzoo.SegmentationModel)
    known = {*segzoo.list_encoders()}
    encoders = re.findall(r'encoder="(\w+)"', section("From mmsegmentation"))
    assert encoders
    assert {*encoders} <= known
