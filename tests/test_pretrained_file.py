"""Encoders that were trained elsewhere: a full timm checkpoint, from a file or the Hub."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save, save_file

import segzoo
from segzoo.errors import EncoderError, HubError, StorageError


def whole(name: str, **arguments: object) -> torch.nn.Module:
    return timm.create_model(name, num_classes=7, **arguments)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file(tmp_path, name, suffix):
    model = whole(name)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": model.state_dict()}, path)
    else:
        save_file(model.state_dict(), path)
    encoder = segzoo.create_encoder(name, pretrained=str(path))
    image = torch.randn(1, 3, 160, 160)
    reference = timm.create_model(
        name, features_only=True, out_indices=encoder.backbone.feature_info.out_indices
    )
    source = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
    for key, value in encoder.backbone.state_dict().items():
        assert torch.equal(source[key.removeprefix("model.").replace(".", "_")], value), key
    assert len(encoder.backbone.state_dict()) == len(reference.state_dict())
    assert encoder.backbone.pretrained_cfg.get("state_dict") is None
    assert encoder.base_model is None
    assert len(encoder.eval()(image)) == len(encoder.features)


def test_other_bands(tmp_path):
    model = whole("test_resnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    unet = segzoo.Unet("test_resnet", in_channels=1, pretrained=str(tmp_path / "weights.pth"))
    weight = model.conv1[0].weight.sum(1, keepdim=True)
    torch.testing.assert_close(unet.encoder.backbone.conv1[0].weight, weight)
    assert unet.config.pretrained is False


def test_the_hub(hub, tmp_path):
    model = whole("test_resnet")
    files = {"config.json": json.dumps({"architecture": "test_resnet"}).encode()}
    hub.add("user/encoder", {**files, "model.safetensors": save(model.state_dict())})
    unet = segzoo.Unet("test_resnet", pretrained="hf-hub:user/encoder")
    assert torch.equal(unet.encoder.backbone.conv1[0].weight, model.conv1[0].weight)
    unet.save_pretrained(tmp_path)
    assert "base_model: user/encoder" in (tmp_path / "README.md").read_text()
    with pytest.raises(HubError, match="no such repository"):
        segzoo.Unet("test_resnet", pretrained="hf-hub:user/nothing")


def test_what_does_not_fit(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(whole("test_vit").state_dict(), path)
    with pytest.raises(EncoderError, match="does not fit 'test_resnet"):
        segzoo.Unet("test_resnet", pretrained=str(path))
    state = whole("test_resnet").state_dict()
    state.pop("conv1.0.weight")
    torch.save(state, path)
    with pytest.raises(EncoderError, match=r"conv1\.0\.weight"):
        segzoo.Unet("test_resnet", pretrained=str(path))
    with pytest.raises(StorageError, match="is no file"):
        segzoo.Unet("test_resnet", pretrained="missing.pth")
    with pytest.raises(StorageError, match="is no file"):
        segzoo.Unet("test_resnet", pretrained="user/name")
