"""What the tests of pages share: a small exported model, and a stand-in for the runtime."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.pages import runtime

NAMES = ("ground", "<b>tree</b> & bush", "water")


@pytest.fixture(scope="session")
def model() -> segzoo.SegmentationModel:
    """Three classes, all of which a picture of noise shows."""
    torch.manual_seed(5)
    made = segzoo.Unet("test_resnet", classes=3, class_names=NAMES, depth=3)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory) -> segzoo.ExportedModel:
    path = segzoo.export(model, tmp_path_factory.mktemp("exported") / "small.onnx", size=(64, 64))
    return segzoo.open_exported(path)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return runtime.cache_folder()


@pytest.fixture
def small_runtime(tmp_path, monkeypatch) -> Path:
    """A folder with files that count as the runtime in this test."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    known = {}
    for name in runtime._SHA256:
        (folder / name).write_text(f"// {name}")
        known[name] = hashlib.sha256(f"// {name}".encode()).hexdigest()
    monkeypatch.setattr(runtime, "_SHA256", known)
    return folder


@pytest.fixture
def export_is_known(exported, monkeypatch) -> None:
    """What is exported in this test is ``model``, whose file is there already."""
    monkeypatch.setattr(
        "segzoo.pages.write_page.export",
        lambda model, path, **_: shutil.copyfile(exported.path, path),
    )
