"""EoMT: queries in the last blocks of any plain transformer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segzoo
from segzoo.architectures import pixel_scores
from segzoo.architectures.pixel_scores import PixelScores
from segzoo.architectures.query_heads import allowed_cells, of_image
from segzoo.encoders import build_on_meta
from segzoo.encoders.query_blocks import QueryTokens, States
from segzoo.encoders.timm_meta import known_options
from segzoo.errors import ArgumentError, EncoderError, InputError, UnknownKeywordError

from ..architecture_checks import Maps, randomise_all

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}
#: One of each kind of timm's plain transformers: with a class token, registers, two tokens or none;
#: with places that are learned, rotary, learned and rotary, or relative, in each block or in all.
KINDS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {},
    "deit_tiny_distilled_patch16_224": {},
    "vit_base_patch16_siglip_gap_224": {},
    "beit_base_patch16_224": {"image_size": (64, 48)},
    "eva02_tiny_patch14_224": {},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_rope_mixed_224": {},
    "naflexvit_base_patch16_gap": {},
}


def tiny(name: str = "vit_small_patch16_224", **arguments: Any) -> segzoo.EoMT:
    torch.manual_seed(0)
    options = {**TINY, **arguments.pop("encoder_options", {})}
    given = {"classes": 3, "queries": 7, **KINDS.get(name, {}), **arguments}
    model = segzoo.EoMT(name, encoder_options=options, **given)
    randomise_all(model)
    for key, parameter in model.named_parameters():
        if "bias_table" in key:
            nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> segzoo.EoMT:
    return tiny(blocks=2)


@pytest.mark.parametrize("name", KINDS)
def test_the_image_sees_what_it_sees_in_timm_s_model(name, monkeypatch):
    """Where nothing may look at the queries, the rest is the transformer that timm has."""
    model = tiny(name, blocks=2).double()
    joined = model.encoder.backbone
    count = model.config.queries
    image = torch.randn(2, 3, 64, 48).double()

    def hidden(x: Tensor, allowed: Tensor) -> Tensor:
        mask = x.new_zeros(x.shape[0], 1, x.shape[1], x.shape[1])
        mask[:, :, count:, :count] = -torch.inf
        return mask

    fitted = model.size_rule.fit(image)
    monkeypatch.setattr(joined, "_mask", hidden)
    with torch.no_grad():
        before, after, _ = joined.run(fitted, lambda i, states: torch.ones(1))
        timm_s = segzoo.create_encoder(
            name,
            options={**TINY, "out_indices": (1, 3)},
            image_size=KINDS[name].get("image_size"),
        ).eval()
        state = {
            key.replace("biases.0.", "model.blocks.2.attn.").replace(
                "biases.1.", "model.blocks.3.attn."
            ): value
            for key, value in joined.state_dict().items()
        }
        missing, _ = timm_s.backbone.load_state_dict(state, strict=False)
        assert all(".fc_norm." in key for key in missing)  # of the classifier, in older versions
        expected = timm_s.double()(fitted)
        normed = expected[1].permute(0, 2, 3, 1)
        normed = joined.norm(joined.model.norm(normed)).permute(0, 3, 1, 2)
    torch.testing.assert_close(before, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after, normed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_queries_have_no_place_and_are_all_trained(name):
    model = tiny(name)
    image = torch.rand(2, 3, 64, 48)
    found = model.forward_queries(image)
    order = torch.randperm(7)
    with torch.no_grad():
        model.encoder.backbone.query.copy_(model.encoder.backbone.query[order])
    other = model.forward_queries(image)
    torch.testing.assert_close(other.class_logits, found.class_logits[:, order])
    torch.testing.assert_close(other.mask_logits, found.mask_logits[:, order], atol=1e-4, rtol=1e-4)
    model.train()(image).square().mean().backward()
    left = [key for key, item in model.named_parameters() if item.grad is None]
    assert left == []


def test_scores_are_masks_times_classes(model):
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        masks, classes, layers = model.forward_queries(image)
        assert masks.shape == (2, 7, 16, 24)
        assert classes.shape == (2, 7, 4)
        assert layers == ()
        masks = F.interpolate(masks, (64, 96), mode="bilinear").sigmoid()
        scores = (masks[:, :, None] * classes.softmax(-1)[..., :-1, None, None]).sum(1)
        shares = model(image).softmax(dim=1)
    torch.testing.assert_close(shares, scores / scores.sum(dim=1, keepdim=True))
    picture = torch.rand(2, 3, 64, 96)
    probabilities = segzoo.predict_probabilities(model, picture)
    assert torch.equal(model.predict(picture), probabilities.max(dim=1).indices)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("patch", [16, 14])
def test_scores_strip_by_strip_are_the_same(classes, patch, monkeypatch):
    """Without gradients little is kept at a time."""
    scores = PixelScores(classes)
    masks, shares = torch.randn(2, 5, 16, 12), torch.randn(2, 5, classes + 1)
    for size in ((4 * patch, 3 * patch), (3 * patch + 1, 3 * patch - 2)):
        whole = scores(masks, shares, (4 * patch, 3 * patch), size)
        assert whole.shape == (2, classes, *size)
        with torch.no_grad():
            for most in (1, 3000, 10**9):
                monkeypatch.setattr(pixel_scores, "_AT_A_TIME", most)
                strips = scores(masks, shares, (4 * patch, 3 * patch), size)
                torch.testing.assert_close(strips, whole, atol=1e-5, rtol=1e-5)
                with torch.autocast("cpu", torch.bfloat16):
                    half = scores(masks, shares, (4 * patch, 3 * patch), size)
                assert float((half - whole).abs().max()) < 0.2


def test_with_one_class_any_query_will_do():
    model = tiny(classes=1)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        masks, classes, _ = model.forward_queries(image)
        masks = F.interpolate(masks, (32, 32), mode="bilinear").sigmoid()
        none = (1 - masks * classes.softmax(-1)[..., :1, None]).prod(dim=1, keepdim=True)
        torch.testing.assert_close(model(image).sigmoid(), 1 - none, atol=1e-5, rtol=1e-5)
        # However sure the queries are, in whichever precision.
        model.decoder.mask[-1].bias.fill_(1e4)
        for precision in (torch.float32, torch.bfloat16):
            assert model.to(precision)(image.to(precision)).isfinite().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_stay_finite(precision):
    model = tiny().to(precision)
    image = 1e2 * torch.randn(1, 3, 33, 50)
    with torch.no_grad():
        logits = model(image.to(precision))
    assert logits.dtype == precision
    assert logits.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = tiny().forward_queries(image, attention_mask_probability=1)
        assert found.mask_logits.isfinite().all()


@pytest.mark.parametrize("size", [(97, 64), (33, 50)])
def test_any_size(model, size):
    image = torch.rand(2, 3, *size)
    padded = F.pad(image, (0, -size[1] % 16, 0, -size[0] % 16))
    sides = (padded.shape[-2], padded.shape[-1])
    with torch.no_grad():
        logits = model(image)
        assert logits.shape == (2, 3, *size)
        # What lies beyond the image is cut off.
        torch.testing.assert_close(logits, model(padded)[..., : size[0], : size[1]])
        masks = model.forward_queries(image).mask_logits
        whole = model.forward_queries(padded).mask_logits
    assert masks.shape[-2:] == tuple(round(side / 4) for side in size)
    torch.testing.assert_close(masks, of_image(whole, sides, size))


def test_masks_keep_their_places():
    rows = torch.arange(28.0).add(0.5).mul(4)  # the middle of each cell of four pixels
    ramp = rows[:, None].expand(1, 1, 28, 16).double()
    shown = of_image(ramp, (112, 64), (97, 50))
    assert shown.shape == (1, 1, 24, 12)
    middles = (torch.arange(24).double() + 0.5) * 97 / 24
    torch.testing.assert_close(shown[0, 0, :, 0], middles)
    assert of_image(ramp, (112, 64), (112, 64)) is ramp


def test_resized_images_have_masks_of_the_whole():
    model = tiny("beit_base_patch16_224")
    assert model.size_rule.fixed == (64, 48)
    with pytest.warns(UserWarning, match="takes 64x48 images only"):
        assert model(torch.rand(1, 3, 100, 80)).shape == (1, 3, 100, 80)
    assert model.forward_queries(torch.rand(1, 3, 100, 80)).mask_logits.shape[-2:] == (16, 12)


# Attention within masks.


def test_a_query_sees_its_mask_alone(model):
    """The last block with masks: what a query gets from cells outside of its mask is nothing."""
    joined = model.encoder.backbone
    image = torch.randn(1, 3, 64, 64)
    allowed = torch.zeros(1, 7, 16, dtype=torch.bool)
    allowed[:, :, :8] = True
    seen: list[Tensor] = []

    def look(i: int, states: States) -> Tensor | None:
        seen.append(states.map)
        return allowed if i == 1 else None

    with torch.no_grad():
        *_, queries = joined.run(image, look)
        assert [tuple(item.shape) for item in seen] == [(1, 32, 4, 4)] * 2
        block = joined.model.blocks[-1]
        plain = joined.run(image, lambda i, states: torch.ones_like(allowed))[-1]
        assert torch.allclose(plain, joined(image)[-1], atol=1e-6)
        assert not torch.allclose(queries, plain, atol=1e-3)
        # The same with the cells taken out of the sequence.
        tokens: list[Tensor] = []
        hook = block.register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
        joined(image)
        hook.remove()
        without = block(tokens[0][:, : 7 + 1 + 8])
    torch.testing.assert_close(queries, joined.model.norm(without)[:, :7], atol=1e-5, rtol=1e-5)


def test_layers_are_what_was_predicted_before_each_block(model):
    image = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        found = model.forward_queries(image, attention_mask_probability=1)
        assert len(found.layers) == 2
        assert all(masks.shape == (2, 7, 12, 16) for masks, _ in found.layers)
        none = model.forward_queries(image, attention_mask_probability=(0, 0))
        some = model.forward_queries(image, attention_mask_probability=(0, 1))
        assert len(some.layers) == 1
        assert not torch.equal(some.mask_logits, none.mask_logits)
        assert torch.equal(model.forward_queries(image).mask_logits, none.mask_logits)
        model.train()
        trained = model.forward_queries(image)
        model.eval()
    assert len(trained.layers) == 2
    assert torch.equal(trained.layers[0][0], found.layers[0][0])
    assert torch.equal(trained.mask_logits, none.mask_logits)


def test_a_probability_is_drawn_for_each_query():
    logits = torch.full((64, 50, 4, 4), -1.0)
    logits[:, :, 0, 0] = 100.0
    assert allowed_cells(logits, (2, 2), 0.0) is None
    always = allowed_cells(logits, (2, 2), 1.0)
    assert always.sum(dim=-1).unique().tolist() == [1]
    torch.manual_seed(0)
    often = allowed_cells(logits, (2, 2), 0.75).sum(dim=-1)
    assert often.unique().tolist() == [1, 4]
    assert 0.72 < float((often == 1).float().mean()) < 0.78


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "between 0 and 1"),
        (-0.1, "between 0 and 1"),
        (float("nan"), "attention_mask_probability"),
        ([0.5, 0.5, 0.5], "one number, or 2"),
        ("often", "attention_mask_probability"),
    ],
)
def test_a_probability_that_cannot_be(model, value, message):
    with pytest.raises(ArgumentError, match=message):
        model.forward_queries(torch.rand(1, 3, 32, 32), attention_mask_probability=value)


def test_a_transformer_without_masks(model, monkeypatch):
    monkeypatch.setattr(model.encoder.backbone, "mask_name", None)
    image = torch.rand(1, 3, 32, 32)
    assert len(model.forward_queries(image).class_logits) == 1
    with pytest.raises(EncoderError, match="take no attention mask"):
        model.forward_queries(image, attention_mask_probability=1)


def test_forward_queries_checks_its_image(model):
    with pytest.raises(InputError, match="takes 3 channels"):
        model.forward_queries(torch.rand(1, 4, 32, 32))


# What it is built from.


def test_how_many_blocks():
    assert [QueryTokens(1).of(depth, "a") for depth in (2, 3, 12, 24, 40)] == [1, 2, 3, 4, 5]
    assert tiny(blocks=3).config.blocks == 3
    with pytest.raises(ArgumentError, match=r"has 4 blocks, .* 1 to 3 of them"):
        tiny(blocks=4)
    with pytest.raises(ArgumentError, match="blocks must be"):
        tiny(blocks=0)


@pytest.mark.parametrize(
    ("patch", "layers"), [(8, 1), (14, 1), (16, 2), (32, 3)], ids="patch {}".format
)
def test_masks_come_near_stride_4(patch, layers):
    options = {**TINY, "patch_size": patch}
    model = build_on_meta(lambda: segzoo.EoMT("vit_small_patch16_224", encoder_options=options))
    assert model.config.upscale_layers == layers
    assert tiny(upscale_layers=0).forward_queries(torch.rand(1, 3, 32, 32)).mask_logits.shape[
        -2:
    ] == (2, 2)


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ("test_resnet", "has no sequence of blocks"),
        ("xcit_nano_12_p16_224", "blocks need x, H, W"),
        ("vit_relpos_small_patch16_224", "its blocks fail"),
        ("cait_xxs24_224", "does not give its tokens"),
        ("mit_b0", "no module of your own"),
    ],
)
def test_what_is_no_plain_transformer(encoder, reason):
    with pytest.raises(EncoderError, match=rf"(?s){reason}.*ViT, DeiT, DINOv2, BEiT"):
        segzoo.EoMT(encoder)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encoder": Maps(16, 16)}, EncoderError, "no module of your own"),
        ({"depth": 2}, ArgumentError, "give blocks, not depth"),
        ({"encoder_options": {"out_indices": (1, 2)}}, ArgumentError, "give blocks, not depth"),
        ({"output_stride": 16}, ArgumentError, "patch_size"),
        ({"queries": 0}, ArgumentError, "queries must be"),
        ({"upscale_layers": 9}, ArgumentError, "upscale_layers must be"),
        ({"query": 3}, UnknownKeywordError, "Did you mean queries"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        segzoo.EoMT(**{"encoder": "test_vit", **arguments})


def test_positions_that_are_drawn_are_refused():
    if "rope_rescale_coords" not in known_options("vit_small_patch16_dinov3"):
        pytest.skip("this timm draws no positions")
    with pytest.raises(ArgumentError, match="Leave rope_rescale_coords out"):
        tiny("vit_small_patch16_dinov3", encoder_options={"rope_rescale_coords": 2.0})


def test_too_few_queries_are_told():
    with pytest.warns(UserWarning, match="2 queries for 3 classes.* queries=100 or more"):
        tiny(queries=2)


def test_stages_and_rates(model):
    stages = model.encoder.stages()
    assert len(stages) == 2
    assert "model.patch_embed.proj.weight" in stages[0]
    assert any("blocks.2." in name for name in stages[1])
    assert not any(name.startswith("query") for stage in stages for name in stage)
    groups = {group["name"]: group for group in model.parameter_groups(1.0)}
    assert any(item is model.encoder.backbone.query for item in groups["decoder"]["params"])
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    try:
        model.freeze_encoder()
        free = [name for name, item in model.encoder.named_parameters() if item.requires_grad]
        assert free == ["backbone.query"]
    finally:
        model.unfreeze_encoder()


def test_it_is_saved_optimised_and_drawn(model, tmp_path, capsys):
    small = segzoo.EoMT("test_vit", classes=3, queries=7, deep_supervision=("upscale",)).eval()
    loaded = segzoo.from_pretrained(small.save_pretrained(tmp_path))
    image = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(loaded(image), small(image))
    assert loaded.config == small.config
    outputs = loaded.train().forward_heads(image)
    assert outputs.auxiliary["upscale"].shape == (2, 3, 65, 97)
    fast = segzoo.optimize(model, backend="eager", example=image)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), model(image), atol=1e-4, rtol=1e-4)
    assert fast.predict(image).shape == (2, 65, 97)
    loaded.print_tree()
    drawn = capsys.readouterr().out
    assert "upscale 64 (+ map 1)" in drawn
    assert "scores 3" in drawn


def test_patches_and_registers_are_saved_too():
    options = {"patch_size": 32}
    wide = build_on_meta(lambda: segzoo.EoMT("vit_tiny_patch16_224", encoder_options=options))
    assert wide.stride == 32
    config = type(wide.config).from_arguments(wide.config.arguments())
    assert config.encoder_options == {"patch_size": 32}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_at_a_second_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny(encoder_options={"depth": 3}, blocks=1, upscale_layers=1)
    path = segzoo.export(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path)
    image = torch.rand(2, 3, 83, 130)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(image), atol=1e-4, rtol=1e-4)
