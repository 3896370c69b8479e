"""What exists here never goes to the Hub, nor what is named as a file; a failure says both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.convert import from_smp, from_transformers
from segzoo.errors import HubError, StorageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


OPENERS = [segzoo.from_pretrained, segzoo.Unet.from_pretrained, from_smp, from_transformers]


@pytest.mark.parametrize("name", ["ck/best.pth", "runs/model.safetensors", "runs/Last.CKPT"])
@pytest.mark.parametrize("opener", OPENERS)
def test_names_of_files_never_go(opener, name, hub, here):
    with pytest.raises(StorageError, match=f"There is no file '{name}'"):
        opener(name)
    assert hub.requests == []


@pytest.mark.parametrize("opener", OPENERS)
def test_a_failure_names_both_possibilities(opener, hub, here):
    message = "There is no folder 'runs/best' here .* taken for a repository .* no such repository"
    with pytest.raises(HubError, match=message):
        opener("runs/best")
    assert hub.requests != []


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_exists_never_goes(opener, kind, hub, here):
    Path("user").mkdir()
    path = Path("user/name")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(StorageError, match="user/name"):
        opener("user/name")
    assert hub.requests == []


def commands(model: str) -> list[list[str]]:
    """Every command that takes a model."""
    return [
        ["predict", "photo.png", "-m", model, "-o", "masks"],
        ["evaluate", model, "images", "masks"],
        ["export", model, "-o", "model.onnx"],
        ["convert", "smp", model, "out"],
        ["convert", "transformers", model, "out"],
    ]


@pytest.mark.parametrize("index", range(5))
def test_commands(index, hub, here, capsys):
    Image.new("RGB", (8, 8)).save("photo.png")
    for folder in ("images", "masks"):
        Path(folder).mkdir()
        Image.new("L", (8, 8)).save(f"{folder}/a.png")
    assert main(commands("runs/best.pt")[index]) == 2
    assert "There is no file 'runs/best.pt'" in capsys.readouterr().err
    assert hub.requests == []
    assert main(commands("runs/best")[index]) == 2
    assert "There is no folder 'runs/best' here" in capsys.readouterr().err


def test_the_weights_of_a_folder_stand_for_it(honest, hub):
    model = segzoo.from_pretrained(honest / "model.safetensors")
    assert model.config == segzoo.from_pretrained(honest).config
    assert hub.requests == []


def test_another_file_is_told_to_be_converted(here, hub):
    torch.save({"a": torch.ones(1)}, "checkpoint")
    with pytest.raises(
        StorageError, match=r"'checkpoint' is a file here, no folder .* segzoo\.convert"
    ):
        segzoo.from_pretrained("checkpoint")
    with pytest.raises(StorageError, match="no folder '"):
        segzoo.from_pretrained("a" * 300)
    assert hub.requests == []


@pytest.mark.parametrize("opener", OPENERS)
def test_what_a_repository_lacks_is_what_was_looked_for(opener, hub, honest, here):
    hub.add("user/half", {"config.json": (honest / "config.json").read_bytes()})
    ours = r"no config.json or no model.safetensors, so it is no model saved by segzoo"
    theirs = r"no config.json, or neither model.safetensors nor pytorch_model.bin\. Weights under"
    converts = opener in (from_smp, from_transformers)
    with pytest.raises(HubError, match=theirs if converts else ours) as raised:
        opener("user/half")
    assert ("saved by segzoo" in str(raised.value)) != converts
