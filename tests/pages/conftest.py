"""What the tests of pages share: a small exported model, a stand-in for the runtime, a browser."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo.pages import runtime
from segzoo.pages.site import assets
from segzoo.pages.write_page import write_page

from .browser import Tab, chromium, need, serving
from .pictures import noise, png

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


@pytest.fixture(scope="module")
def browser():
    """Closed with the module: one process can have one at a time."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    """The whole site, with the real runtime."""
    need(runtime.is_cached(), "ONNX Runtime Web (python -m segzoo.pages.runtime)")
    place = tmp_path_factory.mktemp("site")
    (place.parent / "try me.png").write_bytes(png(noise(40, 52, 3)))
    write_page(exported, place, title="<b>Ground</b>", examples=[place.parent / "try me.png"])
    return place


@pytest.fixture(scope="module")
def site(folder):
    with serving(folder) as found:
        yield found


@pytest.fixture
def tab(browser, request):
    """Open pages; afterwards none of them has asked another place, or said a word."""
    tabs: list[Tab] = []

    def open_tab(site, **options) -> Tab:
        tabs.append(Tab(browser, site.url, **options))
        return tabs[-1]

    yield open_tab
    for found in tabs:
        own = ("http://127.0.0.1:", "blob:http://127.0.0.1:")
        assert [address for address in found.asked if not address.startswith(own)] == []
        if "speaks" not in request.keywords:
            assert found.said == []
        found.close()


@pytest.fixture(scope="module")
def assets_only(tmp_path_factory):
    """The page's files without a model, for one module at a time."""
    place = tmp_path_factory.mktemp("assets")
    for name, content in assets().items():
        (place / name).write_bytes(content)
    (place / "empty.html").write_text('<!doctype html><link rel="icon" href="icon.svg">')
    with serving(place) as found:
        found.url += "empty.html"
        yield found
