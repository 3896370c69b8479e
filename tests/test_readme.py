"""Every snippet of the README and of the guides runs; every table is what the records say."""

import ast
import dataclasses
import functools
import os
import re
import shlex
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

import segzoo
from benchmarks import tables
from benchmarks.parity.fastai_models import Case, fastai_unet
from segzoo import bench
from segzoo.architectures.diagram import diagram
from segzoo.cli import main
from segzoo.encoders import build_on_meta
from segzoo.serving import run as serving

from .datasets.making import make_pairs

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "docs/quickstart.md", "docs/resnet34.md", "docs/dynamic_unet.md"),
    *("docs/architectures.md", "docs/encoders.md", "docs/vit.md", "docs/many-pictures.md"),
    *("docs/pictures.md", "docs/large-images.md", "docs/data.md", "docs/training.md"),
    "docs/scores.md",
    *("docs/performance.md", "docs/deployment.md"),
)
#: Pairs in ``images`` and ``masks`` for the guides, in three series.
DATA = [f"{place}_{n}" for place in ("lane", "park", "road") for n in range(1, 5)]


#: What a guide shows -> what is run in its place, which is the same but smaller. As they stand they
#: run where SEGZOO_SWEEP is set. README.md keeps its encoders, docs/resnet34.md is about one.
SMALLER = {
    "(3, 900, 1200)": "(3, 420, 560)",
    "tile=512": "tile=256",
    "size=(128, 160)": "size=(64, 96)",
    ":128, :160": ":64, :96",
    "torch.rand(1, 3, 256, 256)": "torch.rand(1, 3, 64, 64)",
    "bench resnet34 --size 128": "bench test_resnet --size 64",
    "torch.rand(1, 3, 256, 320)": "torch.rand(1, 3, 64, 96)",
}
ENCODERS = {'"resnet18"': '"test_resnet"', '"resnet34"': '"test_resnet"'}
ENCODERS["--encoder resnet34"] = "--encoder test_resnet"
#: What is written as a file has two of five steps.
ENCODERS['("test_resnet", classes=3, class'] = '("test_resnet", depth=2, classes=3, class'
#: Pages whose commands in bash are run.
COMMANDS = ("docs/index.md", "docs/quickstart.md")


def smaller(block: str, page: str) -> str:
    if os.environ.get("SEGZOO_SWEEP"):
        return block
    whole = page in ("README.md", "docs/resnet34.md")
    for shown, used in {**SMALLER, **({} if whole else ENCODERS)}.items():
        block = block.replace(shown, used)
    return block


def snippets(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_run(page, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("example.png")  # for the model card
    make_pairs(tmp_path, DATA)
    names: dict[str, object] = {}
    blocks = snippets(page, "python")
    assert blocks
    for block in blocks:
        exec(compile(smaller(block, page), page, "exec"), names)


def test_the_commands_of_a_training_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_pairs(tmp_path, DATA)
    Path("photos").mkdir()
    for name in ("photo.jpg", "photos/street.jpg"):
        Image.new("RGB", (20, 20)).save(name)
    extra = ["--no-pretrained", "--epochs", "1", "--workers", "0"]
    readme = "".join(snippets("README.md", "console"))
    lines = [readme, snippets("docs/training.md", "console")[0]]
    commands = [
        shlex.split(line, comments=True)[1:]
        for text in lines
        for line in smaller(text, "docs/training.md").splitlines()
    ]
    assert [command[1] for command in commands] == [
        *("check", "train", "report", "predict", "export"),
        *("check", "train", "predict"),
    ]
    shown = "".join(snippets("docs/index.md", "console"))
    assert commands_in(shown, "$ segzoo") == commands_in(readme, "$ segzoo")[:3]
    for command in commands:
        more = extra if command[1] == "train" else []
        assert main([*command[1:], *more]) == 0, (command, capsys.readouterr().err)


def test_the_table_of_the_recipe_is_that_of_the_recipe():
    text = (ROOT / "docs" / "training.md").read_text()
    found = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", text, flags=re.MULTILINE)
    assert [(name, ast.literal_eval(value)) for name, value in found] == [
        (field.name, field.default) for field in dataclasses.fields(segzoo.Recipe)
    ]


def test_the_check_of_data_prints_what_its_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_pairs(tmp_path, DATA)
    command, _, expected = snippets("docs/data.md", "console")[0].partition("\n")
    assert main(shlex.split(command.removeprefix("$ "))[1:]) == 0
    assert capsys.readouterr().out == expected


def commands_in(text: str, begin: str) -> list[list[str]]:
    """The words of each line that begins so, without comments."""
    return [
        shlex.split(line, comments=True) for line in text.splitlines() if line.startswith(begin)
    ]


def test_the_commands_of_the_first_pages_run(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # What it prints is looked at in tests/cli/test_bench.py; here it is not to take its time.
    monkeypatch.setattr(bench, "run_bench", functools.partial(bench.run_bench, rounds=1))
    # It would serve until a signal came, on a port that somebody else may have.
    monkeypatch.setattr(serving, "run", lambda *_, **__: None)
    bound = serving.bound
    monkeypatch.setattr(serving, "bound", lambda host, port: bound(host, 0))
    prepare_folder(tmp_path)
    text = "".join(block for page in COMMANDS for block in snippets(page, "bash"))
    commands = commands_in(smaller(text, COMMANDS[0]), "segzoo ")
    assert len(commands) >= 10
    for command in commands:
        assert main(command[1:]) == 0, (command, capsys.readouterr().err)


def prepare_folder(folder: Path) -> None:
    """What the commands work on."""
    shallow = {"depth": 2, "decoder_channels": (16, 8)}  # it is written as a file twice
    segzoo.Unet("test_resnet", classes=3, **shallow).save_pretrained(folder / "my-model")
    torch.save(smp.Unet("resnet18", encoder_weights=None).state_dict(), folder / "unet.pth")
    theirs = fastai_unet(Case(), classes=2)
    (folder / "models").mkdir()
    torch.save(theirs.state_dict(), folder / "models" / "stage-2.pth")
    (folder / "photos").mkdir()
    Image.new("RGB", (50, 37), "orange").save(folder / "photos" / "street.jpg")


def test_the_readmes_tables_are_made_from_the_records():
    text = (ROOT / "README.md").read_text()
    assert tables.readme(text) == text, "run: python -m benchmarks.tables"
    assert all(f"<!-- table: {name} -->" in text for name in ("figures", "rivals"))


def test_the_guides_drawing_is_what_is_drawn():
    guide = (ROOT / "docs" / "dynamic_unet.md").read_text()
    model = build_on_meta(lambda: segzoo.DynamicUnet("resnet34", classes=3))
    assert f"```text\n{diagram(model)}\n```" in guide


def test_links_lead_somewhere():
    docs = ROOT / "docs"
    for page in [*ROOT.glob("*.md"), *docs.glob("*.md"), *docs.glob("tutorials/*.md")]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
