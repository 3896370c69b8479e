"""From segmentation_models_pytorch: the same weights and logits, or a refusal with the reason.

benchmarks/parity/smp_encoders.py does the same for every encoder, and keeps the record.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import segzoo
from segzoo.convert import from_smp
from segzoo.convert.keymap import fill, rename
from segzoo.errors import ConversionError, HubError, SegzooError, StorageError

from ..helpers import assert_same_tensors, randomise, shown

smp = pytest.importorskip("segmentation_models_pytorch")

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "smp_conversion.json"
SMALL = (16, 16, 8, 8, 8)
#: smp's own encoders that are segzoo's own too.
OWN = ("efficientnet", "timm-efficientnet", "timm-tf", "mobilenet", "densenet", "mit")


def theirs(encoder: str = "tu-test_resnet", **arguments: Any) -> nn.Module:
    arguments = {"decoder_channels": SMALL, "classes": 2, **arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = smp.Unet(encoder, encoder_weights=None, **arguments)
    randomise(model)
    return model.eval()


def assert_same(a: nn.Module, b: nn.Module, *sizes: tuple[int, int], bands: int = 3) -> None:
    dtype = next(a.parameters()).dtype
    a, b = a.eval(), b.eval()
    with torch.no_grad():
        for size in sizes or ((64, 64), (65, 97)):
            image = torch.randn(1, bands, *size, dtype=dtype)
            assert torch.equal(a(image), b(image)), size


@pytest.mark.parametrize(
    "encoder",
    [
        "resnet18",
        "resnext50_32x4d",
        "se_resnet50",
        "vgg11_bn",
        "timm-regnetx_002",
        "timm-resnest14d",
        "tu-resnet18.a1_in1k",
        "tu-mobilenetv3_small_050",
        "tu-efficientnet_b0",
        "tu-densenet121",
        "tu-vgg11",
        "efficientnet-b0",
        "efficientnet-b1",  # padded for images of 240 pixels
        "timm-efficientnet-b0",
        "timm-tf_efficientnet_lite0",
        "mobilenet_v2",
        "densenet121",
        "mit_b0",
    ],
)
def test_encoders(encoder):
    source = theirs(encoder)
    own = encoder.startswith(OWN)
    # smp rounds the missing stride 2 of mit down, and takes sides that 32 divides.
    sizes = ((64, 64), (96, 160)) if own else ((64, 64), (65, 97))
    assert_same(source, from_smp(source), *sizes)
    if own:
        # It is recognised by its tensors.
        assert_same_tensors(from_smp(source), from_smp(source.state_dict()))


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenet_v2", "efficientnet-b1"])
def test_depths_and_bands_of_encoders_that_are_not_timm_s(encoder):
    source = theirs(encoder, encoder_depth=3, decoder_channels=(16, 8, 8), in_channels=4)
    converted = from_smp(source)
    assert_same(source, converted, (64, 64), (96, 160), bands=4)
    assert converted.config.depth == {"mit_b0": 2}.get(encoder, 3)


@pytest.mark.parametrize(
    ("kind", "encoder", "arguments"),
    [
        ("DeepLabV3", "efficientnet-b1", {}),
        ("DeepLabV3", "mobilenet_v2", {}),
        ("DeepLabV3Plus", "mit_b0", {}),
        ("PAN", "timm-efficientnet-b0", {}),
        ("Segformer", "mit_b0", {"decoder_segmentation_channels": 16}),
        ("MAnet", "mit_b0", {"decoder_channels": SMALL}),
    ],
)
def test_other_architectures_on_encoders_that_are_not_timm_s(kind, encoder, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the prefix timm-
        source = getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **arguments)
    randomise(source)
    assert_same(source, from_smp(source), (128, 128), (192, 256))


def test_dilation_that_is_not_the_same_is_refused():
    source = smp.DeepLabV3("mit_b0", encoder_weights=None)
    with pytest.raises(ConversionError, match=r"output stride of 8 cannot .* 16 can be"):
        from_smp(source)


@pytest.mark.parametrize("attention", [None, "scse"])
@pytest.mark.parametrize(
    "encoder",
    [
        "tu-pvt_v2_b0",  # begins at stride 4: smp has an empty map at stride 2
        "tu-test_convnext2",  # so does this, and its maps lie channels last in memory
        "tu-test_mambaout",  # maps (N, H, W, C)
    ],
)
def test_maps_lie_in_memory_as_smp_s_do(encoder, attention):
    """Of a map that lies otherwise a convolution adds up the same values in another order."""
    # With narrow decoders both orders are the same.
    widths = (256, 128, 64, 32, 16)
    source = theirs(encoder, decoder_channels=widths, decoder_attention_type=attention)
    # smp rounds the missing stride 2 down, so the sizes are even.
    assert_same(source, from_smp(source), (128, 128), (192, 256))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_convnext2", "tu-test_mambaout"])
def test_logits_in_training_mode(encoder):
    source = theirs(encoder, decoder_channels=(256, 128, 64, 32, 16)).train()
    converted = from_smp(source)
    image = torch.randn(2, 3, 128, 96)
    expected = source(image)
    for impl in ("plain", "auto"):
        logits = copy.deepcopy(converted).configure_training(decoder_impl=impl).train()(image)
        if impl == "plain":
            assert torch.equal(logits, expected)
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "arguments",
    [
        {"encoder_depth": 3, "decoder_channels": (16, 8, 8)},
        {"encoder_depth": 4, "decoder_channels": (16, 8, 8, 8)},
        {"in_channels": 1},
        {"in_channels": 7},
        {"classes": 1},
        {"decoder_use_norm": False},
        {"decoder_use_norm": "identity"},
        {"decoder_use_norm": {"type": "instancenorm", "affine": True}},
        {"decoder_use_norm": {"type": "batchnorm", "eps": 1e-5}},
        {"decoder_attention_type": "scse", "decoder_channels": (32, 32, 16, 16, 16)},
        {"decoder_interpolation": "bilinear"},
        {"decoder_interpolation": "bicubic"},
        {"decoder_interpolation": "area"},
        {"decoder_interpolation": "nearest-exact"},
        {"activation": "identity"},
        {"drop_path_rate": 0.1},
    ],
    ids=str,
)
def test_options(arguments):
    source = theirs(**arguments)
    converted = from_smp(source)
    assert_same(source, converted, bands=arguments.get("in_channels", 3))
    if "drop_path_rate" not in arguments:
        told = {key: value for key, value in source.config.items() if "interpol" in key}
        assert_same(
            source,
            from_smp(source.state_dict(), {"encoder_name": "tu-test_resnet", **told}),
            (64, 64),
            bands=arguments.get("in_channels", 3),
        )


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {"encoder_depth": 3, "decoder_channels": (16, 8, 8), "in_channels": 4}),
        ("vgg11", {"encoder_depth": 4, "decoder_channels": (16, 8, 8, 8)}),
        ("resnet34", {"decoder_attention_type": "scse", "decoder_channels": (32, 32, 16, 16, 16)}),
    ],
)
def test_without_a_config_everything_is_deduced(encoder, arguments, caplog):
    source = theirs(encoder, **arguments)
    with caplog.at_level(logging.INFO):
        converted = from_smp(source.state_dict())
    assert converted.config.encoder.startswith(f"{encoder}.")
    assert any("that smp never uses were left out" in text for text in caplog.messages)
    assert_same(source, converted, bands=arguments.get("in_channels", 3))


def test_training_goes_on_alike():
    source = theirs("resnet18").double().train()
    converted = from_smp(source).train()
    assert converted.head.conv.weight.dtype == torch.float64
    image = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    outputs = []
    for model in (source, converted):
        loss = model(image).square().mean()
        loss.backward()
        outputs.append(loss.item())
    assert outputs[0] == outputs[1]
    torch.testing.assert_close(
        converted.encoder.backbone.conv1.weight.grad,
        source.encoder.conv1.weight.grad,
        rtol=1e-11,
        atol=1e-13,
    )
    assert_same(source, converted)


def test_the_source_is_left_alone():
    source = theirs()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    converted = from_smp(source)
    nn.init.zeros_(converted.head.conv.weight)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


# Where checkpoints come from


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(0)
    return theirs()


NAME = {"encoder_name": "tu-test_resnet"}


def test_a_folder_and_a_repository(source, tmp_path, hub):
    source.save_pretrained(tmp_path / "model")
    assert_same(source, from_smp(tmp_path / "model"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    hub.tokens = {"secret"}
    hub.add("user/smp", files)
    hub.repos["user/smp"].private = True
    with pytest.raises(HubError, match="token"):
        from_smp("user/smp")
    assert_same(source, from_smp("user/smp", token="secret", cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model._orig_mod."])
def test_files(source, tmp_path, prefix):
    tensors = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pth")
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "c.ckpt")
    for path in tmp_path.iterdir():
        assert_same(source, from_smp(path, NAME), (64, 64))


def test_a_config_of_an_older_version(source, tmp_path):
    source.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["decoder_use_norm"], config["decoder_interpolation"]
    config |= {"decoder_use_batchnorm": True, "upscale_mode": "bilinear"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert from_smp(tmp_path).config.interpolation == "bilinear"
    config["decoder_use_batchnorm"] = "inplace"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="'inplace' cannot be brought over exactly"):
        from_smp(tmp_path)


def test_a_converted_model_can_be_saved(source, tmp_path):
    from_smp(source).save_pretrained(tmp_path)
    assert_same(source, segzoo.from_pretrained(tmp_path))


class Trap:
    """Opened without weights_only, this pickle would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_runs_no_code(tmp_path):
    torch.save({"state_dict": Trap(tmp_path / "caught")}, tmp_path / "evil.pth")
    with pytest.raises(StorageError, match="weights_only=True"):
        from_smp(tmp_path / "evil.pth")
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pth", b"nothing"), ("a.safetensors", b"nothing"), ("a.pth", b"")],
)
def test_files_that_are_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError):
        from_smp(tmp_path / name)
    with pytest.raises(StorageError, match="no folder"):
        from_smp(tmp_path / "missing.pth")


