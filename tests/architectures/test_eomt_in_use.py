"""EoMT: which transformers and arguments it takes, and what becomes of it after that."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import timm
import torch

import segzoo
from segzoo.encoders import build_on_meta
from segzoo.encoders.query_blocks import QueryTokens
from segzoo.encoders.timm_meta import known_options
from segzoo.errors import ArgumentError, EncoderError, UnknownKeywordError

from ..architecture_checks import Maps
from .tiny_eomt import KINDS, TINY, tiny


@pytest.fixture(scope="module")
def model() -> segzoo.EoMT:
    return tiny(blocks=2)


def test_how_many_blocks():
    assert [QueryTokens(1).of(depth, "a") for depth in (2, 3, 12, 24, 40)] == [1, 2, 3, 4, 5]
    assert tiny(blocks=3).config.blocks == 3
    with pytest.raises(ArgumentError, match=r"has 4 blocks: .* the last 1 to 4 of them"):
        tiny(blocks=5)
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
        pytest.skip(f"timm {timm.__version__} has no option rope_rescale_coords yet")
    with pytest.raises(ArgumentError, match="Leave rope_rescale_coords out"):
        tiny("vit_small_patch16_dinov3", encoder_options={"rope_rescale_coords": 2.0})


def test_too_few_queries_are_told():
    with pytest.warns(UserWarning, match="2 queries for 3 classes.* queries=100 or more"):
        tiny(queries=2)


@pytest.mark.parametrize("name", KINDS)
def test_queries_can_join_every_block(name, tmp_path):
    """What they see of the image is what comes before the first block, as timm makes it."""
    model = tiny(name, blocks=4)
    joined, image = model.encoder.backbone, model.size_rule.fit(torch.rand(1, 3, 64, 48))
    seen = []
    hook = joined.model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        before, *_ = joined(image)
        hook.remove()
        timm_s = segzoo.create_encoder(
            name, options={**TINY, "out_indices": (0,)}, image_size=KINDS[name].get("image_size")
        ).eval()
        state = {
            re.sub(r"^biases\.(\d+)\.", r"model.blocks.\1.attn.", key): value
            for key, value in joined.state_dict().items()
        }
        timm_s.backbone.load_state_dict(state, strict=False)
        hook = next(
            part for key, part in timm_s.backbone.named_modules() if key.endswith("blocks.0")
        ).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        timm_s(image)
        hook.remove()
    (ours, theirs), prefix = seen, joined.prefix
    torch.testing.assert_close(ours[:, 7:], theirs)
    cells = theirs[:, prefix:].transpose(1, 2).reshape(before.shape)
    torch.testing.assert_close(before, cells)
    model.train()
    assert len(model.forward_queries(image, attention_mask_probability=1).layers) == 4
    model.eval()
    assert "model.blocks.0.norm1.weight" in model.encoder.stages()[1]


def test_with_queries_in_every_block_it_is_saved_and_moved(tmp_path):
    made = segzoo.EoMT("test_vit", classes=3, queries=7).eval()
    depth = len(made.backbone.model.blocks)
    model = segzoo.EoMT("test_vit", classes=3, queries=7, blocks=depth).eval()
    loaded, image = (
        segzoo.from_pretrained(model.save_pretrained(tmp_path)),
        torch.rand(2, 3, 65, 97),
    )
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
        assert torch.equal(pickle.loads(pickle.dumps(model))(image), model(image))
        exact = copy.deepcopy(model).double()(image.double())
        torch.testing.assert_close(exact, model(image).double(), rtol=1e-4, atol=1e-4)


def test_with_queries_in_every_block_nothing_is_copied():
    """So a compiler can follow it, and what takes a tensor's place takes it here too."""
    joined = tiny(encoder_options={"depth": 3}, blocks=3, upscale_layers=0).encoder.backbone
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected, _ = joined._start(image)
        compiled = torch.compile(joined._start, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(image)[0], expected)
        without = {"model.pos_embed": torch.zeros_like(joined.model.pos_embed)}
        moved = torch.func.functional_call(joined, without, (image,))[0]
        assert not torch.allclose(moved, expected)


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
