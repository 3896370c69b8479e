import pytest
import torch

import segzoo
from segzoo.architectures.unet import UnetConfig, UnetDecoder
from segzoo.encoders import build_on_meta
from segzoo.errors import ArgumentError, InputError
from segzoo.nn.layers import NORMS

from ..helpers import TinyBackbone, reference, tiny_unet


@pytest.mark.parametrize("size", [(256, 256), (250, 317), (97, 64), (33, 500), (5, 7), (1, 1)])
def test_logits_have_the_images_own_size(size):
    with torch.no_grad():
        assert reference()(torch.rand(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    "encoder",
    ["resnet18", "convnext_atto", "vgg11", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"],
)
@pytest.mark.parametrize("in_channels", [1, 4])
def test_pyramids_of_every_kind_train(encoder, in_channels):
    model = segzoo.Unet(encoder, classes=2, in_channels=in_channels)
    logits = model(torch.rand(2, in_channels, 64, 51))
    assert logits.shape == (2, 2, 64, 51)
    logits.square().mean().backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # Only what comes after the last map that is taken, such as a final norm, may go unused.
    assert not [name for name in unused if not name.startswith("encoder.")]


def test_skips_are_attached_by_stride():
    model = reference()
    assert model.decoder.strides == (16, 8, 4, 2, 1)
    assert model.decoder.skips == (3, 2, 1, 0, None)
    vgg = build_on_meta(lambda: segzoo.Unet("vgg11"))
    convnext = build_on_meta(lambda: segzoo.Unet("convnext_atto"))
    assert vgg.decoder.skips == (4, 3, 2, 1, 0)  # its map at stride 1 is a skip as well
    assert convnext.decoder.skips == (2, 1, 0, None, None)


def test_decoder_channels_follow_the_deepest_stride():
    with torch.device("meta"):
        assert segzoo.Unet("resnet18").config.decoder_channels == (256, 128, 64, 32, 16)
        assert segzoo.Unet("resnet18", depth=3).config.decoder_channels == (64, 32, 16)
        levit = segzoo.Unet("levit_128s")
    assert levit.config.decoder_channels == (256, 256, 128, 64, 32, 16)
    with pytest.raises(ArgumentError, match=r"must have 5 values.*\(16, 8, 4, 2, 1\).*got 2"):
        segzoo.Unet("resnet18", decoder_channels=(64, 32))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attention", ["none", "scse"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_every_option_trains_and_infers(norm, attention, interpolation):
    model = tiny_unet(
        norm=norm,
        attention=attention,
        interpolation=interpolation,
        dropout=0.5,
        decoder_channels=(5, 3),
    )
    image = torch.rand(2, 3, 11, 6)
    model(image).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    assert torch.equal(model(image), model(image))


def test_dropout_drops_whole_planes_in_training_only():
    head = segzoo.Unet(TinyBackbone(), dropout=0.5).head
    planes = head.dropout(torch.ones(1, 64, 3, 3))
    assert {float(plane.max()) for plane in planes[0]} == {0.0, 2.0}
    assert all(float(plane.max()) == float(plane.min()) for plane in planes[0])


def test_a_decoder_stands_on_its_own():
    features = (segzoo.FeatureSpec(6, 3), segzoo.FeatureSpec(9, 7))
    decoder = UnetDecoder(features, UnetConfig(decoder_channels=(8, 4, 2)))
    assert decoder.strides == (3, 2, 1)
    maps = [torch.rand(1, 6, 7, 8), torch.rand(1, 9, 3, 4)]
    assert decoder(maps, (20, 23)).shape == (1, 2, 20, 23)
    assert decoder.out == segzoo.FeatureSpec(2, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 8, 8), r"a tensor of shape \(3, 8, 8\).*image\[None\]"),
        (torch.rand(1, 4, 8, 8), "takes 3 channels, the image has 4.*in_channels=4"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8.*model.normalization"),
        (torch.rand(0, 3, 8, 8), "batch is empty"),
        (torch.rand(1, 3, 0, 8), "batch is empty"),
        ([[1, 2]], "got list"),
    ],
)
def test_images_that_cannot_be_used_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        tiny_unet()(image)


def test_a_batch_too_small_for_batch_norm_is_explained():
    model = segzoo.Unet("resnet18", classes=2).train()
    with pytest.raises(InputError, match=r"one image of 32x32.*one value.*layer4.*larger ones"):
        model(torch.rand(1, 3, 32, 32))
    assert model(torch.rand(1, 3, 33, 32)).shape == (1, 2, 33, 32)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2, 32, 32)
    frozen = segzoo.Unet("resnet18", norm="group").freeze_encoder().train()
    assert frozen(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_predict_normalises_and_restores_the_mode():
    model = tiny_unet().train()
    picture = torch.randint(0, 256, (3, 13, 9), dtype=torch.uint8)
    mask = model.predict(picture)
    assert model.training
    assert mask.shape == (13, 9)
    assert mask.dtype == torch.int64
    logits = model.eval()(model.normalization(picture[None]))
    assert torch.equal(mask, logits.argmax(1)[0])
    assert model.predict(picture[None]).shape == (1, 13, 9)
    single = tiny_unet(classes=1).eval()
    expected = single(single.normalization(picture[None]))[0, 0].sigmoid() > 0.5
    assert torch.equal(single.predict(picture), expected.long())
    with pytest.raises(InputError, match=r"\(C, H, W\) or \(N, C, H, W\)"):
        model.predict(torch.rand(9, 9))


def test_sizes_without_a_skip_are_rounded_as_asked():
    up, down = (segzoo.Unet("convnext_atto", rounding=name).eval() for name in ("up", "down"))
    down.load_state_dict(up.state_dict())
    for size, same in (((64, 96), True), ((65, 97), False)):
        image = torch.rand(1, 3, *size)
        assert down(image).shape == (1, 1, *size)
        assert torch.equal(up(image), down(image)) == same
