"""From torchvision: the same logits to the last bit, or a refusal with the reason."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.cli import main
from segzoo.convert import from_torchvision
from segzoo.errors import ArgumentError, ConversionError, StorageError

from ..architecture_checks import randomise_all
from ..helpers import randomise, shown

torchvision = pytest.importorskip("torchvision")

WIDTH = "classifier.1.weight"
CLASSES = ("background", "road", "sky")


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, aux_loss=True, num_classes=3
    )
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    return from_torchvision(theirs, class_names=CLASSES)


@torch.no_grad()
def test_the_logits_are_torchvision_s(theirs, ours):
    image = torch.randn(1, 3, 97, 130)
    expected = theirs(image)
    assert torch.equal(ours(image), expected["out"])
    outputs = ours.forward_heads(image)
    assert torch.equal(outputs.logits, expected["out"])
    assert torch.equal(outputs.auxiliary["encoder"], expected["aux"])


def test_what_it_says_of_itself(ours, tmp_path):
    assert isinstance(ours, segzoo.DeepLabV3)
    assert not ours.training
    assert ours.config.encoder.partition(".")[0] == "resnet50"
    assert ours.encoder.strides == (2, 4, 8, 8, 8)
    assert ours.class_names == CLASSES
    assert ours.normalization.mean == (0.485, 0.456, 0.406)
    loaded = segzoo.from_pretrained(ours.save_pretrained(tmp_path))
    assert loaded.config == ours.config
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), ours(image))


def test_files_and_the_command_line(theirs, ours, tmp_path, capsys):
    torch.save({"model": {}, "state_dict": theirs.state_dict()}, tmp_path / "deeplab.pth")
    out = tmp_path / "out"
    assert main(["convert", "torchvision", str(tmp_path / "deeplab.pth"), str(out)]) == 0
    assert "DeepLabV3 with resnet50" in capsys.readouterr().out
    loaded = segzoo.from_pretrained(out).state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(loaded[name], value), name
    with pytest.raises(StorageError):
        from_torchvision(tmp_path / "nothing.pth")


def test_without_the_auxiliary_classifier_and_with_other_bands(theirs):
    tensors = {
        name: value for name, value in theirs.state_dict().items() if "aux_classifier" not in name
    }
    tensors["backbone.conv1.weight"] = torch.randn(64, 5, 7, 7)
    model = from_torchvision(tensors)
    assert model.config.auxiliary_stride is None
    assert model.in_channels == 5


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            lambda t: {n: v for n, v in t.items() if "convs" not in n},
            {},
            "none of the tensors class",
        ),
        (lambda t: {n: v for n, v in t.items() if n != WIDTH}, {}, f"not the tensor {WIDTH}"),
        (
            lambda t: {n: v for n, v in t.items() if n != "backbone.conv1.weight"},
            {},
            "neither the tensor backbone.conv1.weight of a ResNet",
        ),
        (lambda t: {**t, "backbone.layer3.6.conv1.weight": torch.ones(1)}, {}, "with 7 blocks"),
        (lambda t: {**t, "backbone.fc.weight": torch.ones(1)}, {}, "1 that have no place"),
        (dict, {"atrous_rates": (6, 12)}, r"3 dilated branches, but atrous_rates=\(6, 12\)"),
    ],
    ids=shown,
)
def test_what_cannot_be_brought_over_is_refused(theirs, change, arguments, message):
    with pytest.raises(ConversionError, match=message):
        from_torchvision(change(theirs.state_dict()), **arguments)


def made(name, **arguments):
    torch.manual_seed(0)
    model = getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=3, **arguments
    )
    return randomise_all(model).eval()


@torch.no_grad()
def test_fcn_is_torchvision_s():
    theirs = made("fcn_resnet50", aux_loss=True)
    ours = from_torchvision(theirs.state_dict(), class_names=CLASSES)
    assert isinstance(ours, segzoo.FCN)
    image = torch.randn(1, 3, 97, 130)
    expected, outputs = theirs(image), ours.forward_heads(image)
    assert torch.equal(outputs.logits, expected["out"])
    assert torch.equal(outputs.auxiliary["encoder"], expected["aux"])
    with pytest.raises(ConversionError, match="is of fcn, which has no atrous_rates"):
        from_torchvision(theirs, atrous_rates=(12, 24, 36))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("lraspp_mobilenet_v3_large", {}, "LRASPP"),
        ("deeplabv3_mobilenet_v3_large", {"aux_loss": True}, "DeepLabV3"),
    ],
)
def test_mobilenets_are_torchvision_s_but_for_rounding(name, arguments, kind, tmp_path):
    theirs = made(name, **arguments)
    ours = from_torchvision(theirs)
    assert type(ours).__name__ == kind
    assert ours.config.encoder == "tv_mobilenetv3_large"
    assert ours.encoder.strides == (2, 4, 8, 16, 16)
    for size in ((97, 130), (128, 128)):
        image = torch.randn(1, 3, *size)
        expected, outputs = theirs(image), ours.forward_heads(image)
        # A 1x1 convolution that is dilated, which changes nothing, adds up in another order.
        largest = float(expected["out"].abs().max())
        torch.testing.assert_close(outputs.logits, expected["out"], rtol=0, atol=1e-6 * largest)
        if "aux" in expected:
            assert torch.equal(outputs.auxiliary["encoder"], expected["aux"])
    if kind == "LRASPP":
        loaded = segzoo.from_pretrained(ours.save_pretrained(tmp_path))
        assert torch.equal(loaded(image), ours(image))


def test_another_mobilenet_is_refused():
    tensors = made("lraspp_mobilenet_v3_large").state_dict()
    tensors = {n: v for n, v in tensors.items() if not n.startswith("backbone.16.")}
    with pytest.raises(ConversionError, match=r"backbone\.16\.0\.weight of a MobileNetV3"):
        from_torchvision(tensors)


def test_wrong_names_are_refused(theirs):
    with pytest.raises(ArgumentError, match="class_names has 2 names for classes=3"):
        from_torchvision(theirs, class_names=CLASSES[:2])


@pytest.mark.parametrize(
    ("rates", "message"),
    [(12, "atrous_rates must be a sequence, got 12"), ((6, 0, 18), r"atrous_rates\[1\] must be")],
    ids=str,
)
def test_rates_that_are_none_are_refused_before_anything_is_opened(rates, message):
    with pytest.raises(ArgumentError, match=message):
        from_torchvision("nothing.pth", atrous_rates=rates)
