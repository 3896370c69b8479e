"""A model whose weights are no numbers is stopped at every door, and spoils nothing behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import ExportError, HubError, InputError, OptimizationError, StorageError
from segzoo.nn.finite import is_finite
from segzoo.storage import transfer

from .helpers import TinyBackbone


def diverged(value: float = torch.nan) -> segzoo.Unet:
    """A model with one weight that is none."""
    model = segzoo.Unet(TinyBackbone(3), classes=3)
    with torch.no_grad():
        next(model.decoder.parameters()).view(-1)[0] = value
    return model.eval()


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor([1.0, torch.inf]), False),
        (torch.tensor([1.0, -torch.inf]).half(), False),
        (torch.tensor([torch.nan, 1.0], dtype=torch.bfloat16), False),
        (torch.tensor([1.0, torch.nan], dtype=torch.float64), False),
        (torch.tensor([complex(1, torch.nan)]), False),
        (torch.tensor([torch.nan]).to(torch.float8_e4m3fn), False),
        (torch.tensor([3.4e38, -3.4e38]), True),
        (torch.tensor([1 + 1j]), True),
        (torch.tensor([2**62]), True),
        (torch.empty(0, 3), True),
        (torch.empty(3, device="meta"), True),
    ],
    ids=str,
)
def test_what_is_finite(tensor, expected):
    assert is_finite(tensor) == expected


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_it_is_not_saved_over_a_good_one(value, honest, tmp_path):
    good = segzoo.from_pretrained(honest)
    good.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    bad = segzoo.from_pretrained(honest)
    with torch.no_grad():
        next(bad.parameters()).view(-1)[-1] = value
    with pytest.raises(
        StorageError, match=r"was not saved: .* NaN or infinity in encoder\.backbone"
    ):
        bad.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    bad.save_pretrained(tmp_path, check_finite=False)
    segzoo.from_pretrained(tmp_path, check_finite=False)


def test_it_is_not_pushed(honest, hub):
    model = segzoo.from_pretrained(honest)
    nn.init.constant_(next(model.parameters()), torch.nan)
    with pytest.raises(StorageError, match="not finite") as caught:
        model.push_to_hub("user/name")
    assert not isinstance(caught.value, HubError)
    assert hub.requests == []


def test_its_folder_is_neither_pushed_nor_pulled(honest, hub, tmp_path):
    model = segzoo.from_pretrained(honest)
    nn.init.constant_(next(model.parameters()), torch.nan)
    model.save_pretrained(tmp_path / "bad", check_finite=False)
    with pytest.raises(StorageError, match=r"NaN or infinity in .* check_finite=False"):
        transfer.push(tmp_path / "bad", "user/name")
    assert hub.requests == []
    transfer.push(tmp_path / "bad", "user/name", check_finite=False)
    folder = tmp_path / "good"
    segzoo.from_pretrained(honest).save_pretrained(folder)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(StorageError, match="NaN or infinity in"):
        transfer.pull("user/name", folder, cache_dir=tmp_path / "cache")
    assert (folder / "model.safetensors").read_bytes() == before
    transfer.pull("user/name", folder, cache_dir=tmp_path / "cache", check_finite=False)
    assert (folder / "model.safetensors").read_bytes() != before


def test_it_is_not_exported_or_optimised(tmp_path):
    with pytest.raises(ExportError, match="not finite: NaN or infinity in decoder"):
        segzoo.export(diverged(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptimizationError, match="not finite: NaN or infinity in decoder"):
        segzoo.optimize(diverged(), example=torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("classes", [1, 3])
def test_it_predicts_nothing(classes):
    model = segzoo.Unet(TinyBackbone(3), classes=classes).eval()
    picture = torch.rand(3, 33, 41)
    assert model.predict(picture).shape == (33, 41)
    picture[1, 3, 4] = torch.nan
    with pytest.raises(InputError, match="The picture has pixels that are NaN or infinite"):
        model.predict(picture)
    nn.init.constant_(next(model.decoder.parameters()), torch.nan)
    for image in (torch.rand(3, 33, 41), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(InputError, match="logits are NaN for a picture of finite pixels"):
            model.predict(image)
