"""The model on the site's first page: written once, and done without where it cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from segzoo.errors import StorageError

SCRIPT = Path(__file__).parents[2] / "docs" / "live.py"


@pytest.fixture
def live(tmp_path, monkeypatch):
    """The script, which here has its runtime, and trains and writes nothing."""
    spec = importlib.util.spec_from_file_location("live", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.scenes, module.pages = [], []

    def write(model, folder, **options):
        module.pages.append(options["examples"][0].stat().st_size)
        folder.mkdir(parents=True)
        (folder / "page.json").write_text("{}")

    monkeypatch.setattr(module, "find_runtime", lambda: tmp_path)
    monkeypatch.setattr(module, "_trained", lambda scene, folder: module.scenes.append(scene))
    monkeypatch.setattr(module.segzoo, "write_page", write)
    return module


def test_it_learns_from_two_thirds_and_is_shown_the_rest(live, tmp_path):
    assert live.write_live(tmp_path / "site") == ""
    assert [scene.truth.shape for scene in live.scenes] == [(202, 384)]
    upper, lower = live._parts(live.coins_scene())
    assert upper.photo.shape[1] + lower.photo.shape[1] == 303
    assert live.pages[0] > 1000


def test_it_is_written_again_only_where_something_changed(live, tmp_path, monkeypatch):
    for _ in range(2):
        assert live.write_live(tmp_path / "site") == ""
    assert len(live.pages) == 1
    monkeypatch.setattr(live, "assets", lambda: {"app.js": b"another"})
    assert live.write_live(tmp_path / "site") == ""
    assert len(live.pages) == 2


def test_without_the_runtime_nothing_is_trained_and_nothing_left(live, tmp_path, monkeypatch):
    assert live.write_live(tmp_path / "site") == ""
    monkeypatch.setattr(live, "assets", lambda: {"app.js": b"another"})

    def missing():
        raise StorageError("ONNX Runtime Web could not be fetched.")

    monkeypatch.setattr(live, "find_runtime", missing)
    assert live.write_live(tmp_path / "site") == "ONNX Runtime Web could not be fetched."
    assert len(live.scenes) == 1
    assert list(tmp_path.iterdir()) == []
