"""An exported file as a model: the same masks, whole, in tiles and on the command line."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.data.pictures import read_mask
from segzoo.errors import InputError, StorageError
from segzoo.prediction.pixel_model import fingerprint, pixel_model
from tests.helpers import ready, tiny_unet
from tests.prediction.tiles import in_one_piece, random_picture


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ready(tiny_unet(class_names=("sky", "road", "car")))


@pytest.fixture(scope="module", params=["onnx", "xml"])
def path(model, request, tmp_path_factory):
    return segzoo.export(model, tmp_path_factory.mktemp("exported") / f"m.{request.param}")


def test_an_exported_file_is_a_model(model, path):
    exported = segzoo.open_exported(path)
    assert exported.class_names == model.class_names
    assert exported.stride == model.stride
    picture = random_picture(91, 134)
    assert torch.equal(exported.predict(picture), model.predict(picture))
    result = segzoo.predict_tiled(exported, picture, tiling="exact", tile=64, write="logits")
    expected = in_one_piece(model, picture)
    assert result.tiling.mode == "exact"
    limit = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(torch.from_numpy(result.values), expected, rtol=0, atol=limit)
    soft = segzoo.predict_probabilities(exported, picture, tta="flips")
    expected = segzoo.predict_probabilities(model, picture, tta="flips")
    torch.testing.assert_close(soft, expected, rtol=0, atol=1e-4)


def test_threads_may_share_a_file(path):
    exported = segzoo.open_exported(path)
    pictures = [random_picture(64, 96 + 32 * index) for index in range(4)]
    expected = [exported.predict(picture) for picture in pictures]
    together = threading.Barrier(len(pictures))

    def predict_many(picture):
        together.wait()
        return [exported.predict(picture) for _ in range(10)]

    with ThreadPoolExecutor(len(pictures)) as threads:
        for found, mask in zip(threads.map(predict_many, pictures), expected, strict=True):
            assert all(torch.equal(one, mask) for one in found)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 32, 32), "needs a batch dimension"),
        (torch.rand(1, 4, 32, 32), "takes 3 channels, the image has 4"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "normalised floating point image"),
        (None, "Expected a batch of images"),
    ],
    ids=["one", "bands", "integers", "nothing"],
)
def test_what_is_no_batch_is_refused_as_by_a_model(path, image, message):
    with pytest.raises(InputError, match=message):
        segzoo.open_exported(path)(image)


def test_a_file_is_known_by_what_it_holds(path, tmp_path):
    exported = segzoo.open_exported(path)
    with pixel_model(exported) as ready:
        assert fingerprint(ready) == exported.fingerprint
    other = copy.copy(exported)
    vars(other).pop("fingerprint")
    other.path = _copied(path, tmp_path / f"other{path.suffix}")
    weights = other.path
    if path.suffix == ".xml":
        weights = _copied(path.with_suffix(".bin"), tmp_path / "other.bin")
    assert other.fingerprint == exported.fingerprint
    vars(other).pop("fingerprint")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert other.fingerprint != exported.fingerprint


def test_the_command_line_takes_it(model, path, tmp_path, capsys):
    picture = random_picture(50, 60)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    call = ["predict", str(tmp_path / "x.png"), "-m", str(path), "-o", str(tmp_path / "out")]
    assert main(call) == 0
    assert "road" in capsys.readouterr().out
    assert torch.equal(read_mask(tmp_path / "out" / "x.png"), model.predict(picture))


def test_a_file_of_one_size_takes_that_size(model, tmp_path):
    path = segzoo.export(model, tmp_path / "m.onnx", dynamic=False, size=(64, 96))
    exported = segzoo.open_exported(path)
    picture = random_picture(64, 96)
    assert torch.equal(exported.predict(picture), model.predict(picture))
    with pytest.raises(InputError, match="takes 1 image of 64x96 only, not 1 of 65x96"):
        exported.predict(random_picture(65, 96))


def test_what_is_none_of_ours_is_refused(path, tmp_path):
    if path.suffix != ".onnx":
        with pytest.raises(StorageError, match="cannot be opened"):
            segzoo.open_exported(_copied(path, tmp_path / "without_weights.xml"))
        return
    for name, reason in (
        ("missing.onnx", "no exported file"),
        ("m.pt", r"ends in \.onnx or \.xml"),
    ):
        with pytest.raises(StorageError, match=reason):
            segzoo.open_exported(tmp_path / name)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(StorageError, match="cannot be opened"):
        segzoo.open_exported(tmp_path / "text.onnx")
    import onnx

    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    with pytest.raises(StorageError, match="does not say of itself"):
        segzoo.open_exported(tmp_path / "bare.onnx")


def _copied(source, target):
    target.write_bytes(source.read_bytes())
    return target
