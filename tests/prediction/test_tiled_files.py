"""Tiles from files into files: what is kept, how a run goes on, and how parts come together."""

import json
import shutil
import sys

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

import segzoo
from segzoo.data.drawing import class_colors
from segzoo.data.pictures import read_mask
from segzoo.data.raster import open_raster
from segzoo.errors import ArgumentError, MissingPackageError, StorageError
from segzoo.prediction.tiling import predict
from segzoo.prediction.tiling.geotiff import in_blocks
from segzoo.prediction.tiling.journal import Journal
from tests.helpers import ready, tiny_unet

from .test_ends import Windows
from .tiles import Predictor, geotiff, in_one_piece, random_picture

CALL = {"tiling": "exact", "tile": 96}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return ready(tiny_unet(class_names=("sky", "road", "car")))


@pytest.fixture(scope="module")
def picture():
    return random_picture(300, 350)


@pytest.fixture
def scene(tmp_path, picture):
    values = picture.numpy().astype(np.int16)
    values[:, 100:, 200:] = -9999
    return geotiff(tmp_path / "scene.tif", values, nodata=-9999, tiled=True)


def test_what_lies_on_the_ground_stays_there(tiny, picture, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("segzoo.prediction.tiling.geotiff._OVERVIEW", 100)
    target = tmp_path / "mask.tif"
    result = segzoo.predict_tiled(tiny, scene, target, value_range=(0, 255), **CALL)
    assert result.path == target
    assert result.values is None
    assert result.skipped > 0
    known = np.ones((300, 350), bool)
    known[100:, 200:] = False
    filled = picture.float() / 255
    mean = torch.tensor(tiny.normalization.mean)[:, None]
    filled[:, torch.from_numpy(~known)] = mean
    expected = in_one_piece(tiny, filled, kind="classes").numpy()
    with rasterio.open(target) as file, rasterio.open(scene) as source:
        mask = file.read(1)
        assert np.array_equal(mask[known], expected[known])
        assert (mask[~known] == file.nodata).all()
        assert (file.crs, file.transform) == (source.crs, source.transform)
        assert file.block_shapes == [(256, 256)]
        assert file.overviews(1) == [2]
        assert file.tags(1)["class_1"] == "road"
        colors = file.colormap(1)
        assert [colors[i][:3] for i in range(3)] == [tuple(c) for c in class_colors(3).tolist()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.tif", "scene.tif"]


def test_places_told_by_points_and_cameras_are_kept(tiny, picture, tmp_path):
    """Scenes that nobody has resampled to a map yet: what tells their place goes with the mask."""
    corners = [(0, 0, 5e5, 5e6, 7.0), (0, 350, 5.1e5, 5e6, 0.0), (300, 0, 5e5, 4.9e6, 1.0)]
    points = [GroundControlPoint(*corner) for corner in corners]
    camera = RPC(
        height_off=1.0, height_scale=2.0, lat_off=45.0, lat_scale=0.1, long_off=15.0,
        long_scale=0.1, line_off=60.0, line_scale=60.0, samp_off=75.0, samp_scale=75.0,
        line_num_coeff=[0.5] * 20, line_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=[0.25] * 20, samp_den_coeff=[1.0] + [0.0] * 19,
        err_bias=None, err_rand=None,
    )  # fmt: skip
    ways = {"points": {"gcps": points, "crs": "EPSG:32633"}, "camera": {"rpcs": camera}}
    for name, way in ways.items():
        source, target = tmp_path / f"{name}.tif", tmp_path / f"{name} mask.tif"
        options = {"count": 3, "height": 300, "width": 350, "dtype": "uint8"}
        with rasterio.open(source, "w", driver="GTiff", **options, **way) as file:
            file.write(picture.numpy())
        segzoo.predict_tiled(tiny, source, target, tiling="blend", tile=96)
        with rasterio.open(source) as before, rasterio.open(target) as after:
            assert (after.crs, after.transform) == (before.crs, before.transform)
            assert after.gcps[1] == before.gcps[1]
            assert [vars(point) for point in after.gcps[0]] == [
                vars(point) for point in before.gcps[0]
            ]
            assert (after.rpcs and after.rpcs.to_gdal()) == (before.rpcs and before.rpcs.to_gdal())
            assert bool(after.gcps[0]) == (name == "points")
            assert bool(after.rpcs) == (name == "camera")


def test_datasets_of_rasterio_stay_open(tiny, scene):
    with rasterio.open(scene) as dataset:
        found = segzoo.predict_tiled(tiny, dataset, value_range=(0, 255), **CALL).values
        assert not dataset.closed
    assert np.array_equal(
        found, segzoo.predict_tiled(tiny, scene, value_range=(0, 255), **CALL).values
    )


@pytest.mark.parametrize("write", ["probabilities", "logits"])
def test_soft_results_on_the_ground(tiny, scene, tmp_path, write):
    call = {**CALL, "value_range": (0, 255), "write": write}
    segzoo.predict_tiled(tiny, scene, tmp_path / "soft.tif", **call)
    expected = segzoo.predict_tiled(tiny, scene, **call).values
    with rasterio.open(tmp_path / "soft.tif") as file:
        np.testing.assert_array_equal(file.read(), expected.astype(np.float32))
        assert np.isnan(file.nodata)
        assert file.descriptions == tuple(f"{write} of {name}" for name in ("sky", "road", "car"))


@pytest.mark.parametrize("ending", ["tif", "png", "npy"])
def test_pictures_without_a_place(tiny, picture, tmp_path, ending):
    tifffile.imwrite(tmp_path / "x.tif", picture.permute(1, 2, 0).numpy(), photometric="rgb")
    target = tmp_path / f"mask.{ending}"
    result = segzoo.predict_tiled(tiny, tmp_path / "x.tif", target, **CALL)
    expected = tiny.predict(picture).numpy()
    found = np.load(target) if ending == "npy" else read_mask(target).numpy()
    assert np.array_equal(found, expected)
    shares = np.bincount(expected.ravel()) / expected.size
    assert result.shares == pytest.approx(dict(enumerate(shares)))
    soft = tmp_path / "soft.tif"
    segzoo.predict_tiled(tiny, tmp_path / "x.tif", soft, write="probabilities", **CALL)
    with open_raster(soft) as raster:
        expected = segzoo.predict_tiled(tiny, picture, write="probabilities", **CALL).values
        assert np.array_equal(raster.read(), expected)


def test_a_picture_of_unknown_pixels_keeps_a_place_for_them_in_a_png(tiny, tmp_path):
    values = random_picture(100, 120).float().numpy() / 255
    values[:, 50:] = np.nan
    target = tmp_path / "mask.png"
    segzoo.predict_tiled(tiny, values, target, nodata=float("nan"), **CALL)
    mask = read_mask(target).numpy()
    assert (mask[50:] == 255).all()
    assert (mask[:50] < 3).all()


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_unknown_pixels_are_told_by_the_stored_value_where_white_is_zero(tmp_path, kind):
    stored = random_picture(60, 70).numpy()[0].astype(kind)
    stored[stored == 7] = 8
    stored[:20] = 7
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite")
    model = Predictor(lambda image: image.expand(-1, 3, -1, -1), in_channels=1)
    found = segzoo.predict_tiled(model, tmp_path / "x.tif", nodata=7, **CALL).values
    assert np.array_equal(found == 255, stored == 7)


class Stopping(Predictor):
    """Gives up after so many tiles."""

    def __init__(self, model, tiles):
        super().__init__(model)
        self.left, self.done = tiles, 0
        self.normalization = model.normalization

    def forward(self, image):
        if min(image.shape[-2:]) >= 40:  # no probe and no proof
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.done += 1
        return self.function(image)


@pytest.mark.parametrize("tiling", ["exact", "blend"])
def test_a_run_that_was_stopped_goes_on(tiny, picture, tmp_path, tiling):
    target = tmp_path / "mask.npy"
    call = {"tiling": tiling, "tile": 96}
    expected = segzoo.predict_tiled(tiny, picture, **call)
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, picture.permute(1, 2, 0).numpy(), photometric="rgb")
    model = Stopping(tiny, 13)
    with pytest.raises(KeyboardInterrupt):
        segzoo.predict_tiled(model, source, target, **call)
    parts = sorted(path.name for path in (tmp_path / "mask.npy.parts").iterdir())
    assert parts == ["band-000000.npz", "band-000001.npz", "plan.json"]
    assert not target.exists()
    again = Stopping(tiny, 1000)
    result = segzoo.predict_tiled(again, source, target, **call)
    assert np.array_equal(np.load(target), expected.values)
    assert again.done < expected.tiles
    assert result.tiling == expected.tiling
    assert not (tmp_path / "mask.npy.parts").exists()


@pytest.mark.parametrize("tiling", ["exact", "measured", "blend"])
def test_parts_by_several_processes_are_the_whole(tiny, scene, tmp_path, tiling):
    call = {"tiling": tiling, "tile": 96, "value_range": (0, 255)}
    whole, shared = tmp_path / "whole.tif", tmp_path / "shared.tif"
    segzoo.predict_tiled(tiny, scene, whole, **call)
    for part in (2, 3, 1):
        result = segzoo.predict_tiled(tiny, scene, shared, rows=(part, 3), **call)
        assert (result.path == shared) is (part == 1)
    assert whole.read_bytes() == shared.read_bytes()


@pytest.mark.parametrize(("asked", "times"), [("has", 2), ("read", 1)])
def test_another_process_may_be_the_first_to_finish(
    tiny, picture, tmp_path, monkeypatch, asked, times
):
    """Whoever asks for a part then finds it, or no folder at all and a whole result."""
    target, calls, deleted = tmp_path / "mask.npy", [], []
    real, delete = getattr(Journal, asked), shutil.rmtree

    def overtaken(self, index):
        calls.append(index)
        if calls.count(1) == times and not target.exists():
            target.write_bytes(b"whole")
            self.remove()
        return real(self, index)

    def watched(folder, **options):
        deleted.append((folder, folder.exists()))
        assert not (tmp_path / "mask.npy.parts").exists()
        delete(folder, **options)

    def full(*_):
        raise StorageError("No space is left.")

    call = {"tiling": "blend", "tile": 96}
    with monkeypatch.context() as patch:
        patch.setattr(predict, "write_file", full)
        with pytest.raises(StorageError, match="No space"):
            segzoo.predict_tiled(tiny, picture, target, **call)
    monkeypatch.setattr(shutil, "rmtree", watched)
    monkeypatch.setattr(Journal, asked, overtaken)
    found = segzoo.predict_tiled(tiny, picture, target, **call)
    assert (found.path, found.shares) == (target, {})
    assert target.read_bytes() == b"whole"
    assert deleted[0][1]
    assert list(tmp_path.iterdir()) == [target]


def test_parts_of_another_run_are_not_mixed(tiny, scene, tmp_path):
    target = tmp_path / "mask.tif"
    call = {**CALL, "value_range": (0, 255), "rows": (1, 2)}
    segzoo.predict_tiled(tiny, scene, target, **call)
    torch.manual_seed(1)
    other = ready(tiny_unet())
    for model, change, word in (
        (other, {}, "model"),
        (tiny, {"tile": 128}, "tiling"),
        (tiny, {"write": "logits"}, "write"),
        (tiny, {"value_range": (0, 300)}, "range"),
    ):
        with pytest.raises(ArgumentError, match=rf"another run \(its {word} differ\)"):
            segzoo.predict_tiled(model, scene, target, **{**call, **change})
    plan = tmp_path / "mask.tif.parts" / "plan.json"
    whole = json.loads(plan.read_text())
    assert whole["tiling"]["mode"] == "exact"
    for text in ("{", "[" * 100_000, *({**whole, name: []} for name in whole)):
        plan.write_text(text if isinstance(text, str) else json.dumps(text))
        with pytest.raises((StorageError, ArgumentError), match="Delete"):
            segzoo.predict_tiled(tiny, scene, target, **call)


def test_parts_of_another_array_or_with_void_are_not_mixed(tmp_path):
    model = Predictor(lambda image: image)
    one, other = random_picture(130, 40), random_picture(130, 40).flip(0)
    target = tmp_path / "mask.npy"
    call = {"tiling": "blend", "tile": 64, "rows": (1, 2)}
    segzoo.predict_tiled(model, one, target, min_confidence=0.9, **call)
    with pytest.raises(ArgumentError, match=r"another run \(its min_confidence differ\)"):
        segzoo.predict_tiled(model, one, target, **call)
    for picture in (other, other.numpy(), Windows(other)):
        with pytest.raises(ArgumentError, match=r"another run \(its source differ\)"):
            segzoo.predict_tiled(model, picture, target, min_confidence=0.9, **call)


def test_a_damaged_part_is_named(tiny, scene, tmp_path):
    target = tmp_path / "mask.tif"
    call = {**CALL, "value_range": (0, 255)}
    segzoo.predict_tiled(tiny, scene, target, rows=(1, 2), **call)
    band = tmp_path / "mask.tif.parts" / "band-000000.npz"
    whole = band.read_bytes()
    # Cut, lost by a machine that stopped, or changed where values are.
    for damaged in (b"half", b"", whole[:90] + bytes(value ^ 255 for value in whole[90:])):
        band.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"band-000000\.npz cannot be read"):
            segzoo.predict_tiled(tiny, scene, target, rows=(2, 2), **call)
    damaged = bytearray(whole)
    damaged[90:120] = b"\xff" * 30
    band.write_bytes(damaged)
    with pytest.raises(StorageError, match=r"band-000000\.npz cannot be read"):
        segzoo.predict_tiled(tiny, scene, target, rows=(2, 2), **call)
    band.unlink()
    assert segzoo.predict_tiled(tiny, scene, target, **call).path == target


