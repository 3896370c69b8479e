"""From transformers' EoMT: the same masks and classes, to the bit where it computes alike."""

from __future__ import annotations

import inspect
import json
import logging
import re
from typing import Any

import pytest
import torch
from torch import nn

import segzoo
from segzoo.architectures.base import create_model
from segzoo.cli import main
from segzoo.convert import from_transformers
from segzoo.convert.keymap import check_fits, rename
from segzoo.convert.transformers import eomt
from segzoo.encoders import build_on_meta
from segzoo.errors import ConversionError

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 64,
    "num_blocks": 3,
    "num_queries": 6,
    "num_labels": 3,
}


def made(kind: str, **options: Any) -> nn.Module:
    """A model of transformers in eval mode, with weights that a mistake cannot hide behind."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    if kind == "dinov2":
        config = transformers.EomtConfig(**{**SMALL, **options})
        model = transformers.EomtForUniversalSegmentation(config)
    else:
        config = transformers.EomtDinov3Config(**{"intermediate_size": 1536, **SMALL, **options})
        model = transformers.EomtDinov3ForUniversalSegmentation(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "token" in name or "position" in name:
            scale = "lambda" in name or ("norm" in name and "weight" in name)
            nn.init.normal_(parameter, 0.5 if scale else 0.0, 0.2)
    model.attn_mask_probs.zero_()
    return model.eval()


@pytest.fixture(scope="module")
def dinov2() -> nn.Module:
    return made("dinov2")


@pytest.fixture(scope="module")
def dinov3() -> nn.Module:
    return made("dinov3")


def converted(theirs: Any, **options: Any) -> segzoo.EoMT:
    ours = from_transformers(theirs.state_dict(), {**theirs.config.to_dict(), **options})
    assert isinstance(ours, segzoo.EoMT)
    return ours


@torch.no_grad()
def gap(theirs: Any, ours: segzoo.EoMT, masks: float = 0.0) -> float:
    """The largest difference between masks and classes, as a share of the largest value."""
    dtype = next(ours.parameters()).dtype
    image = torch.randn(2, 3, 64, 64, dtype=dtype)
    expected = theirs(pixel_values=image)
    found = ours.forward_queries(image, attention_mask_probability=masks)
    pairs = (
        (found.mask_logits, expected.masks_queries_logits),
        (found.class_logits, expected.class_queries_logits),
    )
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def test_on_dinov2_it_is_the_same_to_the_bit(dinov2):
    ours = converted(dinov2)
    assert ours.config.encoder.startswith("vit_small_patch14_reg4_dinov2")
    assert (ours.config.queries, ours.config.blocks, ours.config.upscale_layers) == (6, 3, 2)
    assert ours.encoder.strides == (16, 16)
    assert gap(dinov2, ours) == 0
    # Any size, where transformers' own takes its square only.
    assert ours(torch.rand(1, 3, 64, 160)).shape == (1, 3, 64, 160)
    assert ours(torch.rand(1, 3, 97, 50)).shape == (1, 3, 97, 50)


def test_on_dinov3_what_differs_are_roundings_of_sines(dinov3):
    """transformers multiplies places by frequencies where timm, as DINOv3, divides by periods."""
    ours = converted(dinov3)
    assert ours.config.encoder.startswith("vit_small_patch16_dinov3_qkvb")
    rope = ours.encoder.backbone.model.rope
    cos, sin = dinov3.rope_embeddings(torch.zeros(1, 3, 64, 64))
    own = rope.get_embed(shape=(4, 4))
    torch.testing.assert_close(own, torch.cat([sin, cos], dim=-1), rtol=0, atol=3e-7)
    assert gap(dinov3, ours) < 1e-5
    rope.get_embed = lambda shape: torch.cat([sin, cos], dim=-1)
    assert gap(dinov3, ours) == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("dinov2", {"num_register_tokens": 0, "num_channels": 4, "num_labels": 1}),
        ("dinov3", {"num_register_tokens": 2, "drop_path_rate": 0.1}),
    ],
    ids=str,
)
def test_within_masks_too(kind, options):
    """In float64, where transformers adds masks in single precision unless it is eager."""
    theirs = made(kind, num_blocks=2, num_upscale_blocks=1, **options).double()
    theirs.set_attn_implementation("eager")
    ours = converted(theirs)
    assert ours.config.upscale_layers == 1
    bands = ours.in_channels
    image = torch.randn(2, bands, 64, 64, dtype=torch.float64)
    for chance in (0.0, 1.0):
        theirs.attn_mask_probs.fill_(chance)
        with torch.no_grad():
            expected = theirs(pixel_values=image)
            found = ours.forward_queries(image, attention_mask_probability=chance)
        largest = float(expected.masks_queries_logits.abs().max())
        # The softmax of the one, the sines of the other are in single precision.
        torch.testing.assert_close(
            found.mask_logits, expected.masks_queries_logits, rtol=0, atol=1e-6 * largest
        )
        torch.testing.assert_close(
            found.class_logits, expected.class_queries_logits, rtol=0, atol=1e-6
        )


def test_scores_are_those_of_its_processor(dinov2):
    size = {"shortest_edge": 64, "longest_edge": 64}
    processor = transformers.EomtImageProcessor(size=size)
    known = inspect.signature(processor.post_process_semantic_segmentation).parameters
    if "return_segmentation_scores" not in known:
        pytest.skip(f"transformers {transformers.__version__} keeps the scores to itself")
    ours, image = converted(dinov2), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        outputs = dinov2(pixel_values=image)
        expected = processor.post_process_semantic_segmentation(
            outputs, target_sizes=[(64, 64)] * 2, return_segmentation_scores=True
        )
        logits = ours(image)
    for mine, other in zip(logits, expected, strict=True):
        torch.testing.assert_close(mine.exp(), other["segmentation_scores"])
        assert torch.equal(mine.argmax(dim=0), other["segmentation"])


def test_a_folder_by_the_command_line(dinov2, tmp_path, capsys, caplog):
    folder = tmp_path / "theirs"
    dinov2.config.id2label = {0: "road", 1: "sky", 2: "tree"}
    dinov2.attn_mask_probs[1] = 0.5
    try:
        dinov2.save_pretrained(folder)
    finally:
        dinov2.attn_mask_probs.zero_()
    config = json.loads((folder / "config.json").read_text())
    config["image_size"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        assert main(["convert", "transformers", str(folder), str(tmp_path / "ours")]) == 0
    assert "positions for 4x4 patches, but its config says image_size=128" in caplog.text
    assert "attention_mask_probability=[0.0, 0.5, 0.0]" in caplog.text
    loaded = segzoo.from_pretrained(tmp_path / "ours")
    assert loaded.class_names == ("road", "sky", "tree")
    assert gap(dinov2, loaded) == 0


def test_dinov3_from_a_repository(dinov3, hub, tmp_path, capsys):
    dinov3.save_pretrained(tmp_path / "theirs")
    files = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    hub.add("user/eomt", files)
    assert main(["convert", "transformers", "user/eomt", str(tmp_path / "ours")]) == 0
    assert "EoMT with vit_small_patch16_dinov3" in capsys.readouterr().out
    loaded, expected = segzoo.from_pretrained(tmp_path / "ours"), converted(dinov3).state_dict()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name


def as_older_versions_name_it(state):
    """Transformers up to 5.12 has the gate and what it is multiplied with in one layer."""
    found = {}
    for key, item in state.items():
        name = key.replace(".gate_proj.", ".weights_in.").replace(".down_proj.", ".weights_out.")
        if ".up_proj." not in name:
            found[name] = torch.cat([item, item]) if ".gate_proj." in key else item
    return found


def test_every_tensor_of_the_largest_has_its_place():
    """Shapes only: the one whose blocks are gated."""
    sizes = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
    with torch.device("meta"):
        config = transformers.EomtConfig(**{**SMALL, **sizes, "use_swiglu_ffn": True})
        theirs = transformers.EomtForUniversalSegmentation(config)
    state = theirs.state_dict()
    plan = eomt.plan(state, config.to_dict(), "x")
    assert plan.encoder == "vit_giant_patch14_reg4_dinov2"
    ours = build_on_meta(lambda: create_model(plan.architecture, plan.encoder, **plan.arguments))
    for each in (plan, eomt.plan(as_older_versions_name_it(state), config.to_dict(), "x")):
        used = {key: item for key, item in each.tensors.items() if not re.search(each.unused, key)}
        check_fits(ours, rename(used, each.rules), source="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_attention_heads": 4}, "384 channels, 12 blocks and 4 heads"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"num_blocks": None}, "does not say num_blocks"),
        ({"num_blocks": 13}, "has 12 blocks: queries can join the last 1 to 12"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over(dinov2, options, message):
    with pytest.raises((ConversionError, segzoo.errors.ArgumentError), match=message):
        converted(dinov2, **options)


def test_on_dinov3_what_cannot_be_brought_over(dinov3):
    rope = {"rope_type": "default", "rope_theta": 10.0}
    with pytest.raises(ConversionError, match=r"rope_theta=10\.0"):
        converted(dinov3, rope_parameters=rope)
    for name in ("key_bias", "use_gated_mlp"):
        with pytest.raises(ConversionError, match=f"{name}=True"):
            converted(dinov3, **{name: True})


def test_places_that_are_no_square(dinov2):
    state = dict(dinov2.state_dict())
    name = "embeddings.position_embeddings.weight"
    state[name] = state[name][:-1]
    with pytest.raises(ConversionError, match="15 positions, which are no square"):
        from_transformers(state, dinov2.config.to_dict())
