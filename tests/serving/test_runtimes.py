"""The same masks from torch, from ONNX Runtime and from OpenVINO, of a folder or of a file."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import segzoo
from segzoo.errors import ArgumentError, StorageError, UnknownNameError
from segzoo.serving.runtimes import open_model

from .serving import expected, noise, png, running

PICTURE = png(noise(45, 61, 3))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_folder_is_served_by_another_runtime_and_leaves_no_file(honest, monkeypatch, runtime):
    made = []
    real = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    model = open_model(str(honest), runtime=runtime, threads=1)
    assert made
    assert not any(Path(folder).exists() for folder in made)
    with running(model) as server:
        found = server.mask(PICTURE)
    wanted = expected(segzoo.from_pretrained(honest), PICTURE)
    assert 0 < wanted.mean() < 1
    assert (found != wanted).mean() < 0.002  # where two classes are level to six digits


def test_a_folder_is_served_by_torch_to_the_bit(honest):
    threads = torch.get_num_threads()
    try:
        model = open_model(str(honest), threads=1)
    finally:
        torch.set_num_threads(threads)
    with running(model) as server:
        assert np.array_equal(
            server.mask(PICTURE), expected(segzoo.from_pretrained(honest), PICTURE)
        )


def test_runtimes_that_cannot_be_had(honest, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    with pytest.raises(ArgumentError, match="is a file for onnx, not for openvino"):
        open_model(str(path), runtime="openvino")
    with pytest.raises(ArgumentError, match="is a file for onnx, not for torch"):
        open_model(str(path), runtime="torch")
    with pytest.raises(StorageError, match="cannot be opened"):
        open_model(str(path))
    with pytest.raises(UnknownNameError, match="must be one of onnx, openvino, torch; got 'onx'"):
        open_model(str(honest), runtime="onx")
    with pytest.raises(ArgumentError, match="onnx computes on the CPU; leave --device cuda out"):
        open_model(str(honest), runtime="onnx", device="cuda")
    with pytest.raises(ArgumentError, match="threads must be between 1 and 4096, got 0"):
        open_model(str(honest), threads=0)
