"""The commands that move models: push, pull, convert, and the drawing of info."""

import json

import pytest
import segmentation_models_pytorch as smp
import torch

import segzoo
from segzoo.cli import main

from ..architecture_checks import ON_ANY_ENCODER
from ..helpers import randomise


@pytest.fixture(scope="module")
def smp_model():
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, classes=2)
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(smp_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("smp") / "checkpoint.pth"
    torch.save(smp_model.state_dict(), path)
    return path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out.strip(), captured.err.strip()


@torch.no_grad()
def test_a_checkpoint_of_smp_goes_to_the_hub_and_back(capsys, hub, checkpoint, smp_model, tmp_path):
    folder, pulled = tmp_path / "model", tmp_path / "pulled"
    code, out, _ = run(capsys, "convert", "smp", checkpoint, folder)
    assert (code, out) == (0, f"{folder}: Unet with resnet18.a1_in1k")
    code, out, _ = run(capsys, "push", folder, "user/name", "--message", "first")
    assert code == 0
    assert "user/name" in out
    code, out, _ = run(capsys, "pull", "user/name", pulled)
    assert (code, out) == (0, str(pulled))
    code, out, _ = run(capsys, "pull", "user/name", tmp_path / "again", "--offline")
    assert code == 0
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(segzoo.from_pretrained(pulled)(image), smp_model(image))


def test_what_tensors_do_not_tell_comes_from_a_file(capsys, tmp_path):
    model = smp.PAN("resnet18", encoder_weights=None, encoder_output_stride=32)
    torch.save(model.state_dict(), tmp_path / "pan.pth")
    said = {"encoder_output_stride": 32, "decoder_interpolation": "nearest"}
    (tmp_path / "said.json").write_text(json.dumps(said))
    arguments = ("convert", "smp", tmp_path / "pan.pth", tmp_path / "out")
    code, _, err = run(capsys, *arguments, "--config", tmp_path / "sad.json")
    assert (code, "sad.json" in err) == (2, True)
    options = ("--config", tmp_path / "said.json", "--interpolation", "bilinear")
    assert run(capsys, *arguments, *options)[0] == 0
    config = segzoo.from_pretrained(tmp_path / "out").config
    assert (config.output_stride, config.interpolation) == (32, "bilinear")


def test_rates_that_are_none(capsys, tmp_path):
    rates = ("--atrous-rates", "6,x")
    code, _, err = run(capsys, "convert", "torchvision", "a.pth", tmp_path / "out", *rates)
    assert code == 2
    assert "'6,x' are no rates" in err


def test_a_converted_model_overwrites_nothing(capsys, checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    code, _, err = run(capsys, "convert", "smp", checkpoint, tmp_path)
    assert code == 2
    assert "is not an empty folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert", "smp", "missing.pth", "out"), "missing.pth"),
        (("convert", "fastai", "missing.pth", "out"), "no file 'missing.pth'"),
        (("convert", "smp", "missing.pth"), "Missing argument 'OUT'"),
        (("push", "missing", "user/name"), "no folder 'missing'"),
        (("pull", "noslash", "out"), "no repository id"),
        (("pull", "user/missing", "out"), "no such repository"),
        (("info", "resnet18", "--arch", "unett"), "Did you mean unet"),
        (("info", "resnet18", "--arch", "unet", "--json"), "does not go with --json"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    capsys, hub, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", sorted(segzoo.ARCHITECTURES))
def test_info_draws_every_architecture(capsys, architecture):
    encoder = "resnet18" if architecture in ON_ANY_ENCODER else "test_vit"
    code, out, _ = run(capsys, "info", encoder, "--arch", architecture)
    assert code == 0
    names = ("image", "layer", "head") if encoder == "resnet18" else ("image", "map 1", "upscale")
    assert all(name in out for name in names)


def test_convert_alone_shows_its_help(capsys):
    code, out, _ = run(capsys, "convert")
    assert code == 0
    assert "fastai" in out
