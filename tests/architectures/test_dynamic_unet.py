"""fastai's architecture: equal to the bit where fastai has it, at home everywhere else."""

import copy
import gc
import itertools
import math
import pickle

import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim

import segzoo
from benchmarks.parity.fastai_models import (
    CASES,
    Case,
    eval_difference,
    fastai_unet,
    make_pair,
    our_names,
    step_difference,
)
from segzoo.architectures.dynamic_unet_layers import ACTIVATIONS, DYNAMIC_NORMS, icnr_
from segzoo.encoders import build_on_meta
from segzoo.errors import ArgumentError, UnknownKeywordError, UnknownNameError

from ..helpers import TinyBackbone, needs_timm_1_0_31

IMAGE = torch.rand(2, 3, 70, 51, generator=torch.Generator().manual_seed(1))
SAME = {"loss": 0.0, "gradients": 0.0, "buffers": 0.0}


def tiny(**arguments):
    """A few thousand weights, two blocks' worth of strides."""
    bands = int(arguments.get("in_channels", 3))
    return segzoo.DynamicUnet(TinyBackbone(bands), **{"classes": 3, **arguments})


class Deep(nn.Module):
    """Five maps of few channels, as a ResNet gives them."""

    features = tuple(segzoo.FeatureSpec(c, 2 << i) for i, c in enumerate((4, 4, 8, 8, 16)))

    def __init__(self):
        super().__init__()
        channels = [3, *(feature.channels for feature in self.features)]
        self.steps = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(channels)
        )

    def forward(self, image):
        maps = [image]
        for step in self.steps:
            maps.append(step(maps[-1]).relu())
        return maps[1:]


# Parity with fastai.


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_option_is_equal_to_the_bit(case):
    theirs, ours = make_pair(case)
    for size in ((33, 47), (65, 97)):
        assert eval_difference(theirs, ours, (1, case.bands, *size)) == 0.0
    # The vectors of spectral norm move at each step; of all else one step tells everything.
    steps = 2 if str(case).count("Spectral") else 1
    assert step_difference(theirs, ours, (2, case.bands, 33, 47), steps=steps) == SAME


def test_the_reference_is_equal_to_the_bit():
    theirs, ours = make_pair(Case("resnet34"))
    for size in ((128, 96), (122, 157), (33, 47)):
        assert eval_difference(theirs, ours, (1, 3, *size)) == 0.0
    assert step_difference(theirs, ours, (2, 3, 64, 64)) == SAME


def fill(weight, *_, **__):
    """A million random numbers, one row after the other: quicker than to draw them all."""
    row = torch.randn(1_000_003) / weight[0].numel() ** 0.5
    for part in weight.detach().view(-1).split(len(row)):
        part.copy_(row[: len(part)])
    return weight


def test_bottlenecks_are_equal_to_the_bit(monkeypatch):
    for name in ("kaiming_uniform_", "kaiming_normal_"):
        monkeypatch.setattr(nn.init, name, fill)
    theirs, ours = make_pair(Case("resnet50"))
    assert not {t.data_ptr() for t in theirs.parameters()} & {
        t.data_ptr() for t in ours.parameters()
    }
    # 339 million parameters: benchmarks/parity/fastai.py takes a training step as well.
    assert eval_difference(theirs, ours, (1, 3, 33, 47)) == 0.0


@pytest.mark.parametrize("norm", ["None", "Batch", "Weight", "Spectral", "Instance"])
def test_weights_start_from_the_same_distributions(norm):
    from fastai.layers import NormType

    options = {"norm_type": getattr(NormType, norm, None), "self_attention": True}
    theirs = fastai_unet(Case(fastai=options), fresh=True)
    expected = our_names(theirs, theirs.state_dict())
    ours = segzoo.DynamicUnet("resnet18", 3, norm=norm.lower(), self_attention=True)
    for name, value in ours.state_dict().items():
        if name.startswith("encoder.") or name.endswith((".left", ".right")):
            continue  # timm's, and vectors that converge by themselves
        got, wanted = (moments(tensor.double()) for tensor in (value, expected[name]))
        if wanted["std"] == 0:
            assert got == wanted, name
        elif name == "head.conv.bias":  # too few for statistics
            assert 0 < value.abs().max() < 0.06
        else:
            noise = 12 / value.numel() ** 0.5  # the values of a shuffle come in fours
            assert got["mean"] == pytest.approx(wanted["mean"], abs=noise * wanted["std"]), name
            assert got["std"] == pytest.approx(wanted["std"], rel=noise), name
            if value.numel() > 10000:  # which tells a uniform from a normal distribution
                assert got["fourth"] == pytest.approx(wanted["fourth"], rel=0.2), name


def moments(values):
    std = values.std(correction=0).item()
    fourth = (values - values.mean()).pow(4).mean().item()
    return {"mean": values.mean().item(), "std": std, "fourth": fourth / std**4 if std else 0.0}


