"""Saves that are killed, run out of space or meet each other."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.errors import StorageError
from segzoo.files import leftovers
from segzoo.storage import model_folder

from .. import forking
from ..model_folders import FILES, names, small
from .in_processes import keep_saving, killed_save, marked


def read(folder: Path) -> int:
    model = segzoo.from_pretrained(folder)
    assert torch.equal(model.head.conv.bias, torch.full((model.classes,), float(model.classes))), (
        "weights and config are not of one save"
    )
    return model.classes


#: Where a save is killed -> the number of classes of the model that is there then.
POINTS = {
    "in the middle of the weights": 2,
    "before the weights are in place": 2,
    "before the config": 3,
    "before the card": 3,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_save_leaves_one_whole_model(tmp_path):
    for point in POINTS:
        marked(2).save_pretrained(tmp_path / point)
        process = forking.context().Process(target=killed_save, args=(point, str(tmp_path / point)))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, point
    for point, classes in POINTS.items():
        assert read(tmp_path / point) == classes, point
        marked(4).save_pretrained(tmp_path / point)
        assert read(tmp_path / point) == 4


def test_a_first_save_killed_before_the_config_can_be_loaded(tmp_path):
    marked(2).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert read(tmp_path) == 2


def test_leftovers_of_the_dead_go_at_once_and_others_when_they_are_old(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    ours = leftovers.temporary_name("model.safetensors")
    process = f"-{os.getpid()}-"
    dead = ours.replace(process, f"-{gone.pid}-")
    elsewhere = ".config.json.00000000-1-0123456789abcdef.tmp"
    old = [
        ".model.safetensors.0123456789abcdef.tmp",
        elsewhere.replace("-1-", f"-{os.getpid()}-"),
    ]
    theirs = [".hidden.tmp", ".notes.12.tmp", f"x{old[0]}"]
    for name in (ours, dead, elsewhere, *old, *theirs):
        (tmp_path / name).write_text("x")
    for name in (*old, *theirs):
        os.utime(tmp_path / name, (time.time() - 2 * 24 * 3600,) * 2)
    small().save_pretrained(tmp_path)
    assert names(tmp_path) == sorted([ours, elsewhere, *theirs, *FILES])


@pytest.mark.parametrize("below", [False, True])
def test_folders_of_the_dead_go_as_their_files_do(tmp_path, below):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    ours = leftovers.temporary_name("mask.tif.parts")
    dead = ours.replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    plain = ".parts.0123456789abcdef.tmp"
    for name in (ours, dead, plain, "sub"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "band.npz").write_text("x")
    (tmp_path / "sub" / dead).mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").write_text("x")
    (tmp_path / dead.replace("mask", "link")).symlink_to(tmp_path / "target")
    os.utime(tmp_path / plain, (time.time() - 2 * 24 * 3600,) * 2)
    leftovers.sweep(tmp_path, below=below)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {ours, plain, "sub", "target", dead.replace("mask", "link")}
    assert (tmp_path / "target" / "kept").exists()
    assert (tmp_path / "sub" / dead).exists() is not below


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
    there = "before still stands" if name == "model.safetensors" else "new model is there and whole"
    with pytest.raises(StorageError, match=rf"No space left.*{there}.*Free some space"):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_save_into_one_folder_while_it_is_read(tmp_path):
    marked(2).save_pretrained(tmp_path)
    make = forking.context().Process
    writers = [make(target=keep_saving, args=(classes, str(tmp_path))) for classes in (2, 3)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(read(tmp_path))
        time.sleep(0.05)
    assert [writer.exitcode for writer in writers] == [0, 0]
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


def test_a_config_that_was_edited_is_not_taken_for_that_of_other_weights(tmp_path, monkeypatch):
    """Both configs have one id: their arguments were the same before one of them was edited."""
    marked(2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"]["class_names"] = ["road", "rest"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert segzoo.from_pretrained(tmp_path).class_names == ("road", "rest")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(model_folder, "write_text", full)
        with pytest.raises(StorageError, match="new model is there and whole"):
            marked(2).save_pretrained(tmp_path)
    assert segzoo.from_pretrained(tmp_path).class_names is None
    marked(2).save_pretrained(tmp_path)
    assert segzoo.from_pretrained(tmp_path).class_names is None


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**33)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("make", [pipe, device, folder, huge])
def test_what_is_no_card_is_kept_and_the_model_saved(tmp_path, make):
    make(tmp_path / "README.md")
    with pytest.warns(UserWarning, match=r"README\.md is kept, and no card was written"):
        marked(2).save_pretrained(tmp_path)
    assert read(tmp_path) == 2
    assert not (tmp_path / "README.md").is_file() or make is huge


def test_a_link_to_nothing_is_kept_as_well(tmp_path):
    (tmp_path / "README.md").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match="is kept"):
        marked(2).save_pretrained(tmp_path)
    assert read(tmp_path) == 2


def test_the_name_is_on_the_disk_when_a_save_returns(tmp_path, monkeypatch):
    order: list[str] = []
    replace, fsync = os.replace, os.fsync

    def replacing(source: Path, target: Path) -> None:
        order.append(f"replace {Path(target).name}")
        replace(source, target)

    def syncing(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(os, "fsync", syncing)
    marked(2).save_pretrained(tmp_path)
    wanted = ["model.safetensors", "config.json", "README.md"]
    assert order == [step for name in wanted for step in ("file", f"replace {name}", "folder")]


def test_what_is_brought_to_the_disk_may_be_written_to(tmp_path, monkeypatch):
    """As Windows wants it, which refuses to sync a file that was opened for reading."""
    fcntl = pytest.importorskip("fcntl")
    fsync, synced = os.fsync, []

    def strict(handle: int) -> None:
        is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        if is_file and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(is_file)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", strict)
    small().save_pretrained(tmp_path)
    assert synced.count(True) == 3
    assert names(tmp_path) == FILES
