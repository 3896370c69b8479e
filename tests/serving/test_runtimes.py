"""The same masks from torch, from ONNX Runtime and from OpenVINO, of a folder or of a file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from segzoo.errors import ArgumentError, StorageError, UnknownNameError
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