def test_icnr_starts_with_equal_cells():
    weight = icnr_(torch.empty(32, 16, 1, 1))
    up = nn.functional.pixel_shuffle(nn.functional.conv2d(torch.rand(1, 16, 3, 3), weight), 2)
    cells = up.unflatten(2, (3, 2)).unflatten(4, (3, 2))
    torch.testing.assert_close(cells.amax((3, 5)), cells.amin((3, 5)))
    assert len({row.sum().item() for row in weight}) == 8


# Every encoder, every option.


@pytest.mark.parametrize(
    ("encoder", "skips", "strides"),
    [
        ("resnet18", (3, 2, 1, 0), (16, 8, 4, 2)),
        ("convnext_atto", (2, 1, 0, None), (16, 8, 4, 2)),
        ("vgg11", (4, 3, 2, 1, 0), (16, 8, 4, 2, 1)),
        ("vit_tiny_patch16_224", (2, 1, 0, None), (16, 8, 4, 2)),
        ("vit_small_patch14_dinov2", (2, 1, 0, None), (14, 7, 4, 2)),
        pytest.param("pit_ti_224", (1, 0, None, None), (16, 8, 4, 2), marks=needs_timm_1_0_31),
        ("densenet121", (3, 2, 1, 0), (16, 8, 4, 2)),
        ("efficientnet_b0", (3, 2, 1, 0), (16, 8, 4, 2)),
    ],
)
def test_every_map_is_a_skip(encoder, skips, strides):
    model = build_on_meta(lambda: segzoo.DynamicUnet(encoder, 2, self_attention=True, blur=True))
    assert model.decoder.skips == skips
    assert model.decoder.strides == strides
    side = model.encoder.size_rule.fit(torch.empty(2, 3, 64, 64, device="meta")).shape[-1]
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 2, side, side)


@pytest.mark.parametrize("size", [(64, 64), (70, 51), (33, 100), (5, 7), (1, 1)])
@pytest.mark.parametrize("backbone", [TinyBackbone, Deep])
def test_outputs_have_the_images_own_size(backbone, size):
    model = segzoo.DynamicUnet(backbone(), 2).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shallow_encoders(depth):
    model = segzoo.DynamicUnet("resnet18", 2, depth=depth)
    assert model.decoder.strides == (16, 8, 4, 2)[5 - depth :]
    assert model(torch.rand(2, 3, 30, 41)).shape == (2, 2, 30, 41)


@pytest.mark.parametrize("stride", [1, 8])
def test_one_map(stride):
    class OneMap(nn.Module):
        features = (segzoo.FeatureSpec(6, stride),)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, stride=stride, padding=1)

        def forward(self, image):
            return [self.conv(image)]

    model = segzoo.DynamicUnet(OneMap(), 2, blur=True)
    assert model(torch.rand(2, 3, 17, 30)).shape == (2, 2, 17, 30)


