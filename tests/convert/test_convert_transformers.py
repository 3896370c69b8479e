"""From transformers: the same logits but for rounding, or a refusal with the reason."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segzoo
from segzoo.cli import main
from segzoo.convert import from_transformers
from segzoo.convert.transformers.upernet import TYPICAL
from segzoo.errors import ArgumentError, ConversionError, StorageError

from ..architecture_checks import randomise_all

transformers = pytest.importorskip("transformers")

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SMALL = {"num_labels": 3, "hidden_size": 16, "auxiliary_channels": 8}
DPT = {
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 96,
    "backbone_out_indices": [2, 5, 8, 11],
    "neck_hidden_sizes": [8, 12, 16, 20],
    "fusion_hidden_size": 16,
    "num_labels": 3,
    "use_batch_norm_in_fusion_residual": True,
}


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def segformer(**options: Any) -> nn.Module:
    config = transformers.SegformerConfig(**{"num_labels": 3, "decoder_hidden_size": 32, **options})
    return made(transformers.SegformerForSemanticSegmentation(config))


def dpt(**options: Any) -> nn.Module:
    config = transformers.DPTConfig(**{**DPT, **options})
    return made(transformers.DPTForSemanticSegmentation(config))


def upernet(backbone: Any, **options: Any) -> nn.Module:
    config = transformers.UperNetConfig(backbone_config=backbone, **{**SMALL, **options})
    return made(transformers.UperNetForSemanticSegmentation(config))


def convnext(**options: Any) -> Any:
    sizes = {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]}
    return transformers.ConvNextConfig(**{**sizes, "out_features": STAGES, **options})


def swin(**options: Any) -> Any:
    sizes = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    return transformers.SwinConfig(**{**sizes, "out_features": STAGES, **options})


def made(model: nn.Module) -> nn.Module:
    """In float64, with weights that a mistake cannot hide behind."""
    torch.manual_seed(0)
    randomise_all(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "position" in name or "cls" in name:
            nn.init.normal_(parameter, 0.5 if "weight" in name or "scale" in name else 0.0, 0.2)
    return model.double().eval()


@torch.no_grad()
def assert_same(theirs: nn.Module, ours: Any, *sizes: tuple[int, int]) -> None:
    """In float64 what is left are roundings of other orders of sums."""
    bands = ours.in_channels
    for size in sizes:
        image = torch.randn(1, bands, *size, dtype=torch.float64)
        expected = theirs(pixel_values=image).logits
        if ours.align_corners is False:  # as post_process_semantic_segmentation does
            expected = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
        largest = float(expected.abs().max())
        assert largest > 1e-2
        torch.testing.assert_close(ours(image), expected, rtol=0, atol=1e-12 * largest)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_channels": 4, "num_labels": 1},
    ],
    ids=str,
)
def test_segformer(options):
    theirs = segformer(**options)
    ours = from_transformers(theirs)
    assert isinstance(ours, segzoo.Segformer)
    assert ours.config.encoder == "mit_b0"
    assert_same(theirs, ours, (128, 128), (97, 130))
    # What version 5 has in memory has other names than its files.
    names = from_transformers(theirs.state_dict()).state_dict()
    assert all(torch.equal(value, names[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"readout_type": "add", "num_channels": 1},
        {"readout_type": "ignore", "layer_norm_eps": 1e-6},
        {"backbone_out_indices": [1, 3, 7, 10]},
    ],
    ids=str,
)
def test_dpt(options):
    theirs = dpt(**options)
    ours = from_transformers(theirs)
    assert isinstance(ours, segzoo.DPT)
    assert ours.config.readout == options.get("readout_type", "project")
    assert_same(theirs, ours, (96, 96))
    assert isinstance(ours.decoder.fusions[0].level, nn.Identity)


def test_upernet_on_convnext(caplog, tmp_path):
    theirs = upernet(convnext())
    with caplog.at_level(logging.INFO):
        ours = from_transformers(theirs)
    assert "that the logits do not need were left out" in caplog.text
    assert isinstance(ours, segzoo.UPerNet)
    assert ours.config.encoder.startswith("convnext_tiny")
    assert_same(theirs, ours, (128, 128), (97, 130))
    loaded = segzoo.from_pretrained(ours.save_pretrained(tmp_path))
    assert loaded.config == ours.config
    assert_same(theirs, loaded, (64, 96))


def test_upernet_on_swin():
    theirs = upernet(swin())
    ours = from_transformers(theirs)
    assert ours.config.encoder.startswith("swin_tiny_patch4_window7_224")
    assert_same(theirs, ours, (96, 132))


# Where checkpoints come from


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("segformer")
    names = {0: "road", 1: "sky", 2: "tree"}
    theirs = segformer(id2label=names, label2id={name: i for i, name in names.items()})
    theirs.save_pretrained(folder)
    pixels = {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return theirs, folder


def test_names_and_pixels_come_along(saved, tmp_path, capsys):
    theirs, folder = saved
    ours = from_transformers(folder)
    assert ours.class_names == ("road", "sky", "tree")
    assert ours.normalization.mean == (0.4, 0.4, 0.4)
    assert ours.config.dropout == 0.1
    assert not ours.training
    out = tmp_path / "out"
    assert main(["convert", "transformers", str(folder), str(out)]) == 0
    assert "Segformer with mit_b0" in capsys.readouterr().out
    assert_same(theirs, segzoo.from_pretrained(out), (64, 96))
    with pytest.raises(ArgumentError, match="class_names has 2 names for classes=3"):
        from_transformers(folder, class_names=("a", "b"))


@pytest.mark.parametrize(
    ("said", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": True, "rescale_factor": 1 / 255}, 0.25, 0.5),
        ({"rescale_factor": 0.00392156862745098}, 0.25, 0.5),
        ({"do_normalize": None}, 0.0, 1.0),
        ({"rescale_factor": 2 / 255}, 0.125, 0.25),
        ({"do_rescale": False}, 0.25 / 255, 0.5 / 255),
        ({"do_rescale": False, "do_normalize": False}, 0.0, 1 / 255),
    ],
    ids=str,
)
def test_pixels_are_treated_as_the_processor_does(saved, tmp_path, said, mean, std):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved[1] / name).read_bytes())
    pixels = {"image_mean": [0.25] * 3, "image_std": [0.5] * 3, **said}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    found = from_transformers(tmp_path).normalization
    assert found.mean == pytest.approx((mean,) * 3, rel=1e-12)
    assert found.std == pytest.approx((std,) * 3, rel=1e-12)
    processor = transformers.SegformerImageProcessor.from_pretrained(tmp_path, do_resize=False)
    picture = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    expected = processor(picture.numpy(), return_tensors="pt")["pixel_values"][0]
    largest = float(expected.abs().max())
    torch.testing.assert_close(found(picture), expected.float(), rtol=0, atol=1e-6 * largest)


def test_a_processor_that_says_nonsense(saved, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved[1] / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text('{"rescale_factor": "a"}')
    with pytest.raises(
        ConversionError, match=r"preprocessor_config\.json .* rescale_factor must be"
    ):
        from_transformers(tmp_path)


def test_files(saved, tmp_path):
    theirs, folder = saved
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    names = ("a", "b", "c")
    for source in (tmp_path, folder / "model.safetensors"):
        ours = from_transformers(source, class_names=names)
        assert ours.class_names == names
        assert_same(theirs, ours, (64, 96))
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(StorageError, match=r"config\.json cannot be read"):
        from_transformers(tmp_path)
    with pytest.raises(StorageError, match="no folder"):
        from_transformers(tmp_path / "nothing")


def test_a_repository(saved, hub, tmp_path):
    theirs, folder = saved
    hub.add("user/segformer", {path.name: path.read_bytes() for path in folder.iterdir()})
    ours = from_transformers("user/segformer", cache_dir=tmp_path)
    assert_same(theirs, ours, (64, 96))
    assert ours.normalization.mean == (0.4, 0.4, 0.4)
    again = from_transformers("user/segformer", cache_dir=tmp_path, local_files_only=True)
    assert again.normalization == ours.normalization


# Refusals


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["SegformerForImageClassification"]}, "of the class 'SegformerForIm"),
        ({"architectures": ["DPTForSemanticSegmentation"]}, "does not say backbone_out_indices"),
        ({"sr_ratios": [4, 4, 2, 1]}, r"sr_ratios=\[4, 4, 2, 1\]; what can .* \[8, 4, 2, 1\]"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"strides": [4, 2, 2, 1]}, r"strides=\[4, 2, 2, 1\]; what can .* \[4, 2, 2, 2\]"),
        ({"patch_sizes": [7, 3, 3, 5]}, r"patch_sizes=\[7, 3, 3, 5\]"),
    ],
    ids=str,
)
def test_configs_that_are_refused(saved, config, message):
    with pytest.raises(ConversionError, match=message):
        from_transformers(saved[1], config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"a": torch.zeros(1)}, "no model of transformers that is known here"),
        (lambda t: {n: v for n, v in t.items() if "classifier" not in n}, "tensor decode_head.cl"),
        (lambda t: {n: v for n, v in t.items() if ".key." not in n}, "has no key for"),
        (
            lambda t: {n: v[..., 1:] if n.endswith("key.weight") else v for n, v in t.items()},
            "of the shapes .* cannot be joined",
        ),
        (lambda t: {n: v for n, v in t.items() if ".block.1.1." not in n}, r"\(2, 1, 2, 2\) block"),
        (lambda t: {**t, "decode_head.extra": torch.zeros(1)}, "1 that have no place"),
    ],
    ids=["nothing", "no classifier", "no keys", "narrow keys", "a block less", "a tensor more"],
)
def test_tensors_that_are_refused(saved, change, message):
    from safetensors.torch import load_file

    with pytest.raises(ConversionError, match=message):
        from_transformers(change(load_file(saved[1] / "model.safetensors")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_batch_norm_in_fusion_residual": False}, "use_batch_norm_in_fusion_residual=False"),
        ({"reassemble_factors": [8, 4, 2, 1]}, r"factors=\[8, 4, 2, 1\].* \[4.0, 2.0, 1.0, 0.5\]"),
        ({"num_hidden_layers": 11, "backbone_out_indices": [1, 4, 7, 10]}, "192 channels and 11"),
        ({"qkv_bias": False}, "qkv_bias=False"),
    ],
    ids=str,
)
def test_dpts_that_are_refused(options, message):
    with pytest.raises(ConversionError, match=message):
        from_transformers(dpt(**options))


def test_of_a_model_in_memory_messages_name_its_class():
    named = r"^the SegformerForSemanticSegmentation: the config says strides"
    with pytest.raises(ConversionError, match=named):
        from_transformers(segformer(strides=[4, 2, 2, 1]))


def test_upernets_that_are_refused():
    with pytest.raises(ConversionError, match=r"\(backbone_config\): .* layer_norm_eps=0.001"):
        from_transformers(upernet(swin(layer_norm_eps=1e-3)))
    with pytest.raises(ConversionError, match="backbone of other sizes"):
        from_transformers(upernet(convnext(depths=[1, 1, 1, 1])))
    with pytest.raises(ConversionError, match=r"pool_scales=\[1, 2\]"):
        from_transformers(upernet(convnext(depths=[1, 1, 1, 1]), pool_scales=[1, 2]))


def test_epsilons_of_norms():
    encoder = segzoo.create_encoder("test_vit", options={"norm_eps": 1e-3})
    norms = [item for item in encoder.modules() if isinstance(item, nn.LayerNorm)]
    assert norms
    assert {item.eps for item in norms} == {1e-3}
    with pytest.raises(ArgumentError, match="this has none"):
        segzoo.create_encoder("test_resnet", options={"norm_eps": 1e-3})
    with pytest.raises(ArgumentError, match="must be between 0 and 1"):
        segzoo.create_encoder("test_vit", options={"norm_eps": 2})


def test_a_config_of_other_types_is_refused():
    with pytest.raises(ConversionError, match="what they hold is not"):
        from_transformers({TYPICAL: torch.ones(1)}, {"backbone_config": [1]})
