"""Encoders that were trained elsewhere: a full timm checkpoint, from a file or the Hub."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save, save_file

import segzoo
from segzoo.errors import ConversionError, EncoderError, HubError, StorageError
from segzoo.training.optimizer import encoder_scale

from ..helpers import TinyBackbone, needs_timm_1_0_31


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


#: One architecture for each way to take an image in, small where it can be made so.
STEMS = {
    "one convolution": ("resnet18", {"layers": [1, 1, 1, 1]}),
    "three convolutions": ("test_resnet", {}),
    "two convolutions": ("repvit_m1", {}),
    "large kernel": ("test_convnext", {}),
    "patches": ("test_vit", {}),
    "patches and windows": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
    ),
    "convolution in a wrapper": ("test_efficientnet", {}),
}


@pytest.mark.parametrize(
    "stem",
    [pytest.param(stem, marks=needs_timm_1_0_31 if "windows" in stem else ()) for stem in STEMS],
)
def test_bands_are_adapted_as_timm_does(stem, tmp_path):
    name, options = STEMS[stem]
    torch.manual_seed(0)
    path = str(tmp_path / "weights.pth")
    torch.save(timm.create_model(name, **options).state_dict(), path)
    for bands in (1, 2, 4, 13):
        unet = segzoo.Unet(name, in_channels=bands, pretrained=path, encoder_options=options)
        backbone = unet.encoder.backbone
        reference = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": path},
            features_only=True,
            in_chans=bands,
            out_indices=backbone.feature_info.out_indices,
            **options,
        )
        state = backbone.state_dict()
        assert state.keys() == reference.state_dict().keys()
        for key, value in reference.state_dict().items():
            assert torch.equal(state[key], value), (bands, key)
        first = next(weight for weight in backbone.parameters() if weight.ndim == 4)
        assert first.shape[1] == bands
        assert unet.config.pretrained is False


def test_a_path_and_what_is_around_the_weights(tmp_path):
    model = whole("test_resnet")
    state = {f"net.backbone.{key}": item for key, item in model.state_dict().items()}
    torch.save({"state_dict": {**state, "std": torch.ones(3)}, "args": tmp_path}, tmp_path / "a")
    for encoder in (
        segzoo.create_encoder("test_resnet", pretrained=tmp_path / "a"),
        segzoo.Unet("test_resnet", pretrained=tmp_path / "a").encoder,
    ):
        assert torch.equal(encoder.backbone.conv1[0].weight, model.conv1[0].weight)


def test_a_set_of_weights_is_said_behind_the_name(tmp_path):
    state = whole("test_resnet").state_dict()
    other = {key: item + 1 for key, item in state.items()}
    path = tmp_path / "a#b.pth"
    torch.save({"state_dict": state, "state_dict_ema": other}, path)
    for weights, expected in (("state_dict", state), ("state_dict_ema", other)):
        encoder = segzoo.create_encoder("test_resnet", pretrained=f"{path}#{weights}")
        assert torch.equal(encoder.backbone.conv1[0].weight, expected["conv1.0.weight"])
    with pytest.raises(ConversionError, match="no set of weights 'ema'"):
        segzoo.create_encoder("test_resnet", pretrained=f"{path}#ema")


def changed(name: str, change: object) -> object:
    return lambda state: {**state, name: change(state[name])}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (changed("conv1.0.weight", lambda t: t * torch.nan), ConversionError, "not finite: NaN"),
        (changed("conv1.0.weight", lambda t: t + 0j), EncoderError, "complex64, expected"),
        (changed("bn1.bias", lambda t: t.long()), EncoderError, "bias is of torch.int64"),
        (
            lambda state: {key: item for key, item in state.items() if key.startswith("fc.")},
            EncoderError,
            r"weights of a classifier only \(fc.bias, fc.weight\)",
        ),
        (
            lambda state: {"model": state, "model_ema": {k: t + 1 for k, t in state.items()}},
            ConversionError,
            r"2 sets of weights: 'model', 'model_ema'\. .* pretrained='FILE#NAME' with NAME 'model_ema'",
        ),
    ],
)
def test_rules_of_every_checkpoint_hold_here_too(change, error, message, tmp_path, hub):
    torch.save(change(whole("test_resnet").state_dict()), tmp_path / "a.pth")
    with pytest.raises(error, match=message):
        segzoo.Unet("test_resnet", pretrained=tmp_path / "a.pth")
    assert hub.requests == []


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


def test_a_set_of_weights_is_no_part_of_the_repository_s_name(hub, tmp_path):
    model = whole("test_resnet")
    both = {
        f"{part}.{key}": value.clone()
        for key, value in model.state_dict().items()
        for part in ("model", "model_ema")
    }
    both["model.conv1.0.weight"] += 1
    hub.add("user/encoder", {"config.json": b"{}", "model.safetensors": save(both)})
    unet = segzoo.Unet("test_resnet", pretrained="hf-hub:user/encoder#model_ema")
    assert torch.equal(unet.encoder.backbone.conv1[0].weight, model.conv1[0].weight)
    assert unet.base_model == "user/encoder"
    unet.save_pretrained(tmp_path / "out")
    assert "base_model: user/encoder\n" in (tmp_path / "out" / "README.md").read_text()


def learned(in_channels: int, pretrained: bool) -> torch.nn.Module:
    return TinyBackbone(in_channels)


def test_what_has_learned_already_learns_more_slowly(tmp_path, hub):
    recipe = segzoo.Recipe()
    torch.save(whole("test_resnet").state_dict(), tmp_path / "a.pth")
    weights = save(whole("test_resnet").state_dict())
    hub.add("user/encoder", {"config.json": b"{}", "model.safetensors": weights})
    remote = segzoo.Unet("test_resnet", pretrained="hf-hub:user/encoder")
    own = segzoo.Unet("test_resnet", pretrained=tmp_path / "a.pth")
    fresh = segzoo.Unet("test_resnet")
    segzoo.register_encoder("tiny_learned")(learned)
    try:
        registered = [segzoo.Unet("tiny_learned", pretrained=flag) for flag in (True, False)]
    finally:
        del segzoo.encoders.ENCODERS._entries["tiny_learned"]
    models = (remote, own, fresh, *registered, segzoo.Unet(own.encoder))
    assert [encoder_scale(model, recipe) for model in models] == [0.3, 0.3, 1.0, 0.3, 1.0, 0.3]
    assert own.base_model is None
    loaded = [segzoo.from_pretrained(item.save_pretrained(tmp_path / "m")) for item in models[:3]]
    assert [encoder_scale(model, recipe) for model in loaded] == [0.3, 1.0, 1.0]
    fresh.encoder.began_pretrained = True
    assert encoder_scale(fresh, recipe) == 0.3


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
