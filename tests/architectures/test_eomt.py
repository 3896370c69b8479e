"""EoMT: queries in the last blocks of any plain transformer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import segzoo
from segzoo.architectures import pixel_scores
from segzoo.architectures.pixel_scores import PixelScores
from segzoo.architectures.query_heads import allowed_cells, of_image
from segzoo.encoders.query_blocks import States
from segzoo.errors import ArgumentError, EncoderError, InputError

from .tiny_eomt import KINDS, TINY, tiny


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
        # Of the classifier, in older versions.
        assert all(".fc_norm." in key or ".head." in key for key in missing)
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


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("cells", "covered", "size"), [(160, 640, 630), (300, 1200, 1190)])
def test_masks_of_the_image_alone_lie_in_their_place_in_every_precision(
    cells, covered, size, dtype, autocast
):
    ramp = torch.arange(cells).expand(1, 1, cells, cells).to(dtype)
    exact = of_image(ramp.float(), (covered, covered), (size, size))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = of_image(ramp, (covered, covered), (size, size))
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))


def test_resized_images_have_masks_of_the_whole():
    model = tiny("beit_base_patch16_224")
    assert model.size_rule.fixed == (64, 48)
    with pytest.warns(UserWarning, match="takes 64x48 images only"):
        assert model(torch.rand(1, 3, 100, 80)).shape == (1, 3, 100, 80)
    with pytest.warns(UserWarning, match="takes 64x48 images only"):
        found = model.forward_queries(torch.rand(1, 3, 100, 80))
    assert found.mask_logits.shape[-2:] == (16, 12)
    with pytest.warns(UserWarning, match="takes 64x48 images only"):
        model.forward_heads(torch.rand(1, 3, 100, 80))


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
        for same in (torch.tensor([0.0, 1.0]), np.array([0, 1]), [np.float32(0), torch.tensor(1)]):
            again = model.forward_queries(image, attention_mask_probability=same)
            assert torch.equal(again.mask_logits, some.mask_logits)
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
        ("often", "attention_mask_probability must be a number, got 'often'"),
        (None, "attention_mask_probability must be a number, got None"),
        ([0.5, None], "attention_mask_probability must be a number, got None"),
        (torch.tensor([0.5, 1.5]), "between 0 and 1, got 1.5"),
        (torch.zeros(3), "one number, or 2"),
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


@pytest.mark.parametrize("name", ["unet", "dpt", "multi_head"])
def test_its_encoder_is_for_no_other_model(model, name):
    with pytest.raises(
        ArgumentError, match="belongs to an EoMT: in its last blocks it has queries"
    ):
        segzoo.ARCHITECTURES[name](model.encoder)
