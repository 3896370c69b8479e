"""What docs/asked-for.md shows runs, and every wish has the thread where it was asked."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import segzoo

from .datasets.making import make_pairs
from .test_readme import DATA, smaller, snippets

PAGE = "docs/asked-for.md"
#: What is shown -> what is run in its place, beside what `smaller` puts there.
SMALL = {
    "vit_tiny_patch16_224": "test_vit",
    "convnextv2_atto": "test_convnext2",
    "convnext_atto": "test_convnext",
    "mobilenetv3_small_050": "test_efficientnet",
    "efficientnet_b0": "test_resnet",
    "depth=3": "depth=2",
    "(3, 420, 560)": "(3, 150, 170)",
    '"mask.tif", tiling="exact"': '"mask.tif", tiling="blend"',  # exact tiles have their tests
    "tile=256": "tile=96",
}
TEXT = (Path(__file__).parents[1] / PAGE).read_text()


def shown_smaller(block: str, page: str) -> str:
    if os.environ.get("SEGZOO_SWEEP"):
        return block
    for shown, used in SMALL.items():
        block = block.replace(shown, used)
    return smaller(block, page)


def write_scene(path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 130, 160), dtype=np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=160,
        height=130,
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000),
        photometric="RGB",
    ) as scene:
        scene.write(pixels)


def test_what_was_asked_for_works(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.chdir(tmp_path)
    make_pairs(tmp_path, DATA)
    write_scene(tmp_path / "scene.tif")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "backbone.pth")
    segzoo.Unet("test_resnet", classes=3).save_pretrained(tmp_path / "my-model")
    names: dict[str, object] = {}
    for block in snippets(PAGE, "python"):
        exec(compile(shown_smaller(block, PAGE), PAGE, "exec"), names)
    loss, scores = names["loss"], names["scores"]
    assert float(loss) == 0
    assert isinstance(scores, segzoo.Scores)
    with rasterio.open("scene.tif") as scene, rasterio.open("mask.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (scene.crs, scene.transform, scene.shape)


def test_every_wish_has_its_thread_and_its_lines():
    wishes = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
    assert len(wishes) >= 15
    for wish in wishes:
        assert "```python\n" in wish, wish
        threads = re.findall(r"\[[\w-]+ #(\d+)\]\(https://github.com/(\S+?)\)", wish)
        assert threads, wish
        for number, address in threads:
            assert re.fullmatch(rf"[\w.-]+/[\w.-]+/(issues|pull)/{number}", address)
