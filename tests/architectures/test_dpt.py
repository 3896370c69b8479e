"""DPT: smp's logits to the bit, and every encoder and size that smp's takes not."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.architectures.dpt import doublings
from segzoo.convert import from_smp
from segzoo.errors import ArgumentError, ConversionError

from ..architecture_checks import (
    ENCODERS,
    ON_ANY_ENCODER,
    Chain,
    Maps,
    assert_everyday,
    assert_exported,
    assert_same_logits,
    assert_same_step,
    assert_supervised,
    assert_takes,
    randomise_all,
    smp_model,
)

VIT = "tu-test_vit"
NARROW = {"decoder_channels": 16, "reassemble_channels": (8, 12, 16, 20)}
#: The same for smp; its transformers take other sizes than their own only if they are told so.
SMP = {"decoder_fusion_channels": 16, "decoder_intermediate_channels": (8, 12, 16, 20)}
ANY = {**SMP, "dynamic_img_size": True}
THREE = {"encoder_depth": 3, "decoder_intermediate_channels": (8, 12, 16)}


@pytest.mark.parametrize(
    ("encoder", "arguments"),
    [
        (VIT, {"dynamic_img_size": True}),  # of the default widths
        (VIT, {**ANY, "decoder_readout": "add"}),
        (VIT, {**ANY, "decoder_readout": "ignore"}),
        (VIT, {**ANY, **THREE}),
        (VIT, {**ANY, "encoder_output_indices": [0, 2, 3, 5]}),
        (VIT, {**ANY, "encoder_output_indices": [-6, 2, -2, 5]}),
        ("tu-deit_tiny_distilled_patch16_224", ANY),  # two tokens
        ("tu-vit_small_patch16_dinov3", {**SMP, "decoder_readout": "add"}),  # and registers
        ("tu-vit_small_patch32_224", ANY),
        ("tu-test_convnext2", SMP),  # a pyramid by itself, no tokens
        ("tu-test_convnext2", {**SMP, **THREE, "decoder_readout": "ignore"}),
        ("tu-test_resnet", {**SMP, "decoder_readout": "ignore"}),  # its first map has stride 2
    ],
    ids=str,
)
def test_the_logits_are_smp_s(encoder, arguments):
    ours = assert_same_logits(smp_model("DPT", encoder, **arguments))
    readout = arguments.get("decoder_readout", "cat")
    assert ours.config.readout == {"cat": "project"}.get(readout, readout)


def test_the_logits_at_the_encoder_s_own_size_only():
    assert_same_logits(smp_model("DPT", VIT, **SMP), ((160, 160),))


def test_windows_of_one_size():
    theirs = smp_model("DPT", "tu-swin_tiny_patch4_window7_224", **SMP)
    assert_same_logits(theirs, ((224, 224),))


@pytest.mark.parametrize("readout", ["cat", "add"])
def test_a_training_step_is_smp_s(readout):
    theirs = smp_model("DPT", VIT, **ANY, decoder_readout=readout)
    assert_same_step(theirs, "dpt", backbone="encoder.backbone.model.")


def test_a_classification_head_comes_along():
    theirs = smp_model("DPT", VIT, **ANY, aux_params={"classes": 4})
    ours = from_smp(theirs).eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        masks, labels = theirs(image)
        outputs = ours.forward_heads(image)
    assert torch.equal(outputs.logits, masks)
    assert torch.equal(outputs.image_logits, labels)


def test_without_a_config_it_is_recognised_but_not_its_encoder():
    tensors = smp_model("DPT", VIT, **ANY).state_dict()
    with pytest.raises(ConversionError, match=r"tensors do not tell which.*encoder_name"):
        from_smp(tensors)
    ours = from_smp(tensors, {"encoder_name": VIT})
    assert isinstance(ours, segzoo.DPT)
    assert ours.config.depth == 4
    assert ours.config.reassemble_channels == (8, 12, 16, 20)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder_depth": 3}, "encoder_depth=3, its tensors say 4"),
        ({"decoder_fusion_channels": 32}, "its tensors say 16"),
        ({"decoder_intermediate_channels": [8]}, r"its tensors say \[8, 12, 16, 20\]"),
        ({"decoder_readout": "add"}, "decoder_readout='add', its tensors say cat"),
        ({"decoder_readout": "concat"}, "must be one of cat, add, ignore, got 'concat'"),
        ({"encoder_output_indices": [0, 2, 3]}, "must be 4 blocks in ascending order"),
        ({"encoder_output_indices": [0, 2, 4, 3]}, "must be 4 blocks in ascending order"),
        ({"encoder_output_indices": [0, 2, 4, 6]}, "must be between -6 and 5, got 6"),
        ({"encoder_name": "resnet18"}, "encoders of timm only.*got 'resnet18'"),
        ({"encoder_name": "tu-vit_small_patch14_dinov2"}, r"strides \[14, 14, 14, 14\]"),
        ({"encoder_name": "tu-test_convnext2"}, "does not fit DPT"),
        ({"decoder_channels": 16}, "'decoder_channels', which is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_brought_over_is_refused(config, message):
    tensors = smp_model("DPT", VIT, **ANY).state_dict()
    with pytest.raises(ConversionError, match=message):
        from_smp(tensors, {"encoder_name": VIT, **config})


def test_what_becomes_of_the_tokens_has_to_be_told():
    theirs = smp_model("DPT", VIT, **ANY, decoder_readout="add")
    with pytest.raises(ConversionError, match=r"Give config=\{'decoder_readout': 'add'}"):
        from_smp(theirs.state_dict(), {"encoder_name": VIT})
    with pytest.raises(ConversionError, match="'cat', its tensors say add or ignore"):
        from_smp(theirs.state_dict(), {"encoder_name": VIT, "decoder_readout": "cat"})


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_of_every_kind(encoder):
    made = ENCODERS[encoder]()
    strides = [item.stride for item in getattr(made, "features", ())] or [16] * 4
    levels = max(sum(stride >= 4 for stride in strides), 1)
    widths = (12,) * levels
    assert_takes(segzoo.DPT, encoder, decoder_channels=16, reassemble_channels=widths)


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ((16, 16, 16, 16), [2, 1, 0, -1]),
        ((14, 14, 14, 14), [2, 1, 0, -1]),
        ((8, 8, 8), [1, 0, -1]),
        ((4, 8, 16, 32), [0, 0, 0, 0]),
        ((2, 4, 8), [0, 0]),
        ((16, 32, 64), [2, 2, 2]),
        ((64,), [4]),
        ((2,), [-1]),
    ],
    ids=str,
)
def test_levels_are_resampled_to_strides_from_4_on(strides, expected):
    model = segzoo.DPT(Maps(*strides), decoder_channels=8)
    features = model.features
    assert [doublings(item.stride, i) for i, item in enumerate(features)] == expected
    sizes = []
    for level in model.decoder.levels:
        level.register_forward_hook(lambda _, __, given: sizes.append(given.shape[-1]))
    side = 4 * max(strides)
    model(torch.rand(2, 3, side, side))
    cells = [side // item.stride for item in features]
    assert sizes == [int(n * 2.0**k) for n, k in zip(cells, expected, strict=True)]


def test_many_blocks():
    """However many maps there are, none is shrunk beyond reason."""
    assert doublings(16, 30) == doublings(16, 7) == -5
    model = segzoo.DPT(Maps(*[16] * 12), decoder_channels=8)
    assert model.eval()(torch.rand(1, 3, 97, 64)).shape == (1, 1, 97, 64)


def test_tokens_are_read_as_told():
    def changes(readout: str, image: torch.Tensor) -> bool:
        """Whether the logits depend on the class token."""
        model = segzoo.DPT("test_vit", readout=readout, **NARROW).eval()
        before = model(image)
        given = model.encoder.forward

        def other(fitted):
            maps = given(fitted)
            count = len(model.features)
            return [*maps[:count], *(item + 1 for item in maps[count:])]

        model.encoder.forward = other
        return not torch.equal(model(image), before)

    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert [changes(item, image) for item in ("project", "add", "ignore")] == [1, 1, 0]


def test_the_readout_is_settled_by_the_encoder():
    assert segzoo.DPT("test_vit", **NARROW).config.readout == "project"
    assert segzoo.DPT("test_convnext", **NARROW).config.readout == "ignore"
    model = segzoo.DPT("test_convnext", readout="project", **NARROW)
    assert model.decoder.readouts[0].linear.in_features == model.features[0].channels


def of_an_encoder(readout: str) -> segzoo.SegmentationModel:
    return segzoo.DPT(segzoo.create_encoder("test_vit"), classes=2, readout=readout, **NARROW)


def of_several_heads(readout: str) -> segzoo.SegmentationModel:
    head = segzoo.Head("dpt", 2, options={"readout": readout, **NARROW})
    return segzoo.MultiHead("test_vit", heads={"a": head}).single("a")


@pytest.mark.parametrize("build", [of_an_encoder, of_several_heads])
@pytest.mark.parametrize("readout", ["add", "ignore"])
def test_without_tokens_it_is_loaded_as_it_was(tmp_path, build, readout):
    """Built by its name, which is how it is loaded, the encoder has tokens."""
    model = randomise_all(build(readout)).eval()
    assert model.config.readout == "ignore"
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    image = torch.rand(1, 3, 64, 97)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize("name", ON_ANY_ENCODER)
def test_others_on_its_encoder_do_without_tokens(tmp_path, name):
    """An encoder may be shared: what it gives beside its maps is for DPT alone."""
    encoder = segzoo.DPT("test_vit", **NARROW).encoder
    head = segzoo.Head("dpt", 2, options={"readout": "add", **NARROW})
    several = {"heads": {"a": head, "b": segzoo.Head("unet", 3)}} if name == "multi_head" else {}
    model = randomise_all(segzoo.ARCHITECTURES[name](encoder, **several)).eval()
    assert model.encoder is encoder
    assert encoder.prefix_tokens == 1
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    image = torch.rand(1, 3, 64, 97)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
        if several:
            assert model.heads["a"].config.readout == "ignore"
            found, expected = loaded.answers(image), model.answers(image)
            assert all(torch.equal(found[key], expected[key]) for key in several["heads"])
            assert torch.equal(model.single("a")(image), expected["a"])


def test_a_model_that_does_without_tokens_is_optimised():
    model = segzoo.FCN(segzoo.DPT("test_vit", **NARROW).encoder, classes=2).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = segzoo.optimize(model, example=image)(image)
        torch.testing.assert_close(found, model(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("norm", ["group", "instance", "layer", "none"])
def test_few_maps_and_every_norm(depth, norm):
    model = segzoo.DPT(Maps(*[16] * depth), norm=norm, decoder_channels=16)
    assert model.train()(torch.rand(1, 3, 33, 50)).shape == (1, 1, 33, 50)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_a_model_in_daily_use(encoder, tmp_path):
    assert_everyday(segzoo.DPT(encoder, classes=2, **NARROW), tmp_path, whole=encoder == "test_vit")


def test_a_file_for_other_sizes(tmp_path):
    # The file of a transformer, whose positions are resized, is that of test_eomt_in_use.py.
    model = segzoo.DPT(Chain(4, 2, 2), 2, decoder_channels=8)
    assert_exported(model, tmp_path / "m.onnx")


def test_steps_have_names():
    steps = ("readouts.0", "levels.3", "fusions.0", "fusions.3")
    model = segzoo.DPT("test_vit", classes=2, deep_supervision=steps, **NARROW)
    assert_supervised(model, (97, 96))
    lines = diagram(model).splitlines()
    assert any("levels.0 16 → fusions.2 16" in line for line in lines)
    assert any(line.endswith("fusions.3 16 → head 2") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 8193}, "decoder_channels must be between 1 and 8192, got 8193"),
        ({"readout": "cat"}, "readout must be one of add, ignore, project; got 'cat'"),
        ({"reassemble_channels": (8, 8)}, r"must have 4 values.*\(16, 16, 16, 16\); got 2"),
        ({"reassemble_channels": 8}, "reassemble_channels must be a sequence"),
        ({"dropout": 2}, "dropout must be between 0 and 1"),
    ],
    ids=str,
)
def test_wrong_options(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.DPT("test_vit", **arguments)
