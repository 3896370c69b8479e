"""Files in 8-bit integers: held against the model on pictures that they were not calibrated with."""

import json
import random
import sys

import onnxruntime
import pytest
import torch
from PIL import Image

import segzoo
from segzoo import packages
from segzoo.cli import main
from segzoo.errors import ArgumentError, ExportError, InputError, MissingPackageError
from segzoo.inference.export.exported import open_exported

from ..helpers import randomise, tiny_unet

SIZE = (48, 64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    model = tiny_unet()
    randomise(model)
    return model.train()


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(20, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear")
    return list((smooth * 255).to(torch.uint8))


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_a_file_in_int8_gives_the_model_s_classes(model, pictures, tmp_path, name):
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    packages.load_package("nncf", extra="quantize")  # whose import draws from random, once
    states = random.getstate(), torch.get_rng_state()
    segzoo.export(model, tmp_path / name, size=SIZE, int8=pictures, agreement=0.8)
    assert model.training
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    file = open_exported(tmp_path / name)
    assert file.int8["pictures"] == 15
    # The share is that of each fourth picture, and can be had again.
    same = [(file.predict(p) == model.predict(p)).double().mean() for p in pictures[::4]]
    assert float(sum(same) / len(same)) == pytest.approx(file.int8["agreement"], abs=2e-6)
    assert 0.8 <= file.int8["agreement"] < 1  # else it computes in float32
    assert file.predict(torch.rand(3, 33, 49)).shape == (33, 49)
    beside = {"m.onnx"} if name == "m.onnx" else {"m.xml", "m.bin"}
    assert {path.name for path in tmp_path.iterdir()} == beside


def test_a_file_of_one_size_takes_pictures_of_others(pictures, tmp_path, capsys):
    torch.manual_seed(3)
    model = segzoo.Unet("resnet18", classes=3, depth=1)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        image.resize((70 + index, 50)).save(folder / f"{index}.png")
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "m.onnx"
    call = ["export", str(tmp_path / "model"), "-o", str(out), "--fixed", "--size", "48", "64"]
    code = main([*call, "--batch", "2", "--int8", str(folder), "--agreement", "0.5"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert printed.out == f"{out}\n"
    assert "% of the pixels have the model's class, on pictures that" in printed.err
    facts = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert json.loads(facts["size"]) == [48, 64]
    assert json.loads(facts["int8"])["pictures"] == 15


def test_a_file_too_far_from_the_model_is_not_kept(model, pictures, tmp_path):
    (tmp_path / "m.onnx").write_text("before")
    with pytest.raises(ExportError, match=r"class for 9\d\.\d\d% of the pixels of 5 pictures; 100"):
        segzoo.export(model, tmp_path / "m.onnx", size=SIZE, int8=pictures, agreement=1)
    assert (tmp_path / "m.onnx").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_that_will_not_do(model, pictures, tmp_path):
    (tmp_path / "one.png").write_text("no picture")
    for given, error, message in (
        (pictures[:15], ArgumentError, "at least 16 pictures .*got 15"),
        ([p[:2] for p in pictures], InputError, "has 2 bands; the model takes 3"),
        ([p.long() for p in pictures], InputError, "uint8, uint16 or floating point"),
        (torch.stack(pictures), ArgumentError, "got a tensor|got .*20"),
        ([*pictures, None], ArgumentError, "as files or as tensors"),
        (7, ArgumentError, "got 7"),
        (tmp_path / "nowhere", InputError, "There is no file"),
        (tmp_path / "one.png", InputError, "one.png"),
    ):
        with pytest.raises(error, match=message):
            segzoo.export(model, tmp_path / "m.onnx", size=SIZE, int8=given)
    with pytest.raises(ArgumentError, match="agreement"):
        segzoo.export(model, tmp_path / "m.onnx", size=SIZE, int8=pictures, agreement=99)
    assert not (tmp_path / "m.onnx").exists()


def test_the_package_is_asked_for_before_the_work(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackageError, match=r'nncf is needed.*"segzoo\[quantize\]"'):
        segzoo.export(model, tmp_path / "m.onnx", size=SIZE, int8=pictures)