# Refusals


def without(name: str) -> Any:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def added(name: str, value: Tensor) -> Any:
    return lambda tensors: {**tensors, name: value}


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (dict, {}, r"tensors do not tell which.*encoder_name"),
        (dict, {"encoder_name": "tu-nothing"}, "not in this version of timm"),
        (dict, {"encoder_name": "tu-vit_tiny_patch16_224"}, "maps of strides"),
        (dict, {"encoder_name": "tu-test_resnet.nothing"}, "no pretrained tag"),
        (dict, {"encoder_name": "dpn68"}, "exactly: smp puts a ReLU on its maps"),
        (dict, {"encoder_name": "xception"}, "exactly: smp pads its first convolutions"),
        (dict, {"encoder_name": "mobileone_s0"}, "exactly: smp adds up its branches in another"),
        (dict, {"encoder_name": "mit_b7"}, r"no network.*Did you mean mit_b"),
        (dict, {"encoder_name": "densenet121"}, "does not fit Unet"),
        (dict, {"encoder_name": "tu-resnet18"}, "does not fit Unet"),
        (dict, {"encoder_name": "resnext101_32x48d"}, "not in this version of timm"),
        (dict, {**NAME, "classes": 5}, "config says classes=5, its tensors say 2"),
        (dict, {**NAME, "encoder_depth": 3}, "config says encoder_depth=3"),
        (dict, {**NAME, "decoder_channels": [1, 2]}, "config says decoder_channels"),
        (dict, {**NAME, "decoder_attention_type": "scse"}, "tensors say none"),
        (dict, {**NAME, "decoder_use_norm": False}, "tensors say 'batch'"),
        (dict, {**NAME, "decoder_use_norm": "layernorm"}, "cannot be brought over exactly"),
        (dict, {**NAME, "decoder_use_norm": {"type": "batchnorm", "eps": 1e-3}}, "eps=0.001"),
        (dict, {**NAME, "decoder_interpolation": "lanczos"}, "must be one of"),
        (dict, {**NAME, "output_stride": 16}, "dilated"),
        (dict, {**NAME, "encoder_dept": 5}, "Did you mean encoder_depth"),
        (dict, {**NAME, "checkpoint_path": "/etc/passwd"}, "not known here"),
        (dict, {**NAME, "aux_params": {"classes": 3}}, "no tensors classification_head"),
        (dict, {**NAME, "_model_class": "UnetMinus"}, "'UnetMinus'.*Did you mean Unet"),
        (lambda tensors: {}, NAME, "holds no tensors"),
        (lambda tensors: {"a": torch.zeros(1)}, NAME, "no model of segmentation_models_pytorch"),
        (lambda tensors: {**tensors, "epoch": 3}, NAME, "'epoch' is int"),
        (without("decoder.blocks.2.conv1.1.bias"), NAME, "lacks 1 tensors"),
        (without("segmentation_head.0.bias"), NAME, "lacks 1 tensors"),
        (without("decoder.blocks.2.conv1.0.weight"), NAME, "no Unet"),
        (added("decoder.blocks.1.extra", torch.zeros(1)), NAME, "1 that have no place"),
        (added("classification_head.3.weight", torch.zeros(1, 64)), NAME, "lacks 1 tensors"),
        (added("segmentation_head.0.bias", torch.zeros(3)), NAME, "shape"),
        (added("segmentation_head.0.bias", torch.zeros(2).double()), NAME, "mixes the types"),
    ],
    ids=shown,
)
def test_refusals(source, change, config, message):
    with pytest.raises(SegzooError, match=message) as caught:
        from_smp(change(source.state_dict()), config)
    assert isinstance(caught.value, ConversionError)