def test_results_are_refused_before_anything_is_computed(tiny, picture, tmp_path, monkeypatch):
    model = Stopping(tiny, 0)
    (tmp_path / "there.tif").touch()
    for target, change, reason in (
        ("there.tif", {}, "exists already"),
        ("mask.jpg", {}, r"ends in '\.jpg'"),
        ("mask.png", {"write": "logits"}, "A PNG holds classes"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            segzoo.predict_tiled(model, picture, tmp_path / target, **CALL, **change)
    with pytest.raises(StorageError, match="no folder"):
        segzoo.predict_tiled(model, picture, tmp_path / "no" / "mask.tif", **CALL)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="Make room"):
        segzoo.predict_tiled(model, picture, tmp_path / "mask.tif", **CALL)


def test_a_place_is_not_lost_for_want_of_a_package(tiny, scene, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingPackageError, match=r"rasterio is needed.*segzoo\[geo\]"):
        segzoo.predict_tiled(tiny, scene, tmp_path / "mask.tif", value_range=(0, 255), **CALL)


def test_no_space_on_the_way_keeps_what_is_done(tiny, picture, tmp_path, monkeypatch):
    target, real, written = tmp_path / "mask.npy", np.savez_compressed, []

    def full(file, **values):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(1)
        return real(file, **values)

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(StorageError, match=r"No space left on device.*goes on from it"):
        segzoo.predict_tiled(tiny, picture, target, **CALL)
    monkeypatch.undo()
    names = {path.name for path in (tmp_path / "mask.npy.parts").iterdir()}
    assert names == {"plan.json", "band-000000.npz", "band-000001.npz"}
    segzoo.predict_tiled(tiny, picture, target, **CALL)
    assert np.array_equal(np.load(target), tiny.predict(picture).numpy())


def test_256_classes_leave_a_value_for_what_is_not_known(tmp_path):
    model = Predictor(lambda image: image[:, :1].expand(-1, 256, -1, -1), classes=256)
    found = segzoo.predict_tiled(model, random_picture(100, 120), **CALL).values
    assert found.dtype == np.uint16


def test_rows_are_cut_to_blocks_of_the_file():
    rows = np.arange(1000)[None, :, None]
    bands = ((top, rows[:, top : top + 130]) for top in range(0, 1000, 130))
    pieces = list(in_blocks(bands))
    assert [top for top, _ in pieces] == [0, 256, 512, 768]
    assert np.array_equal(np.concatenate([piece for _, piece in pieces], axis=1), rows)
