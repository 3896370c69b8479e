"""Models that earlier versions saved load for ever, with the same weights and the same logits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import segzoo
from segzoo.registry import BUILT_IN

from ..save_golden import ARGUMENTS, DATA, digest, save_golden

FOLDERS = sorted(path for path in DATA.glob("saved-by-*/*") if path.is_dir())
#: The sums are rounded differently from processor to processor, and from torch to torch: by a few
#: parts in ten million of the largest logit. A weight in the wrong place moves all of it.
TOLERANCE = 1e-5


def expected(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Image and logits, and the digest of the weights when they were saved."""
    with safe_open(folder.with_name(f"{folder.name}.safetensors"), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("image", "logits")}
        return tensors, file.metadata()["weights_sha256"]


def identifier(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


@pytest.mark.parametrize("folder", FOLDERS, ids=identifier)
def test_a_model_of_an_earlier_version(folder):
    model = segzoo.from_pretrained(folder)
    assert model.architecture == folder.name
    tensors, weights = expected(folder)
    assert digest(model.state_dict()) == weights
    with torch.inference_mode():
        logits = model(tensors["image"])
    largest = tensors["logits"].abs().max().item()
    torch.testing.assert_close(logits, tensors["logits"], rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("folder", FOLDERS, ids=identifier)
def test_its_config_says_what_it_said(folder):
    """Later arguments have their defaults; none that was saved is lost or changed."""
    saved = json.loads((folder / "config.json").read_text())
    model = segzoo.from_pretrained(folder)
    now = json.loads(json.dumps(model.config.arguments()))
    assert {name: now[name] for name in saved["arguments"]} == saved["arguments"]
    assert folder.parent.name == f"saved-by-{saved['segzoo_version']}"
    assert model.config.class_names == ("road", "sky", "other")


@pytest.mark.parametrize("folder", FOLDERS, ids=identifier)
def test_saved_again_it_is_the_same_model(folder, tmp_path):
    segzoo.from_pretrained(folder).save_pretrained(tmp_path)
    again = segzoo.from_pretrained(tmp_path)
    assert digest(again.state_dict()) == expected(folder)[1]


def test_every_release_left_its_models():
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)
    assert releases
    saved = {folder.parent.name for folder in FOLDERS}
    for release in releases:
        assert f"saved-by-{release}" in saved, f"{release}: see RELEASING.md"


def test_what_writes_them(tmp_path):
    save_golden("unet", tmp_path)
    model = segzoo.from_pretrained(tmp_path / "unet")
    tensors, weights = expected(tmp_path / "unet")
    assert digest(model.state_dict()) == weights
    with torch.inference_mode():
        assert torch.equal(model(tensors["image"]), tensors["logits"])


def test_a_release_can_save_every_architecture():
    assert set(ARGUMENTS) == set(BUILT_IN.values())
