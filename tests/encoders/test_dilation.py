"""How far an encoder shrinks the image: dilated stages, and maps that are left out."""

from __future__ import annotations

import json
import logging

import pytest
import timm
import torch
from torch import nn

import segzoo
from segzoo.architectures.wants import Wants
from segzoo.encoders import ENCODERS, Encoder, build_on_meta
from segzoo.errors import ArgumentError, ConfigError, UnknownNameError

from ..helpers import TinyBackbone, randomise


class Deep(nn.Module):
    """A backbone of our own with maps of strides 2 to 16; a pooling is among what shrinks them."""

    features = tuple(segzoo.FeatureSpec(4 * i, 2**i) for i in (1, 2, 3, 4))

    def __init__(self, in_channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        self.one = nn.Conv2d(in_channels, 4, 3, stride=2, padding=1)
        self.two = nn.Conv2d(4, 8, 2, stride=2)
        self.three = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.four = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1))

    def forward(self, image):
        maps = [self.one(image)]
        for layer in (self.two, self.three, self.four):
            maps.append(layer(maps[-1]))
        return maps


@pytest.fixture
def deep():
    segzoo.register_encoder("deep")(Deep)
    yield "deep"
    ENCODERS._entries.pop("deep")


class Wishful(segzoo.Unet):
    """A Unet that would like an output stride of 8."""

    @classmethod
    def wants(cls, config):
        return Wants(output_stride=8)


@pytest.fixture(scope="module", autouse=True)
def wishful():
    segzoo.register_architecture("wishful")(Wishful)
    yield Wishful
    segzoo.ARCHITECTURES._entries.pop("wishful")


def shapes(encoder: Encoder, height: int, width: int) -> list[tuple[int, ...]]:
    image = encoder.size_rule.fit(torch.rand(2, encoder.in_channels, height, width))
    with torch.no_grad():
        return [tuple(item.shape[1:]) for item in encoder.eval()(image)]