@pytest.mark.parametrize("norm", DYNAMIC_NORMS)
@pytest.mark.parametrize("act", ["relu", "mish", "leaky_relu"])
@pytest.mark.parametrize("last_cross", [True, False])
def test_every_option_trains(norm, act, last_cross):
    model = segzoo.DynamicUnet(
        Deep(), 2, norm=norm, act=act, last_cross=last_cross, bottle=last_cross, blur=True,
        self_attention=True, y_range=(0, 1),
    )  # fmt: skip
    out = model(IMAGE)
    assert out.shape == (2, 2, 70, 51)
    assert 0 <= out.min() <= out.max() <= 1
    out.square().mean().backward()
    assert not [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_gradients_of_every_activation(act):
    # In float64 against finite differences, because activations work in place.
    model = tiny(act=act, norm="instance").double().eval()
    image = torch.rand(1, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (image,), fast_mode=True)


def test_bottle_halves_the_last_block():
    # fastai itself crashes when both are asked for.
    model = tiny(bottle=True)
    joined = model.decoder.refine.conv1.conv.in_channels
    assert model.decoder.out.channels == joined // 2
    assert model(IMAGE).shape == (2, 3, 70, 51)


def test_a_range_moves_the_threshold_of_one_class():
    model = tiny(classes=1, y_range=(10, 20))
    assert model.threshold == 15
    mask = model.predict(torch.rand(3, 16, 16))
    with torch.no_grad():
        out = model.eval()(model.normalization(torch.rand(1, 3, 16, 16)))
    assert 10 <= out.min() <= out.max() <= 20
    assert set(mask.unique().tolist()) <= {0, 1}
    assert tiny(classes=1).threshold == 0
    assert tiny().gives_logits
    assert not model.gives_logits
    assert not tiny(classes=1, y_range=(-1, 1)).gives_logits  # whose middle is 0, too


def test_so_does_that_of_a_first_head():
    heads = {"a": segzoo.Head("dynamic_unet", 1, options={"y_range": (10, 20)})}
    model = segzoo.MultiHead(TinyBackbone(3), heads=heads)
    assert (model.threshold, model.gives_logits) == (15, False)
    heads = {"b": segzoo.Head("unet", 1), **heads}
    model = segzoo.MultiHead(TinyBackbone(3), heads=heads)
    assert (model.threshold, model.gives_logits) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y_range": (1, 1)}, ArgumentError, r"low < high, got \(1, 1\)"),
        ({"y_range": (2, 1)}, ArgumentError, "low < high"),
        ({"y_range": (1,)}, ArgumentError, "low < high"),
        ({"y_range": 3}, ArgumentError, "y_range must be a sequence"),
        ({"y_range": (0, math.inf)}, ArgumentError, r"y_range\[1\]"),
        ({"act": "rleu"}, UnknownNameError, "Did you mean relu"),
        ({"norm": "layer"}, UnknownNameError, "norm must be one of"),
        ({"blur": 1}, ArgumentError, "blur must be True or False"),
        ({"bottle": True, "last_cross": False}, ArgumentError, "nothing to narrow"),
        ({"self_attention": True}, ArgumentError, "last block but two; this decoder has 1"),
        ({"last_crss": True}, UnknownKeywordError, "Did you mean last_cross"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        tiny(**arguments)


# What people do to a module.


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"norm": "weight", "self_attention": True, "blur": True},
        {"norm": "spectral", "act": "mish"},
    ],
    ids=str,
)
def test_tools(arguments):
    model = segzoo.DynamicUnet(Deep(), 2, **arguments).eval()
    with torch.no_grad():
        expected = model(IMAGE)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(other(IMAGE), expected)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(IMAGE), expected)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        out = last(IMAGE.to(memory_format=torch.channels_last))
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(nn.DataParallel(model)(IMAGE), expected)
    # Without names: torch 2.8 sees no way to hold the bounds of a name for a model that blurs.
    sizes = dict.fromkeys((0, 2, 3), Dim.DYNAMIC)
    program = torch.export.export(model, (torch.rand(2, 3, 96, 128),), dynamic_shapes=(sizes,))
    for shape in ((1, 3, 65, 97), (3, 3, 128, 64)):
        image = torch.rand(shape)
        torch.testing.assert_close(program.module()(image), model(image), atol=1e-5, rtol=1e-4)


def test_onnx_at_other_sizes_than_the_traced_one(tmp_path):
    model = segzoo.DynamicUnet(Deep(), 2, self_attention=True).eval()
    sizes = ({2: Dim("h", min=64), 3: Dim("w", min=64)},)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (torch.rand(1, 3, 96, 128),), path, dynamo=True, dynamic_shapes=sizes, verbose=False
    )
    session = onnxruntime.InferenceSession(path)
    for size in ((96, 128), (97, 65), (160, 64)):
        image = torch.rand(1, 3, *size)
        (out,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), model(image), atol=1e-5, rtol=1e-4)


def test_save_and_load(tmp_path):
    model = segzoo.DynamicUnet(
        "resnet18", 2, y_range=(-1, 2.5), norm="batch", blur=True, blur_final=False, act="silu"
    ).eval()
    model.save_pretrained(tmp_path)
    again = segzoo.from_pretrained(tmp_path)
    assert isinstance(again, segzoo.DynamicUnet)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(IMAGE), model(IMAGE))


def test_training_twice_before_the_backward_of_the_first():
    # The vectors of spectral norm change at each call; the first graph must not notice.
    model = tiny(norm="spectral").train()
    (model(IMAGE).mean() + model(IMAGE).mean()).backward()


def test_training_keeps_at_most_85_percent_of_fastais_activations():
    from benchmarks.dynamic_unet import saved_activations

    theirs, ours = make_pair(Case())
    image = torch.rand(2, 3, 64, 64)
    assert saved_activations(ours.train(), image) <= 0.85 * saved_activations(theirs.train(), image)


def test_nothing_stays_alive_after_a_forward():
    model = segzoo.DynamicUnet(Deep(), 2).eval()
    with torch.no_grad():
        model(IMAGE)
        before = count_tensors()
        model(IMAGE)
        assert count_tensors() == before


def count_tensors():
    gc.collect()
    return sum(type(item) is torch.Tensor for item in gc.get_objects())


def test_parameter_groups_are_fastais_three():
    model = segzoo.DynamicUnet("resnet18", 2)
    groups = segzoo.fastai_splitter(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    early, late, rest = [{".".join(names[id(p)].split(".")[:3]) for p in group} for group in groups]
    backbone = "encoder.backbone."
    assert early == {f"{backbone}{name}" for name in ("conv1", "bn1", "layer1", "layer2")}
    assert late == {f"{backbone}layer3", f"{backbone}layer4"}
    assert {name.split(".")[0] for name in rest} == {"decoder", "head"}
