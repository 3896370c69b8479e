"""MA-Net: smp's logits to the bit, attention in blocks, daily use, and options."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.errors import ArgumentError
from segzoo.nn import position_attention
from segzoo.nn.position_attention import PairwiseProduct, PositionAttention

from ..architecture_checks import (
    EVEN,
    Chain,
    Maps,
    assert_everyday,
    assert_exported,
    assert_recognised,
    assert_refused,
    assert_same_gradients,
    assert_same_logits,
    assert_same_step,
    assert_supervised,
    smp_model,
)

SMALL = (16, 16, 8, 8, 8)


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        ("resnet18", {}),
        ("tu-pvt_v2_b0", {"decoder_channels": (32, 16, 16, 16, 8)}),
        ("tu-test_convnext2", {"decoder_channels": (32, 16, 16, 16, 8)}),
        (
            "tu-test_resnet",
            {
                "encoder_depth": 4,
                "decoder_channels": (32, 32, 16, 16),
                "decoder_pab_channels": 24,
                "decoder_interpolation": "bilinear",
            },
        ),
        ("tu-test_resnet", {"decoder_use_norm": False, "decoder_channels": SMALL}),
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    ours = assert_same_logits(smp_model("MAnet", encoder, **arguments), EVEN)
    assert ours.config.attention_channels == arguments.get("decoder_pab_channels", 64)


def test_a_training_step_is_smp_s():
    theirs = smp_model("MAnet", "tu-test_resnet", decoder_channels=SMALL)
    assert_same_step(theirs, "manet")


@pytest.mark.parametrize("depth", [1, 3])
def test_without_a_config_it_is_recognised(depth):
    # At depth 1 no block has a skip connection, and all look like a Unet's.
    theirs = smp_model("MAnet", encoder_depth=depth, decoder_channels=SMALL[-depth:])
    assert_recognised(theirs, "manet")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_depth": 4}, "encoder_depth=4, its tensors say 5"),
        ({"decoder_channels": SMALL[:4]}, "config says decoder_channels"),
        ({"decoder_pab_channels": 32}, "decoder_pab_channels=32, its tensors say 64"),
        ({"decoder_use_norm": "layernorm"}, "cannot be brought over exactly"),
        ({"decoder_interpolation": "lanczos"}, "decoder_interpolation must be one of"),
        ({"decoder_attention_type": "scse"}, "'decoder_attention_type', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    theirs = smp_model("MAnet", "tu-test_resnet", decoder_channels=SMALL)
    assert_refused(theirs, config, message, needed="decoder.center.top_conv.weight")


# Attention in blocks


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (1, 1), (2, 31)])
@pytest.mark.parametrize("pairs", [1, 300, 2000])
def test_blocks_of_pairs_give_what_all_at_once_give(monkeypatch, size, pairs):
    """Values and gradients; scores so large that they overflow without their maximum."""
    product = PairwiseProduct()
    query, key = (torch.randn(3, 4, *size, dtype=torch.float64) * 30 for _ in range(2))
    maps = [query, key, torch.randn(3, 5, *size, dtype=torch.float64)]
    upstream = torch.randn(3, 5, *size, dtype=torch.float64)
    found, rows = [], []
    product.rows.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape))
    for limit in (10**6, pairs):
        monkeypatch.setattr(position_attention, "AT_ONCE", limit)
        given = [item.clone().requires_grad_() for item in maps]
        out = product(*given)
        with torch.no_grad():
            assert torch.allclose(product(*given), out, rtol=0, atol=1e-12)
        found.append((out, *torch.autograd.grad(out, given, upstream)))
    for blocks, whole in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=1e-10, atol=1e-12)
    cells = size[0] * size[1]
    assert bool(rows) == (3 * cells**2 > pairs)
    assert all(count * most * cells <= max(pairs, 3 * cells) for count, most, _ in rows)


def test_few_pairs_are_computed_as_smp_computes_them():
    module = PositionAttention(6, 4)
    x = torch.randn(2, 6, 5, 4)
    query, key, value = (layer(x).flatten(2) for layer in (module.query, module.key, module.value))
    weights = (query.transpose(1, 2) @ key).flatten(1).softmax(1).view(2, 20, 20)
    product = weights @ value.transpose(1, 2)
    assert torch.equal(module(x), module.out(x + product.reshape(x.shape)))


def test_blocks_in_half_precision_do_not_overflow(monkeypatch):
    """All pairs alike: the sum over them is more than float16 holds."""
    size = (1, 300)
    maps = [torch.zeros(1, 4, *size).half(), torch.zeros(1, 4, *size).half()]
    value = torch.full((1, 3, *size), 40.0).half()
    expected = PairwiseProduct()(*(item.double() for item in (*maps, value)))
    monkeypatch.setattr(position_attention, "AT_ONCE", 100)
    for context in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=context):
            out = PairwiseProduct()(*maps, value)
        assert out.dtype is torch.float16
        torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=0)
    assert PairwiseProduct()(*(item.to("meta") for item in (*maps, value))).shape == (1, 3, *size)


def test_a_graph_chooses_by_the_size_it_gets(monkeypatch):
    model = segzoo.MAnet("test_resnet", depth=2, decoder_channels=SMALL[-2:]).eval()
    image = torch.rand(1, 3, 64, 64)
    fast = segzoo.optimize(model, backend="eager", example=image)
    (product,) = [item for item in fast.modules() if isinstance(item, PairwiseProduct)]
    blocks = []
    product.rows.register_forward_hook(lambda *_: blocks.append(1))
    with torch.no_grad():
        fast(image)
        assert not blocks
        monkeypatch.setattr(position_attention, "AT_ONCE", 1000)
        torch.testing.assert_close(fast(image), model(image), rtol=1e-4, atol=1e-5)
        assert blocks
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)


# As every architecture


def test_a_model_in_daily_use(tmp_path):
    model = segzoo.MAnet("test_resnet", classes=2, depth=3, decoder_channels=SMALL[2:])
    assert_everyday(model, tmp_path)


def test_a_file_for_other_sizes(tmp_path):
    model = segzoo.MAnet(Chain(2, 2), classes=2, decoder_channels=SMALL[3:])
    assert_exported(model, tmp_path / "m.onnx")


def test_steps_have_names():
    steps = ("center", "blocks.1", "blocks.4")
    model = segzoo.MAnet("test_resnet", classes=2, decoder_channels=SMALL, deep_supervision=steps)
    assert_supervised(model)
    assert "───►  blocks.3 8" in diagram(model)
    assert diagram(model).splitlines()[-1].endswith(f"center {model.features[-1].channels}")


@pytest.mark.parametrize("computing", [{"decoder_impl": "rewritten"}, {"checkpoint": 3}], ids=str)
def test_how_it_computes_changes_no_gradient(computing):
    model = segzoo.MAnet(Maps(1, 2, 4, 8), decoder_channels=(8, 8, 4), decoder_impl="plain")
    assert_same_gradients(model, **computing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_channels": 0}, "attention_channels must be between 1 and 8192, got 0"),
        ({"attention_channels": 64.0}, "attention_channels must be an integer"),
        ({"decoder_channels": (64, 32)}, r"must have 5 values.*\(16, 8, 4, 2, 1\).*got 2"),
        ({"checkpoint": 6}, "between 0 and 5, the number of the decoder's blocks; got 6"),
        ({"deep_supervision": ("block.1",)}, r"Did you mean blocks\.1"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.MAnet("test_resnet", **arguments)