@pytest.mark.parametrize(
    ("name", "stride", "method"),
    [
        ("test_resnet", 16, "timm"),
        ("test_efficientnet", 8, "convolutions"),
        ("test_convnext", 8, "timm"),
        ("test_convnext", 16, "convolutions"),  # 2x2 convolutions
        ("tf_mobilenetv3_small_minimal_100", 8, "convolutions"),  # layers that pad by themselves
        ("vgg11", 8, "convolutions"),  # max poolings
    ],
)
def test_the_late_maps_have_the_output_stride(name, stride, method):
    plain = segzoo.create_encoder(name)
    encoder = segzoo.create_encoder(name, output_stride=stride, dilation=method)
    assert encoder.dilated.dilation == method
    assert encoder.made_for == plain.strides
    assert encoder.strides == tuple(min(item, stride) for item in plain.strides)
    assert encoder.channels == plain.channels
    for height, width in ((128, 96), (97, 65)):
        made = shapes(encoder, height, width)
        late = {
            size[1:] for item, size in zip(encoder.strides, made, strict=True) if item == stride
        }
        up = (-(-height // stride), -(-width // stride))
        assert late in ({up}, {(height // stride, width // stride)})
    # The same layers with the same names: weights of one fit the other.
    encoder.load_state_dict(plain.state_dict())
    assert encoder.stages() == plain.stages()


def test_timms_own_option_is_taken_first():
    encoder = segzoo.create_encoder("test_resnet", output_stride=8)
    assert encoder.dilated.dilation == "timm"
    theirs = timm.create_model("test_resnet", features_only=True, output_stride=8)
    theirs.load_state_dict(encoder.backbone.state_dict())
    image = torch.rand(1, 3, 97, 64)
    for ours, item in zip(encoder.eval()(image), theirs.eval()(image), strict=True):
        assert torch.equal(ours, item)
    assert segzoo.create_encoder("vgg11", output_stride=16).dilated.dilation == "convolutions"


@pytest.mark.parametrize("stride", [8, 16])
def test_convolutions_are_dilated_as_by_smp(stride):
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.encoders.get_encoder("resnet18", weights=None, output_stride=stride)
    randomise(theirs)
    image = torch.rand(1, 3, 64, 96)
    encoders = {
        method: segzoo.create_encoder("resnet18", output_stride=stride, dilation=method)
        for method in ("convolutions", "timm")
    }
    maps = theirs.eval()(image)[1:]
    same = {}
    for method, encoder in encoders.items():
        encoder.backbone.load_state_dict(theirs.state_dict())
        found = encoder.eval()(image)
        same[method] = [torch.equal(a, b) for a, b in zip(found, maps, strict=True)]
    assert all(same["convolutions"])
    assert not same["timm"][-1]  # the same weights, other maps: why a model says which it has


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "test_vit", "output_stride": 8}, r"'test_vit.r160_in1k'; 16 and 32 can\.$"),
        (
            {"encoder": "shvit_s1", "output_stride": 8, "dilation": "timm"},
            "ends at stride 64 whatever",
        ),
        (
            {"encoder": "test_resnet", "output_stride": 8, "dilation": "none"},
            r"by dilation='none'; 32 can\.",
        ),
        (
            {"encoder": "test_resnet", "output_stride": 8, "dilation": "convolutions"},
            r"'test_resnet.r160_in1k' by dilation='convolutions'; 32 can",
        ),
        ({"encoder": "test_resnet", "dilation": "timm"}, "give output_stride too"),
        ({"encoder": "test_resnet", "output_stride": 12}, "one of 8, 16, 32, got 12"),
        ({"encoder": "test_resnet", "output_stride": True}, "one of 8, 16, 32, got True"),
        ({"encoder": "test_resnet", "preferred_stride": "8"}, "preferred_stride must be one of"),
        (
            {"encoder": "test_resnet", "output_stride": 8, "options": {"output_stride": 8}},
            "not both",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.create_encoder(**arguments)


def test_an_unknown_way_is_refused():
    for build in (segzoo.create_encoder, segzoo.Unet):
        with pytest.raises(UnknownNameError, match=r"dilation must be one of.*convolutions"):
            build("test_resnet", output_stride=8, dilation="convolution")


def test_fewer_maps_that_end_early_enough_are_left_as_they_are():
    encoder = segzoo.create_encoder("test_resnet", output_stride=16, depth=4)
    assert encoder.strides == (2, 4, 8, 16)
    assert encoder.dilated is None
    dilated = segzoo.create_encoder("test_resnet", output_stride=8, depth=4)
    assert dilated.strides == (2, 4, 8, 8)


# What an architecture would like.


def warnings_of(caplog) -> list[str]:
    return [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("name", "saved", "strides"),
    [
        ("test_resnet", {"output_stride": 8, "dilation": "timm"}, (2, 4, 8)),
        ("shvit_s1", {"output_stride": 16, "dilation": "convolutions"}, (16,)),
        ("test_vit", {"dilation": "none"}, (4, 8, 16, 32)),
    ],
)
def test_a_wish_is_met_as_far_as_it_can_be_and_kept(name, saved, strides, caplog, tmp_path):
    model = Wishful(name, classes=2).eval()
    assert tuple(item.stride for item in model.features) == strides
    said = warnings_of(caplog)
    if name == "test_resnet":
        assert not said
    else:
        assert len(said) == 1
        assert "cannot have an output stride of 8" in said[0]
        assert "ends at stride 16" in said[0]
    caplog.clear()
    model.save_pretrained(tmp_path)
    arguments = json.loads((tmp_path / "config.json").read_text())["arguments"]
    assert {
        key: arguments[key] for key in ("output_stride", "dilation") if key in arguments
    } == saved
    loaded = segzoo.from_pretrained(tmp_path)
    assert not warnings_of(caplog)
    assert loaded.config == model.config
    assert loaded.encoder.dilated == model.encoder.dilated
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


def test_what_the_user_asks_for_goes_before_the_wish():
    assert Wishful("test_resnet", output_stride=16).encoder.stride == 16
    assert Wishful("test_resnet", output_stride=32).encoder.stride == 32
    assert Wishful("test_resnet", dilation="none").encoder.stride == 32
    by_option = Wishful("test_resnet", encoder_options={"output_stride": 16})
    assert by_option.encoder.stride == 16
    assert by_option.config.output_stride is by_option.config.dilation is None


def test_a_model_without_an_output_stride_has_the_config_of_before():
    arguments = segzoo.Unet("test_resnet").config.arguments()
    assert not {"output_stride", "dilation"} & set(arguments)


# Saving and loading.


@pytest.mark.parametrize("method", ["timm", "convolutions"])
def test_a_saved_model_is_dilated_as_it_was(method, tmp_path):
    model = segzoo.Unet("test_efficientnet", classes=2, output_stride=16, dilation=method).eval()
    randomise(model)
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.config.dilation == loaded.encoder.dilated.dilation == method
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
        other = segzoo.from_pretrained(tmp_path, classes=5)
    assert other.encoder.dilated == model.encoder.dilated


@pytest.mark.parametrize("options", [None, {"output_stride": 16}])
def test_an_encoder_that_was_dilated_before_is_saved_so(options, tmp_path):
    stride = None if options else 16
    encoder = segzoo.create_encoder("test_resnet", output_stride=stride, options=options)
    model = segzoo.Unet(encoder)
    said = (None, None) if options else (16, "timm")  # as where it is built by name
    assert (model.config.output_stride, model.config.dilation) == said
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.encoder.dilated == encoder.dilated
    assert loaded.encoder.strides == encoder.strides


@pytest.mark.parametrize(
    "changed",
    [
        {"dilation": "fast"},
        {"dilation": 8},
        {"output_stride": 8, "dilation": "timm", "encoder": "vgg11"},
        {"output_stride": 8, "dilation": "none"},
        {"output_stride": 4},
        {"dilation": "timm"},
    ],
)
def test_a_strangers_config_is_checked(changed, tmp_path):
    segzoo.Unet("test_resnet").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["arguments"].update(changed)
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        segzoo.from_pretrained(tmp_path)


def test_weights_trained_elsewhere_go_into_a_dilated_encoder(tmp_path):
    whole = timm.create_model("test_efficientnet")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    encoder = segzoo.create_encoder(
        "test_efficientnet",
        pretrained=str(tmp_path / "weights.pth"),
        in_channels=5,
        output_stride=16,
        dilation="convolutions",
    )
    found = dict(encoder.backbone.named_parameters())
    late = [name for name in encoder.stages()[-1] if name.endswith("conv_dw.weight")]
    assert late
    for name in late:
        assert torch.equal(found[name], whole.get_parameter(name))
        assert encoder.backbone.get_submodule(name.removesuffix(".weight")).dilation == (2, 2)
    assert shapes(encoder, 64, 64)[-1][1:] == (4, 4)


def test_freezing_and_groups_are_those_of_the_plain_encoder():
    model = segzoo.Unet("test_resnet", output_stride=8)
    plain = segzoo.Unet("test_resnet")
    counts = [
        [len(group["params"]) for group in each.parameter_groups(1e-3)[:2]]
        for each in (model, plain)
    ]
    assert counts[0] == counts[1]
    model.freeze_encoder(stages=4)
    assert not model.encoder.backbone.layer3[0].conv1.weight.requires_grad
    assert model.encoder.backbone.layer4[0].conv1.weight.requires_grad


def test_an_auxiliary_head_finds_its_stage_in_a_dilated_encoder():
    model = segzoo.Unet("test_resnet", output_stride=8, auxiliary_stride=16)
    channels = model.encoder.channels
    assert model.auxiliary_heads["encoder"].conv.conv.in_channels == channels[3] != channels[4]
    outputs = model.forward_heads(torch.rand(2, 3, 64, 64))
    assert outputs.auxiliary["encoder"].shape == (2, 1, 64, 64)


# Encoders of the user's own.


def test_a_registered_encoder_is_dilated(deep, tmp_path):
    model = segzoo.Unet(deep, output_stride=8).eval()
    assert model.encoder.strides == (2, 4, 8, 8)
    assert model.encoder.backbone.four[0].stride == (1, 1)
    assert shapes(model.encoder, 97, 64) == [(4, 49, 32), (8, 24, 16), (12, 12, 8), (16, 12, 8)]
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path))
    assert loaded.encoder.dilated == model.encoder.dilated
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(image), model(image))


def test_a_registered_encoder_that_cannot_is_told_what_it_can(deep):
    # Its second map shrinks the image across the output stride when the third is left out.
    with pytest.raises(ArgumentError, match=r"by dilation='timm'; 16 and 32 can"):
        segzoo.create_encoder(deep, output_stride=8, dilation="timm")
    assert segzoo.create_encoder(deep, output_stride=16).dilated is None


def test_a_module_of_the_user_is_not_changed(caplog):
    module = Deep()
    with pytest.raises(ArgumentError, match=r"'Deep' ends at stride 16.*is not changed\. Dilate"):
        segzoo.Unet(module, output_stride=8)
    model = Wishful(module)
    assert "cannot have an output stride of 8" in warnings_of(caplog)[0]
    assert module.four[0].stride == 2
    assert model.encoder.strides == (2, 4, 8, 16)
    assert segzoo.Unet(TinyBackbone(), output_stride=8).encoder.dilated is None


# Maps that are left out.


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_model_made_on_the_meta_device_is_dilated_like_another(name):
    def make():
        return segzoo.create_encoder(name, output_stride=8, dilation="convolutions")

    def layers(encoder):
        return [
            (item.stride, item.padding, item.dilation)
            for item in encoder.modules()
            if isinstance(item, torch.nn.Conv2d)
        ]

    assert layers(build_on_meta(make)) == layers(make())
    assert build_on_meta(make).stages() == make().stages()
