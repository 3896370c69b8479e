"""``segzoo predict`` in tiles, in parts and with views; what becomes of failures."""

import json

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.data.pictures import read_mask, read_picture
from tests.prediction.tiles import geotiff, random_picture


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=3, depth=1, class_names=("sky", "road", "car"))
    return model.save_pretrained(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_folder):
    return segzoo.from_pretrained(model_folder)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(random_picture(120, 150).permute(1, 2, 0).numpy()).save(path)
    return path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def test_tiles_give_the_models_own_mask_and_tell_why(capsys, model_folder, model, photo, tmp_path):
    call = ("predict", photo, "-m", model_folder, "-o", tmp_path / "out", "--tiling", "exact")
    code, out, err = run(capsys, *call, "--tile", "96")
    assert (code, err) == (0, [])
    first, second = out.splitlines()
    assert first.startswith(f"{photo} -> {tmp_path / 'out' / 'photo.png'}: ")
    assert second.startswith("  exact: as in one piece")
    mask = read_mask(tmp_path / "out" / "photo.png")
    assert torch.equal(mask, model.predict(read_picture(photo)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]


def test_a_geotiff_becomes_one(capsys, model_folder, model, tmp_path):
    values = random_picture(120, 150, bands=4).numpy().astype(np.int16)
    path = geotiff(tmp_path / "scene.tif", values)
    call = ("predict", path, "-m", model_folder, "-o", tmp_path / "out", "--json")
    code, out, err = run(capsys, *call, "--bands", "4,3,2", "--range", "0", "255")
    assert (code, err) == (0, [])
    facts = json.loads(out)["predictions"][0]
    assert facts["tiling"]["mode"] == "whole"
    assert facts["overlay"] is None
    picture = read_picture(path, bands=(4, 3, 2), value_range=(0, 255))
    with rasterio.open(facts["mask"]) as file, rasterio.open(path) as source:
        assert (file.crs, file.transform) == (source.crs, source.transform)
        assert np.array_equal(file.read(1), model.predict(picture).numpy())


def test_parts_probabilities_and_views(capsys, model_folder, model, photo, tmp_path):
    target = tmp_path / "out"
    call = ("predict", photo, "-m", model_folder, "-o", target, "--tiling", "exact", "--tile", "96")
    more = ("--write", "probabilities", "--tta", "flips")
    code, out, _ = run(capsys, *call, *more, "--rows", "2/2")
    assert code == 0
    assert "this part is done" in out
    assert not (target / "photo.tif").exists()
    code, out, err = run(capsys, *call, *more, "--rows", "1/2")
    assert (code, err) == (0, [])
    expected = segzoo.predict_tiled(
        model, photo, tiling="exact", tile=96, write="probabilities", tta="flips"
    )
    found = read_picture(target / "photo.tif", value_range=(0, 1)).numpy()
    np.testing.assert_array_equal(found, expected.values.astype(np.float32))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--tiling", "exakt"], "Did you mean exact"),
        (["--rows", "9/8"], "'9/8' is no part such as 3/8"),
        (["--rows", "²/3"], "'²/3' is no part such as 3/8"),
        (["--scales", "1,x"], "'1,x' are no numbers"),
        (["--tta", "flip"], "Did you mean flips"),
        (["--write", "class"], "Did you mean classes"),
        (["--tile", "9"], "tile must be between 32"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(capsys, model_folder, photo, tmp_path, options, line):
    call = ("predict", photo, "-m", model_folder, "-o", tmp_path / "out", *options)
    code, out, err = run(capsys, *call)
    assert (code, out, len(err)) == (2, "", 1), err
    assert line in err[0]


def test_every_failure_of_a_picture_is_that_pictures(
    capsys, model_folder, photo, tmp_path, monkeypatch
):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png", f"{'d' * 224}.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    (out / "c.png").mkdir(parents=True)  # a folder in the way of a mask
    call = ("predict", folder, "-m", model_folder, "-o", out)
    code, text, err = run(capsys, *call, "--overwrite")
    assert code == 1
    assert len(text.splitlines()) == 2
    assert "b.png" in err[0]
    assert "c.png" in err[1]
    assert "2 of 4 pictures" in err[2]
    real = segzoo.architectures.base.SegmentationModel.predict

    def greedy(self, image):
        if image.shape[-1] == 150 and not greedy.failed:
            greedy.failed = True
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return real(self, image)

    greedy.failed = False
    monkeypatch.setattr(segzoo.architectures.base.SegmentationModel, "predict", greedy)
    code, text, err = run(capsys, *call, "--overwrite")
    assert code == 1
    assert "not enough memory for it in one piece" in err[0]
    assert len(text.splitlines()) == 1


def test_what_is_done_is_told_whatever_stops_the_run(
    capsys, model_folder, photo, tmp_path, monkeypatch
):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(photo.read_bytes())
    real, calls = segzoo.architectures.base.SegmentationModel.predict, []

    def interrupted(self, image):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(segzoo.architectures.base.SegmentationModel, "predict", interrupted)
    call = ("predict", folder, "-m", model_folder, "-o", out)
    code, text, _ = run(capsys, *call)
    assert (code, len(text.splitlines())) == (130, 1)
    assert "--skip-existing" in run(capsys, *call)[2][0]
    code, text, err = run(capsys, *call, "--skip-existing")
    assert (code, err) == (0, [])
    assert len(text.splitlines()) == 3
    assert "1 of the pictures had their results already" in text
    assert len(calls) == 4
    assert len(list(out.iterdir())) == 6