def test_another_architecture_is_refused(source):
    tensors = source.state_dict()
    with pytest.raises(ConversionError, match="architecture 'OneOfTomorrow'"):
        from_smp(tensors, {"_model_class": "OneOfTomorrow"})
    others = {name: value for name, value in tensors.items() if not name.startswith("decoder.")}
    with pytest.raises(
        ConversionError, match="no model of segmentation_models_pytorch that is known"
    ):
        from_smp(others, NAME)


def test_a_classification_head_comes_along_to_the_bit():
    aux = {"classes": 4, "pooling": "max", "dropout": 0.3}
    source = theirs(aux_params=aux)
    converted = from_smp(source).eval()
    assert converted.config.classification == segzoo.Classification(
        classes=4, pooling="max", dropout=0.3
    )
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        masks, labels = source.eval()(image)
        outputs = converted.forward_heads(image)
    assert torch.equal(outputs.logits, masks)
    assert torch.equal(outputs.image_logits, labels)


def test_an_activation_is_named(caplog):
    source = theirs(activation="sigmoid")
    converted = from_smp(source)
    assert "without the activation 'sigmoid'" in caplog.text
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(converted.eval()(image).sigmoid(), source(image))


def test_renaming_and_filling():
    tensors = {"a.1": torch.zeros(1), "b.1": torch.ones(1)}
    assert rename(tensors, [(r"^a\.", "c.")]).keys() == {"c.1", "b.1"}
    with pytest.raises(ConversionError, match=r"would both become 'b\.1'"):
        rename(tensors, [(r"^a\.", "b.")])
    layer = nn.Linear(1, 1)
    fill(layer, {"weight": torch.ones(1, 1).half(), "bias": torch.zeros(1).half()}, source="x")
    assert layer.weight.dtype == torch.float16


def test_the_record_holds_more_than_forty_encoders():
    record = json.loads(RECORD.read_text())
    rows = record["encoders"].values()
    assert sum(row.get("bit_identical", False) for row in rows) >= 40
    for name, row in record["encoders"].items():
        assert "failed" not in row, name
        assert row.get("bit_identical", True), name


@torch.no_grad()
@pytest.mark.parametrize("name", ["convnext_atto", "pvt_v2_b0"])
@pytest.mark.parametrize("size", [(65, 97), (63, 95), (250, 131)])
def test_encoders_that_begin_at_stride_4_agree_at_odd_sizes(name, size):
    theirs = smp.Unet(f"tu-{name}", encoder_weights=None, classes=2).double().eval()
    ours = from_smp(theirs, {"encoder_name": f"tu-{name}"}).eval()
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-12, atol=1e-12)
