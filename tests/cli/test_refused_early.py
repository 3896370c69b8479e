"""What cannot be written is refused before the work whose result it would be."""

import logging
import os

import pytest
import torch

import segzoo
from segzoo import convert
from segzoo.cli import main
from segzoo.cli.train import _refuse_early
from segzoo.errors import StorageError
from segzoo.files import hub
from segzoo.files.atomic import check_file, check_folder
from segzoo.training.folder import TrainingFolder
from tests.datasets.making import make_pairs
from tests.helpers import tiny_unet


def in_vain(*_, **__):
    pytest.fail("worked in vain")


def test_folders_and_files(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    check_folder(tmp_path / "a" / "b")
    check_file(tmp_path / "file")
    check_file(tmp_path / "new")
    with pytest.raises(StorageError, match="file is no folder"):
        check_folder(tmp_path / "file" / "out")
    for wrong, message in (("", "is a folder"), ("a/b", r"There is no folder .*a to write b to")):
        with pytest.raises(StorageError, match=message):
            check_file(tmp_path / wrong)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in (check_folder, check_file):
        with pytest.raises(StorageError, match="cannot be written to"):
            check(tmp_path / "new")
    with pytest.raises(StorageError, match="cannot be written to"):
        TrainingFolder(tmp_path / "new").look(restart=False)
    with pytest.raises(StorageError, match="cannot be written to"):
        segzoo.export(tiny_unet(), tmp_path / "m.onnx")
    with pytest.raises(StorageError, match="cannot be written to"):
        segzoo.write_page(tiny_unet(), tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["smp", "fastai", "torchvision", "transformers"])
@pytest.mark.parametrize("out", ["full", "file", "file/out"])
def test_convert(capsys, tmp_path, monkeypatch, kind, out):
    monkeypatch.setattr(convert, f"from_{kind}", in_vain)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    assert main(["convert", kind, "checkpoint.pth", str(tmp_path / out)]) == 2
    assert "folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--device", "gpu9"),
        ("--arch", "unnet"),
        ("-o", "file"),
        ("--encoder", "resnet43"),
        ("--encoder", "resnet10t.of_nobody"),
        ("--encoder", "resnet10t", "--arch", "eomt"),
    ],
)
def test_train(capsys, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr("segzoo.cli.train.open_given_data", in_vain)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["train", "data", "-o", "out", *wrong]) == 2
    assert wrong[1].rpartition(".")[2] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_model_says_of_itself_is_said_once(caplog, monkeypatch):
    """Not where it is built to be looked at, but where it is built to be trained."""
    log = logging.getLogger("segzoo.encoders.catalog")

    def built(*_):
        log.warning("it is so")
        return torch.nn.Identity()

    monkeypatch.setattr("segzoo.architectures.base.create_model", built)
    _refuse_early("unet", "resnet34", "cpu")
    assert not caplog.records
    built()
    assert "it is so" in caplog.text


def test_pull(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "find_remote", in_vain)
    (tmp_path / "file").touch()
    assert main(["pull", "user/name", str(tmp_path / "file")]) == 2
    assert "file is no folder" in capsys.readouterr().err


def test_predict_and_its_table(capsys, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow.parquet")
    call = ("predict", tmp_path, "-m", "m", "-o", tmp_path / "o", "--manifest", tmp_path / "m")
    assert main([*map(str, call), "--parquet", str(tmp_path / "none" / "x.parquet")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["images/a.png", "masks/b.png", "none/sheet.png", "images"])
def test_check_does_not_draw_over_the_data(capsys, tmp_path, monkeypatch, name):
    make_pairs(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    monkeypatch.setattr("segzoo.data.check.check_data", in_vain)
    assert main(["check", str(tmp_path), "-o", str(tmp_path / name)]) == 2
    assert "segzoo: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


def test_a_training_that_is_finished_may_be_read_only(tmp_path, monkeypatch):
    folder = TrainingFolder(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(folder, "_look", lambda **_: {"finished": True})
    assert folder.look(restart=False) == {"finished": True}
    monkeypatch.setattr(folder, "_look", lambda **_: {"finished": False})
    with pytest.raises(StorageError, match="cannot be written to"):
        folder.look(restart=False)
