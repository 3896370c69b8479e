"""The demo ends with a page, and without what that needs with a line."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from segzoo.cli.demo import _print
from segzoo.data.pictures import read_picture
from segzoo.demo import DemoResult, Scene
from segzoo.demo.page import write_demo_page
from segzoo.pages import runtime


@pytest.fixture
def scene() -> Scene:
    photo = torch.randint(0, 256, (3, 48, 150), generator=torch.Generator().manual_seed(0))
    return Scene(photo.to(torch.uint8), (photo[0] > 99).long(), ("back", "front"))


@pytest.fixture
def result(model, tmp_path) -> DemoResult:
    folder = model.save_pretrained(tmp_path / "model")
    place = Path("x")
    return DemoResult(
        0.5, {}, True, 2, (1.0, 0.5), "test_resnet", 0, 1.0, 1.0, folder, place, place
    )


@pytest.mark.usefixtures("export_is_known")
def test_the_page_has_the_model_and_what_it_never_saw(
    result, scene, small_runtime, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runtime, "cache_folder", lambda: small_runtime)
    folder = tmp_path / "out" / "site"
    page = write_demo_page(result, scene, folder)
    assert page == folder / "index.html"
    assert torch.equal(read_picture(folder / "examples/never-seen.png"), scene.right().photo)
    assert json.loads((folder / "page.json").read_text())["examples"] == ["examples/never-seen.png"]
    _print(result, page)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split(maxsplit=2)[:2] == ["try", "it"]
    assert f"python -m http.server --directory {folder}" in last


def test_without_the_packages_it_says_how_to_get_them(
    result, scene, small_runtime, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runtime, "cache_folder", lambda: small_runtime)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = write_demo_page(result, scene, tmp_path / "my site")
    assert line.startswith('pip install "segzoo[page]", then: segzoo page ')
    assert shlex.split(line)[-1] == str(tmp_path / "my site")
    _print(result, line)
    assert capsys.readouterr().out.splitlines()[-1] == f"page      {line}"


def test_without_a_network_it_says_why(result, scene, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    line = write_demo_page(result, scene, tmp_path / "site")
    assert line.startswith("not written: ONNX Runtime Web")
    assert "npm pack onnxruntime-web" in line
    assert not (tmp_path / "site").exists()
