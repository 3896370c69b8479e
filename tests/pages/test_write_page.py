"""A site in a folder: all of it, whatever was there, or nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.errors import ArgumentError, InputError, StorageError
from segzoo.pages import runtime
from segzoo.pages.site import assets
from segzoo.pages.write_page import check_values, question, write_page

from ..helpers import TinyBackbone

UNNAMEABLE = os.fsdecode(b"\xff.png")
GUIDE = Path(__file__).parents[2] / "docs" / "pages.md"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a street & more.png"
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(path)
    return path


def told(folder) -> dict:
    return json.loads((folder / "page.json").read_text())


def test_a_site_has_all_that_its_page_asks_for(exported, small_runtime, picture, tmp_path):
    folder = tmp_path / "site"
    page = write_page(exported, folder, title="Streets", examples=[picture], runtime=small_runtime)
    assert page == folder / "index.html"
    facts = told(folder)
    assert (facts["title"], facts["engine"]) == ("Streets", "browser")
    assert facts["examples"] == ["examples/a%20street%20%26%20more.png"]
    files = [facts["model"], *(f for kind in facts["runtime"].values() for f in kind.values())]
    for file in files:
        assert (folder / file["src"]).stat().st_size == file["bytes"]
    assert (folder / facts["model"]["src"]).read_bytes() == exported.path.read_bytes()
    assert (folder / "examples" / picture.name).read_bytes() == picture.read_bytes()
    assert {path.name for path in folder.iterdir()} == {
        *assets(), "page.json", "runtime", "examples", facts["model"]["src"],
    }  # fmt: skip
    # A web server that does not know .mjs would not give it as a script.
    assert not list(folder.rglob("*.mjs"))
    assert "MIT License" in (folder / "runtime" / "LICENSE.txt").read_text()


def test_a_page_is_replaced_and_what_others_put_there_stays(
    exported, small_runtime, picture, tmp_path
):
    folder = tmp_path / "site"
    (folder / ".git").mkdir(parents=True)
    write_page(exported, folder, examples=[picture], runtime=small_runtime)
    before = told(folder)["model"]["src"]
    (folder / "CNAME").write_text("example.org")
    (folder / before).rename(folder / "model-0123456789ab.onnx")  # as of an earlier model
    (folder / "model-mine.onnx").write_bytes(b"mine")
    write_page(exported, folder, title="Second", runtime=small_runtime)
    assert told(folder)["title"] == "Second"
    assert (folder / "CNAME").read_text() == "example.org"
    assert (folder / ".git").is_dir()
    assert {path.name for path in folder.glob("*.onnx")} == {before, "model-mine.onnx"}
    assert list((folder / "examples").iterdir()) == []


def test_the_question_of_the_page_has_the_models_answer(model, exported):
    facts = check_values(exported)
    image = question(facts["shape"])
    assert image.abs().max() <= 1
    assert abs(float(image.mean())) < 0.01
    with torch.no_grad():
        logits = model(image).flatten()[facts["places"]]
    assert torch.allclose(torch.tensor(facts["logits"]), logits, rtol=1e-4, atol=1e-4)
    assert len(facts["places"]) == 64


def test_an_encoder_of_one_size_gets_a_page_that_scales(small_runtime, tmp_path):
    backbone = TinyBackbone()
    rule = segzoo.SizeRule(fixed=(32, 48))
    encoder = segzoo.Encoder(backbone, backbone.features, name="one_size", size_rule=rule)
    write_page(segzoo.Unet(encoder, classes=1), tmp_path / "site", runtime=small_runtime)
    facts = told(tmp_path / "site")
    assert facts["size"] == [32, 48]
    assert facts["check"]["shape"] == [1, 3, 32, 48]
    assert [item["name"] for item in facts["classes"]] == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("arguments", "kind", "reason"),
    [
        ({"title": ""}, ArgumentError, "title must have"),
        ({"max_pixels": 10}, ArgumentError, "max_pixels must be between"),
        ({"examples": "a.png"}, ArgumentError, "several paths"),
        ({"examples": ["missing.png"]}, InputError, "missing.png"),
        ({"examples": ["text.png"]}, InputError, "text.png"),
        ({"examples": ["scan.tif"]}, ArgumentError, "browsers do not show"),
        ({"examples": ["a.png", "b/a.png"]}, ArgumentError, "Two examples"),
        ({"examples": [UNNAMEABLE]}, ArgumentError, "a part of it is no character. Rename"),
    ],
)
def test_arguments_that_cannot_work(
    exported, small_runtime, tmp_path, monkeypatch, arguments, kind, reason
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "text.png").write_text("text")
    for name in ("a.png", "b/a.png", "scan.tif"):
        Image.new("RGB", (3, 3)).save(name)
    if UNNAMEABLE in arguments.get("examples", ()):
        with suppress(OSError):  # not every system has such names
            Path("a.png").rename(UNNAMEABLE)
        if not Path(UNNAMEABLE).exists():
            pytest.skip("needs a system on which names are bytes")
    with pytest.raises(kind, match=reason):
        write_page(exported, tmp_path / "site", runtime=small_runtime, **arguments)
    assert not (tmp_path / "site").exists()


@pytest.mark.usefixtures("export_is_known")
def test_the_lines_of_the_guide_write_a_page(model, small_runtime, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "cache_folder", lambda: small_runtime)
    model.save_pretrained("my-model")
    Image.new("RGB", (9, 9)).save("coins.png")
    (lines,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(lines, GUIDE.name, "exec"), {})
    assert told(tmp_path / "site")["title"] == "Coins"
    assert runtime.VERSION in GUIDE.read_text()


def test_folders_that_are_somebody_elses(exported, small_runtime, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"other files in it \(.*\) and no page of segzoo"):
        write_page(exported, tmp_path, runtime=small_runtime)
    with pytest.raises(ArgumentError, match="is no folder"):
        write_page(exported, tmp_path / "notes.txt", runtime=small_runtime)
    with pytest.raises(StorageError, match=r"could not be written to .*: .*too long"):
        write_page(exported, tmp_path / ("x" * 300), runtime=small_runtime)
    with pytest.raises(ArgumentError, match="takes a segzoo model, got str"):
        write_page("model", tmp_path / "site", runtime=small_runtime)


def test_what_fails_leaves_the_page_that_was_there(exported, small_runtime, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    write_page(exported, folder, title="First", runtime=small_runtime)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segzoo.pages.write_page.shutil.copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        write_page(exported, folder, title="Second", runtime=small_runtime)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(StorageError, match="No space left"):
        write_page(exported, tmp_path / "new", runtime=small_runtime)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "an empty folder"])
@pytest.mark.parametrize("fails", ["copy_file", "write_text", "os.replace"])
def test_a_first_page_that_fails_late_is_gone_and_can_be_written_again(
    exported, small_runtime, picture, tmp_path, monkeypatch, there, fails
):
    folder = tmp_path / "site"
    if there:
        folder.mkdir()
    replace = os.replace

    def full(source, target, *_):
        if fails != "os.replace" or Path(target) == folder / "index.html":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(f"segzoo.pages.write_page.{fails}", full)
        with pytest.raises(StorageError, match="No space left"):
            write_page(exported, folder, examples=[picture], runtime=small_runtime)
    assert folder.exists() == there
    assert not there or list(folder.iterdir()) == []
    write_page(exported, folder, examples=[picture], runtime=small_runtime)
    assert (folder / "examples" / picture.name).is_file()


def test_the_command_writes_it_and_says_how_to_look_at_it(
    exported, small_runtime, tmp_path, capsys
):
    out = tmp_path / "my site"
    arguments = ["page", str(exported.path), "-o", str(out), "--runtime", str(small_runtime)]
    assert main([*arguments, "--title", "<Coins>"]) == 0
    printed = capsys.readouterr().out
    assert str(out / "index.html") in printed
    assert f"python -m http.server --directory {shlex.quote(str(out))}, then" in printed
    assert told(out)["title"] == "<Coins>"


def test_the_command_without_a_network(exported, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    assert main(["page", str(exported.path), "-o", str(tmp_path / "site")]) == 2
    assert "npm pack onnxruntime-web" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
    assert not runtime.is_cached()
