"""The same work in tables, for clusters: rows in, rows out, errors as a column."""

import json
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.data.pictures import read_mask
from segzoo.errors import ArgumentError, MissingPackageError
from segzoo.folders import on_ray
from segzoo.folders.jobs import Failure, Job, Prediction
from segzoo.folders.on_ray import RayWorker, outcome_of, text_of
from segzoo.folders.picture import told
from segzoo.folders.task import Task
from segzoo.folders.tiled_jobs import TiledOptions
from segzoo.folders.worker import PictureWorker, fingerprint_of, load
from segzoo.prediction.pixel_model import fingerprint, pixel_model

from .pictures import save_pictures


@pytest.fixture(scope="module")
def worker(honest):
    return PictureWorker(Task(str(honest), tiles=TiledOptions(overwrite=True)))


def test_tables_of_pictures(worker, tmp_path):
    names = save_pictures(tmp_path, 3)
    (tmp_path / "bad.png").write_text("no")
    images = [*names, str(tmp_path / "bad.png"), names[0]]
    targets = [str(tmp_path / "out" / str(index)) for index in range(5)]
    found = worker({"image": images, "target": targets})
    assert found["image"] == images
    assert found["mask"] == [
        f"{target}.png" if i != 3 else None for i, target in enumerate(targets)
    ]
    assert [error is None for error in found["error"]] == [True, True, True, False, True]
    assert sum(json.loads(found["shares"][0]).values()) == pytest.approx(1)
    assert torch.equal(read_mask(found["mask"][0]), read_mask(found["mask"][4]))
    assert worker({"image": [], "target": []}) == {
        "image": [], "mask": [], "error": [], "shares": []
    }  # fmt: skip


def test_a_worker_of_ray_speaks_json(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "PictureWorker", lambda task, expected: worker)
    names = save_pictures(tmp_path, 2)
    jobs = [json.dumps([name, f"{name}.out"]) for name in (*names, "nosuch\udcff.png")]
    found = RayWorker(worker.task)({"job": jobs})
    first, _, last = map(outcome_of, found["outcome"])
    assert first.mask.exists()
    assert isinstance(last, Failure)
    assert last.image == Path("nosuch\udcff.png")
    assert found["error"][:2] == ["", ""]
    assert found["error"][2] == last.error


@pytest.mark.parametrize("outcome", [
    Failure(Path("\udcff.png"), "bad"),
    Prediction(Path("a"), Path("b"), Path("c"), {"sky": 0.5}),
    Prediction(Path("a"), Path("b"), None, {}, {"mode": "exact", "margin": {"top": 3}}, False),
])  # fmt: skip
def test_outcomes_travel(outcome):
    assert outcome_of(text_of(outcome)) == outcome


def test_errors_of_any_kind_name_the_picture():
    job = Job(Path("scan.tif"), Path("out/scan"))
    assert "scan.tif: rasterio is needed" in str(
        told(job, MissingPackageError("rasterio", extra="geo"))
    )
    assert "scan.tif: KeyError" in str(told(job, KeyError("x")))


def test_another_model_is_refused(worker, honest):
    PictureWorker(worker.task, expected=worker.fingerprint)
    with pytest.raises(ArgumentError, match="is another one here"):
        PictureWorker(worker.task, expected="abc")


def test_a_fingerprint_is_that_of_all_that_masks_depend_on(worker, honest, tmp_path):
    model = load(worker.task)
    assert fingerprint_of(model) == worker.fingerprint
    copy = segzoo.from_pretrained(honest)
    with torch.no_grad():
        next(copy.parameters()).flatten()[0] += 1
    assert fingerprint_of(copy) != worker.fingerprint
    copy = segzoo.from_pretrained(honest)
    copy.config = copy.config.__class__(
        **{**vars(copy.config), "normalization": segzoo.Normalization((0.5,) * 3, (0.25,) * 3)}
    )
    assert fingerprint_of(copy) != worker.fingerprint
    copy = segzoo.from_pretrained(honest).configure_training(checkpoint=True)
    assert fingerprint_of(copy) == worker.fingerprint  # how it computes does not matter


def test_exported_files_have_fingerprints_of_their_own():
    class Exported(torch.nn.Identity):
        classes, in_channels, threshold = 2, 3, 0.0
        normalization = segzoo.Normalization((0.5,) * 3, (0.25,) * 3)
        fingerprint = "of the file"

    with pixel_model(Exported()) as ready:
        assert fingerprint(ready) == "of the file"
