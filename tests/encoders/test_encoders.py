import dataclasses
import re

import pytest
import timm
import torch

import segzoo
from segzoo.encoders import ENCODERS
from segzoo.encoders.timm_source import plan_backbone
from segzoo.errors import ArgumentError, DuplicateNameError, EncoderError, UnknownNameError

from ..helpers import TinyBackbone


def test_the_reference_entry():
    info = segzoo.encoder_info("resnet34")
    assert info.name == "resnet34.a1_in1k"
    assert info.channels == (64, 64, 128, 256, 512)
    assert info.strides == (2, 4, 8, 16, 32)
    assert info.parameters == 21_284_672
    assert info.gflops == pytest.approx(7.33, abs=0.05)
    assert info.gflops_size == (224, 224)
    assert info.pretrained_tags[0] == "a1_in1k"
    assert "tv_in1k" in info.pretrained_tags
    assert info.license == timm.get_pretrained_cfg("resnet34").license
    assert info.normalization == segzoo.Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert str(info.size_rule) == "any"
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "other"


@pytest.mark.parametrize("size", [(256, 256), (250, 317), (97, 64), (1, 1)])
def test_the_maps_are_what_the_features_say(size):
    encoder = segzoo.create_encoder("resnet34").eval()
    maps = encoder(torch.rand(1, 3, *size))
    assert encoder.stride == 32
    for item, feature in zip(maps, encoder.features, strict=True):
        side = tuple(-(-n // feature.stride) for n in size)
        assert item.shape == (1, feature.channels, *side)


def test_maps_in_channels_last_layout_are_turned():
    encoder = segzoo.create_encoder("swin_tiny_patch4_window7_224").eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = encoder.to(memory_format=layout)(torch.rand(1, 3, 64, 96))
        assert [tuple(item.shape) for item in maps] == [
            (1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
        ]
        assert all(item.is_contiguous(memory_format=layout) for item in maps)


def test_describing_an_encoder_allocates_no_weights(monkeypatch):
    built = []
    original = torch.nn.Conv2d.reset_parameters
    monkeypatch.setattr(
        torch.nn.Conv2d,
        "reset_parameters",
        lambda self: (built.append(self.weight.device.type), original(self))[1],
    )
    segzoo.encoder_info("wide_resnet50_2")
    assert set(built) == {"meta"}


def test_depth_takes_the_first_maps():
    encoder = segzoo.create_encoder("resnet18", depth=3)
    assert encoder.strides == (2, 4, 8)
    assert not any(name.startswith("layer3") for name, _ in encoder.backbone.named_parameters())
    for depth in (0, 6):
        with pytest.raises(ArgumentError, match=r"depth must be between 1 and (5|1024).*got"):
            segzoo.Unet("resnet18", depth=depth)


def test_blocks_are_counted_on_the_backbone_that_is_built():
    encoder = segzoo.create_encoder("vit_tiny_patch16_224", options={"depth": 6})
    assert encoder.backbone.feature_info.out_indices == (0, 2, 3, 5)


def test_a_stem_that_is_made_for_rgb_says_so():
    with pytest.raises(
        ArgumentError, match=r"'csatv2.*cannot be built for in_channels=4, only for 3"
    ):
        segzoo.Unet("csatv2", in_channels=4)


def test_out_indices_are_sorted():
    encoder = segzoo.create_encoder("resnet18", options={"out_indices": [3, -4, 2]})
    assert encoder.strides == (4, 8, 16)
    maps = encoder(torch.rand(1, 3, 64, 64))
    assert [item.shape[1] for item in maps] == list(encoder.channels)
    assert segzoo.create_encoder("resnet18", options={"out_indices": 2}).strides == (16, 32)


@pytest.mark.parametrize(
    ("name", "indices", "blocks"),
    [
        ("resnet18", [2, 5], 5),
        ("resnet18", [-6], 5),
        ("resnet18", [], 5),
        ("resnet18", [True, 2], 5),
        ("resnet18", "12", 5),
        ("vit_tiny_patch16_224", [2, 12], 12),
        ("vit_tiny_patch16_224", 13, 12),
        ("vit_tiny_patch16_224", 0, 12),
    ],
)
def test_out_indices_beyond_the_blocks_are_refused(name, indices, blocks):
    message = rf"between -{blocks} and {blocks - 1} .*it has {blocks} blocks.*got "
    with pytest.raises(ArgumentError, match=message + re.escape(repr(indices))):
        segzoo.create_encoder(name, options={"out_indices": indices})


def test_unknown_names_and_tags_get_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no encoder 'resnet43'. Did you mean .*resnet34"):
        segzoo.create_encoder("resnet43")
    with pytest.raises(
        UnknownNameError, match=r"no pretrained tag 'a1_in2k'\. Did you mean a1_in1k"
    ):
        segzoo.create_encoder("resnet34.a1_in2k")
    with pytest.raises(UnknownNameError):
        segzoo.create_encoder("hf-hub:timm/resnet34.a1_in1k")


@pytest.mark.parametrize(
    ("name", "near"),
    [("mit_b6", "mit_b5"), ("resnet43.a1_in1k", "resnet34"), ("mit_b0.x", "mit_b0")],
)
def test_who_describes_an_unknown_encoder_is_told_what_who_builds_it_is(name, near):
    messages = []
    for ask in (segzoo.encoder_info, segzoo.create_encoder, segzoo.Unet, plan_backbone):
        with pytest.raises(
            UnknownNameError, match=f"no encoder '{name}'. Did you mean .*{near}"
        ) as caught:
            ask(name)
        messages.append(str(caught.value))
    assert len(set(messages)) == 1


def test_an_option_that_the_backbone_lacks_is_named():
    with pytest.raises(ArgumentError, match=r"'window_size'.* It knows: .*, drop_path_rate, "):
        segzoo.create_encoder("resnet18", options={"window_size": 7})
    with pytest.raises(ArgumentError, match=r"'drop_pathrate'\. Did you mean drop_path_rate"):
        segzoo.create_encoder("resnet18", options={"drop_pathrate": 0.1})
    for option in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        with pytest.raises(ArgumentError, match=f"cannot hold '{option}'"):
            segzoo.create_encoder("resnet18", options={option: "somewhere"})


def test_weights_that_do_not_exist_are_not_promised():
    with pytest.raises(EncoderError, match="no pretrained weights for 'mixer_s16_224'"):
        segzoo.create_encoder("mixer_s16_224", pretrained=True)


def test_a_licence_is_that_of_weights():
    assert timm.get_pretrained_cfg("mixer_s16_224").license  # stated, though there are no weights
    assert segzoo.encoder_info("mixer_s16_224").license is None
    assert segzoo.encoder_info("convnext_tiny.fb_in22k").license == "apache-2.0"


@pytest.fixture
def registered():
    segzoo.register_encoder("tiny_for_tests")(TinyBackbone)
    yield "tiny_for_tests"
    del ENCODERS._entries["tiny_for_tests"]


def test_an_encoder_of_the_users_own_by_name(registered, tmp_path):
    assert registered in segzoo.list_encoders("tiny_*")
    info = segzoo.encoder_info(registered)
    assert info.strides == (2, 4)
    assert info.pretrained_tags == ()
    model = segzoo.Unet(registered, classes=2, in_channels=4).eval()
    image = torch.rand(1, 4, 13, 10)
    model.save_pretrained(tmp_path)
    assert torch.equal(segzoo.from_pretrained(tmp_path)(image), model(image))


def test_names_are_not_taken_twice(registered):
    with pytest.raises(DuplicateNameError, match="already registered"):
        segzoo.register_encoder(registered)(TinyBackbone)
    with pytest.raises(DuplicateNameError, match="timm has an architecture 'resnet34'"):
        segzoo.register_encoder("resnet34")
    with pytest.raises(DuplicateNameError, match="Choose another name"):
        segzoo.register_encoder("resnet34.mine")  # would be taken for a tag
    for name in ("", 34, "two\nlines"):
        with pytest.raises(ArgumentError, match="name must"):
            segzoo.register_encoder(name)


def test_an_encoder_of_the_users_own_as_a_module():
    model = segzoo.Unet(TinyBackbone(), classes=2)
    assert model(torch.rand(2, 3, 9, 14)).shape == (2, 2, 9, 14)
    encoder = segzoo.create_encoder("resnet18")
    assert segzoo.Unet(encoder).encoder is encoder
    with pytest.raises(ArgumentError, match="in_channels=4, but the encoder was built for 3"):
        segzoo.Unet(encoder, in_channels=4)
    with pytest.raises(ArgumentError, match="yours is built already"):
        segzoo.Unet(TinyBackbone(), pretrained=True)
    with pytest.raises(ArgumentError, match="needs an attribute `features`"):
        segzoo.Unet(torch.nn.Conv2d(3, 8, 3))
    looks_like_one = torch.nn.Module()
    looks_like_one.features = torch.nn.Sequential(*(torch.nn.Conv2d(3, 8, 3) for _ in range(30)))
    with pytest.raises(ArgumentError, match="needs an attribute `features`") as caught:
        segzoo.Unet(looks_like_one)
    assert len(str(caught.value)) < 400


def test_a_model_on_an_encoder_that_is_built_is_saved_as_it_is(tmp_path):
    options = {"norm_eps": 0.1}
    encoder = segzoo.create_encoder("test_vit", depth=2, image_size=(64, 48), options=options)
    model = segzoo.FCN(encoder, classes=2).eval()
    config = model.config
    assert (config.depth, config.image_size, config.encoder_options) == (2, (64, 48), options)
    loaded, image = (
        segzoo.from_pretrained(model.save_pretrained(tmp_path)),
        torch.rand(1, 3, 64, 48),
    )
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    for name, value in (("depth", 2), ("image_size", (64, 48))):
        with pytest.raises(ArgumentError, match="yours is built already: give them to"):
            segzoo.FCN(encoder, classes=2, **{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: dict(enumerate(maps)), "gives no list of maps, but a dict"),
        (lambda maps: maps[-1], "gives no list of maps, but a Tensor"),
        (lambda maps: maps[:1], "gives a list of 1, but declares 2 maps"),
        (lambda maps: maps[::-1], r"gives \d+ channels in map 0, but declares \d+"),
        (lambda maps: [maps[0], None], "gives as map 1 no tensor of four dimensions"),
    ],
)
def test_a_module_that_gives_other_maps_than_it_declares(change, message):
    class Other(TinyBackbone):
        def forward(self, image):
            return change(super().forward(image))

    with pytest.raises(ArgumentError, match=f"The backbone 'Other' {message}.*list of maps"):
        segzoo.create_encoder(Other())
