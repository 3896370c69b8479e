"""The same masks from torch, from ONNX Runtime and from OpenVINO, of a folder or of a file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from segzoo.cli import main
from segzoo.devices import choose_device
from segzoo.errors import ArgumentError, StorageError, UnknownNameError
from segzoo.folders.task import Task
from segzoo.folders.worker import load
from segzoo.serving import runtimes
from segzoo.serving.runtimes import open_model

from .serving import expected, noise, png, running

PICTURE = png(noise(45, 61, 3))


@pytest.fixture
def saved(tiny, monkeypatch):
    """A name under which the small model can be loaded: one that is soon exported."""
    monkeypatch.setattr(runtimes, "from_pretrained", lambda name, revision: tiny)
    return "my-model"


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_folder_is_served_by_another_runtime_and_leaves_no_file(
    saved, tiny, monkeypatch, runtime
):
    made, real = [], tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    model = open_model(saved, runtime=runtime, threads=1)
    assert made
    assert not any(Path(folder).exists() for folder in made)
    with running(model) as server:
        assert np.array_equal(server.mask(PICTURE), expected(tiny, PICTURE))


def test_torch_gets_its_threads(saved, tiny):
    before = torch.get_num_threads()
    try:
        assert open_model(saved, threads=3, device="cpu") is tiny
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_runtimes_that_cannot_be_had(saved, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    with pytest.raises(ArgumentError, match="is a file for onnx, not for openvino"):
        open_model(str(path), runtime="openvino")
    with pytest.raises(ArgumentError, match="is a file for onnx, not for torch"):
        open_model(str(path), runtime="torch")
    with pytest.raises(StorageError, match="cannot be opened"):
        open_model(str(path))
    with pytest.raises(UnknownNameError, match="must be one of onnx, openvino, torch; got 'onx'"):
        open_model(saved, runtime="onx")
    with pytest.raises(ArgumentError, match="onnx computes on the CPU; leave --device cuda out"):
        open_model(saved, runtime="onnx", device="cuda")
    with pytest.raises(ArgumentError, match="threads must be between 1 and 4096, got 0"):
        open_model(saved, threads=0)


def test_a_file_has_no_device_and_no_revision(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    for opened in (
        lambda **options: open_model(str(path), **options),
        lambda **options: load(Task(str(path), **options)),
    ):
        with pytest.raises(ArgumentError, match="computes on the CPU here, not on 'cuda:1'"):
            opened(device="cuda:1")
        with pytest.raises(ArgumentError, match="is a file here, which has no revision 'v1'"):
            opened(revision="v1")
        with pytest.raises(StorageError, match="cannot be opened"):
            opened(device="cpu")
    assert main(["page", str(path), "-o", str(tmp_path / "site"), "--revision", "v1"]) == 2
    assert not (tmp_path / "site").exists()


def test_a_device_without_values_is_none():
    with pytest.raises(ArgumentError, match="The device 'meta' cannot be used"):
        choose_device("meta")
