"""``segzoo predict`` on files of other bands and values than a photograph's."""

import json

import numpy as np
import pytest
import tifffile
import torch

import segzoo
from segzoo.cli import main
from segzoo.data.pictures import read_mask, read_picture

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=3, depth=1)
    return model.save_pretrained(tmp_path_factory.mktemp("model"))


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def test_bands_and_range_are_chosen(capsys, tmp_path, model_folder):
    array = RNG.integers(-300, 4000, (33, 47, 5), dtype=np.int16)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig")
    call = ("predict", path, "-m", model_folder, "-o", tmp_path / "out")
    code, _, err = run(capsys, *call)
    assert (code, len(err)) == (2, 1)
    assert "5 bands and the model takes 3" in err[0]
    assert "no numbers of bands" in run(capsys, *call, "--bands", "4,x")[2][0]
    assert "--range LOW HIGH" in run(capsys, *call, "--bands", "4,3,2")[2][0]
    assert "low < high" in run(capsys, *call, "--range", "5", "2")[2][0]
    code, out, err = run(capsys, *call, "--bands", "4,3,2", "--range", "0", "3000", "--json")
    assert (code, err) == (0, [])
    picture = read_picture(path, bands=(4, 3, 2), value_range=(0, 3000))
    mask = read_mask(json.loads(out)["predictions"][0]["mask"])
    assert torch.equal(mask, segzoo.from_pretrained(model_folder).predict(picture))
    assert read_picture(tmp_path / "out" / "x_overlay.png").shape == (3, 33, 47)


def test_a_near_infrared_band_is_not_dropped(capsys, tmp_path, model_folder):
    array = RNG.integers(0, 256, (33, 47, 4), dtype=np.uint8)
    for name in ("unspecified", "unassalpha"):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, array, photometric="rgb", extrasamples=[name])
    call = ("-m", model_folder, "-o", tmp_path / "out")
    assert run(capsys, "predict", tmp_path / "unassalpha.tif", *call)[0] == 0
    code, _, err = run(capsys, "predict", tmp_path / "unspecified.tif", *call)
    assert code == 2
    assert "4 bands and the model takes 3" in err[0]


def test_the_limit_on_pixels_is_an_option(capsys, tmp_path, model_folder):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((33, 47, 3), np.uint8), photometric="rgb")
    call = ("predict", path, "-m", model_folder, "-o", tmp_path / "out", "--max-pixels", "1000")
    code, _, err = run(capsys, *call)
    assert code == 2
    assert "47x33 pixels, more than the limit of 1,000" in err[0]
