"""Saves that are killed, run out of space or meet each other."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import StorageError
from tests.model_folders import FILES, names, small


def read(folder: Path) -> int:
    model = segzoo.from_pretrained(folder)
    assert torch.equal(model.head.conv.bias, torch.full((model.classes,), float(model.classes))), (
        "weights and config are not of one save"
    )
    return model.classes


def marked(classes: int) -> segzoo.Unet:
    model = small(classes)
    nn.init.constant_(model.head.conv.bias, classes)
    return model


KILLED = """
import os, signal, sys
from pathlib import Path
import segzoo.storage.model_folder, segzoo.storage.safetensors_file
from tests.storage.test_interrupted_saves import POINTS, marked

def kill(*args, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

def half(path, tensors, metadata):
    path.write_bytes(b"half of it")
    kill()

def save(point):
    if point == "in the middle of the weights":
        segzoo.storage.safetensors_file.write = half
    elif point == "before the weights are in place":
        os.replace = kill
    elif point == "before the config":
        segzoo.storage.model_folder.write_text = kill
    else:
        segzoo.storage.model_folder._write_card = kill
    marked(3).save_pretrained(Path(sys.argv[1], point))

for point in POINTS:
    if not (child := os.fork()):
        save(point)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
"""
#: Where a save is killed -> the number of classes of the model that is there then.
POINTS = {
    "in the middle of the weights": 2,
    "before the weights are in place": 2,
    "before the config": 3,
    "before the card": 3,
}


def script(text: str, folder: Path) -> list[str]:
    """A command that runs a script which imports this file; the imports are paid once."""
    path = [*sys.path, str(Path(__file__).parents[2])]
    return [sys.executable, "-c", f"import sys; sys.path = {path}\n{text}", str(folder)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_save_leaves_one_whole_model(tmp_path):
    for point in POINTS:
        marked(2).save_pretrained(tmp_path / point)
    subprocess.run(script(KILLED, tmp_path), check=True)
    for point, classes in POINTS.items():
        assert read(tmp_path / point) == classes, point
        marked(4).save_pretrained(tmp_path / point)
        assert read(tmp_path / point) == 4


def test_a_first_save_killed_before_the_config_can_be_loaded(tmp_path):
    marked(2).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert read(tmp_path) == 2


def test_leftovers_are_swept_when_they_are_old(tmp_path):
    old, new = tmp_path / ".model.safetensors.aa.tmp", tmp_path / ".config.json.bb.tmp"
    for path in (old, new, tmp_path / "mine.tmp"):
        path.write_text("x")
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    os.utime(new)
    small().save_pretrained(tmp_path)
    assert names(tmp_path) == [".config.json.bb.tmp", *FILES[:2], "mine.tmp", FILES[2]]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_a_full_disk(tmp_path, monkeypatch, name):
    marked(2).save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"No space left.*Free some space"):
        marked(3).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    assert read(tmp_path) == (2 if name == "model.safetensors" else 3)
    marked(3).save_pretrained(tmp_path)
    assert read(tmp_path) == 3


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs the superuser"
)
def test_a_disk_that_is_really_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:  # as in a container; the test before this one runs everywhere
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        marked(2).save_pretrained(tmp_path)
        with pytest.raises(StorageError, match="could not be saved"):
            marked(3).save_pretrained(tmp_path)
        assert not list(tmp_path.glob(".*"))
        assert read(tmp_path) == 2
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not be saved"):
        small().save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


WRITERS = """
import os, sys
from tests.storage.test_interrupted_saves import marked

children = []
for classes in (2, 3):
    if not (child := os.fork()):
        model = marked(classes)
        for _ in range(10):
            model.save_pretrained(sys.argv[1])
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_save_into_one_folder_while_it_is_read(tmp_path):
    marked(2).save_pretrained(tmp_path)
    with subprocess.Popen(script(WRITERS, tmp_path)) as writers:
        seen = set()
        while writers.poll() is None:
            seen.add(read(tmp_path))
            time.sleep(0.05)
    assert writers.returncode == 0
    assert seen <= {2, 3}
    assert read(tmp_path) in (2, 3)
    assert names(tmp_path) == FILES


def test_a_save_replaces_a_link_and_does_not_follow_it(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(outside)
    marked(2).save_pretrained(folder)
    assert outside.read_text() == "precious"
    assert read(folder) == 2
