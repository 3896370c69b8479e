"""Reading, computing and writing at once: the same masks, in bounded memory, whatever fails."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo import Normalization
from segzoo.data.pictures import read_mask, read_picture
from segzoo.errors import ArgumentError, DeviceError, InputError, StorageError
from segzoo.folders import picture, pipeline
from segzoo.folders.jobs import Failure, Job
from segzoo.folders.pipeline import Pipeline
from segzoo.folders.task import Task
from segzoo.folders.tiled_jobs import TiledOptions
from tests.helpers import ready, tiny_unet

SIZES = [(24, 30), (24, 30), (17, 9), (24, 30), (17, 9), (24, 30), (24, 30), (5, 5)]


class Bright:
    """Class 1 where the sum of the bands is high: whole numbers, so batches change nothing."""

    classes, in_channels, class_names = 2, 3, ("dark", "bright")

    def __init__(self):
        self.calls = []

    def predict(self, image):
        self.calls.append(tuple(image.shape))
        return (image.long().sum(dim=-3) > 380).long()


@pytest.fixture
def jobs(tmp_path):
    found = []
    for index, size in enumerate(SIZES):
        path = tmp_path / f"{index}.png"
        values = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
        found.append(Job(path, tmp_path / "out" / str(index)))
    return found


def done_by(model, jobs, task=None, **options):
    found = []
    Pipeline(model, task or Task("m"), **options).run(jobs, found.append)
    return found


def test_masks_are_those_of_predict_to_the_bit(jobs):
    torch.manual_seed(0)
    model = ready(tiny_unet())
    found = done_by(model, jobs)
    assert [item.image for item in found] == [job.image for job in jobs]
    for item in found:
        expected = model.predict(read_picture(item.image))
        assert torch.equal(read_mask(item.mask), expected)
        assert item.overlay.exists()
        assert sum(item.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_batches_have_one_size(jobs, size):
    model = Bright()
    found = done_by(model, jobs, Task("m", batch_size=size, overlays=False))
    assert sorted(item.image for item in found) == sorted(job.image for job in jobs)
    assert not list(jobs[0].target.parent.glob("*overlay*"))
    for item in found:
        assert torch.equal(read_mask(item.mask), Bright().predict(read_picture(item.image)))
    counts = [shape[0] if len(shape) == 4 else 1 for shape in model.calls]
    assert sum(counts) == len(jobs)
    assert max(counts) == min(size, 5)


def test_in_double_precision_batches_are_those_of_one(jobs):
    torch.manual_seed(0)
    model = ready(tiny_unet()).double()
    done_by(model, jobs, Task("m", batch_size=4))
    for job in jobs:
        expected = model.predict(read_picture(job.image))
        assert torch.equal(read_mask(job.outputs().mask), expected)


def test_a_batch_that_fails_is_done_one_by_one(jobs):
    class Small(Bright):
        def predict(self, image):
            if image.ndim == 4 or image.shape[-1] == 9:
                raise RuntimeError("out of memory")
            return super().predict(image)

    found = done_by(Small(), jobs, Task("m", batch_size=5))
    failed = [item for item in found if isinstance(item, Failure)]
    assert len(found) == len(jobs)
    assert [item.image for item in failed] == [
        job.image for job in jobs if "2." in job.image.name or "4." in job.image.name
    ]
    assert all("not enough memory for it in one piece" in item.error for item in failed)


@pytest.mark.parametrize("size", [1, 3])
def test_with_a_lost_gpu_the_pictures_that_are_left_are_not_failures(jobs, size, monkeypatch):
    """Another process can do them."""

    class Lost(Bright):
        def predict(self, image):
            if len(self.calls) > 1:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().predict(image)

    monkeypatch.setattr(pipeline, "is_lost", lambda device: device == torch.device("cpu"))
    found = []
    with pytest.raises(DeviceError, match=r"cpu computes nothing more.* illegal .* it goes on"):
        Pipeline(Lost(), Task("m", batch_size=size)).run(jobs, found.append)
    failed = [item for item in found if isinstance(item, Failure)]
    assert len(failed) == 1
    assert "illegal memory access" in failed[0].error
    assert len(found) < len(jobs)


def test_every_failure_is_that_pictures(jobs, monkeypatch):
    jobs[1].image.write_text("no picture")
    jobs[3].outputs().mask.mkdir(parents=True)  # a folder in the way
    jobs[6].image.unlink()
    real = picture.write_overlay

    def strange(path, *rest):
        if path.name.startswith("5_"):
            raise ZeroDivisionError("of a kind that nobody thought of")
        return real(path, *rest)

    monkeypatch.setattr(picture, "write_overlay", strange)
    task = Task("m", tiles=TiledOptions(overwrite=True))
    found = {item.image: item for item in done_by(Bright(), jobs, task)}
    failed = {i for i, job in enumerate(jobs) if isinstance(found[job.image], Failure)}
    assert failed == {1, 3, 5, 6}
    assert "ZeroDivisionError" in found[jobs[5].image].error
    assert str(jobs[6].image) in found[jobs[6].image].error


@pytest.mark.parametrize(
    ("error", "in_tiles", "words"),
    [
        (MemoryError(), False, "not enough memory for it in one piece. Cut it into tiles"),
        (MemoryError(), True, "in tiles of 64 pixels a side. Make them smaller: --tile 32."),
        (RuntimeError("CUDA error: an illegal memory access"), False, "an illegal memory access"),
        (RuntimeError("CUDA error: an illegal memory access"), True, "an illegal memory access"),
    ],
)
def test_want_of_memory_is_told_from_other_errors(jobs, error, in_tiles, words):
    class Failing(torch.nn.Module):
        classes, in_channels, class_names, threshold = 2, 3, None, 0.0
        normalization = Normalization((0.5,) * 3, (0.5,) * 3)

        def forward(self, image):
            raise error

        predict = forward

    options = TiledOptions(tiling="blend", tile=64)
    task = Task("m", in_tiles=in_tiles, tiles=options, overlays=False)
    (failed,) = done_by(Failing(), jobs[:1], task)
    assert failed.error.startswith(f"{jobs[0].image}: ")
    assert words in failed.error
    assert ("not enough memory" in failed.error) == isinstance(error, MemoryError)


@pytest.mark.parametrize("fails", ["write_mask", "write_overlay"])
def test_a_mask_is_the_last_file_of_a_picture(jobs, monkeypatch, fails):
    """Where it is, nothing is missing; and what failed is not in the way of the next run."""
    seen, real = [], {name: getattr(picture, name) for name in ("write_mask", "write_overlay")}

    def writing(name):
        def write(path, *rest, **options):
            seen.append((name, jobs[0].outputs().mask.exists()))
            if name == fails:
                raise StorageError("No space is left.")
            return real[name](path, *rest, **options)

        return write

    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(picture, name, writing(name))
        (failed,) = done_by(Bright(), jobs[:1])
    assert "No space is left" in failed.error
    assert seen[0] == ("write_overlay", False)
    assert not list(jobs[0].target.parent.iterdir())
    (done,) = done_by(Bright(), jobs[:1])
    assert done.mask.exists()
    assert done.overlay.exists()


@pytest.mark.parametrize("target", ["a", "out/a"])
def test_a_failure_has_the_name_of_its_picture(target):
    job = Job(Path("scans/a.png"), Path(target))
    for text in ("Finite pixels.", "Nothing, without a name."):
        assert str(picture.told(job, InputError(text))) == f"scans/a.png: {text}"
    for text in ("scans/a.png is damaged.", f"{target}_overlay.png could not be written."):
        assert str(picture.told(job, InputError(text))) == text


def test_what_is_there_is_not_replaced(jobs):
    jobs[0].target.parent.mkdir()
    jobs[0].outputs().mask.write_text("mine")
    found = done_by(Bright(), jobs)
    assert "exists already" in found[0].error
    assert jobs[0].outputs().mask.read_text() == "mine"
    with pytest.raises(ArgumentError, match="exists already"):
        done_by(Bright(), jobs[:1], alone=True)
    four, new = Bright(), [Job(jobs[1].image, jobs[1].target.with_name("new"))]
    four.in_channels = 4
    with pytest.raises(InputError, match="the model takes 4"):
        done_by(four, new, alone=True)


def test_what_is_written_is_told_when_it_is_interrupted(jobs):
    class Interrupted(Bright):
        def predict(self, image):
            if len(self.calls) == 4:
                raise KeyboardInterrupt
            return super().predict(image)

    found, before = [], set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        Pipeline(Interrupted(), Task("m")).run(jobs, found.append)
    assert [item.image for item in found] == [job.image for job in jobs[:4]]
    mine = set(threading.enumerate()) - before
    assert not [thread for thread in mine if thread.name.startswith("segzoo-")]


def test_no_more_than_a_few_are_held(jobs, monkeypatch):
    """A million pictures are not read ahead while the model computes, nor masks piled up."""
    held, most = [0], [0]
    real = picture.open_raster

    def counted(*arguments, **options):
        held[0] += 1
        most[0] = max(most[0], held[0])
        return real(*arguments, **options)

    monkeypatch.setattr(picture, "open_raster", counted)
    given = []

    def stream():
        for index in range(60):
            given.append(index)
            yield Job(jobs[0].image, jobs[0].target.with_name(f"r{index}"))

    def slow(outcome):
        time.sleep(0.001)
        held[0] -= 1
        assert len(given) - sum(1 for _ in told) <= 12
        told.append(outcome)

    told = []
    Pipeline(Bright(), Task("m", overlays=False)).run(stream(), slow)
    assert len(told) == 60
    assert most[0] <= 12


def test_an_idle_moment_lets_what_was_begun_go_on(jobs):
    """Where jobs come through a pipe, the next may wait for what became of the last."""
    told = []

    def one_at_a_time():
        for job in jobs:
            before = len(told)
            yield job
            while len(told) == before:
                yield None

    Pipeline(Bright(), Task("m", batch_size=4)).run(one_at_a_time(), told.append)
    assert [item.image for item in told] == [job.image for job in jobs]
