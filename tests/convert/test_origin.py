"""A checkpoint of another library, or of another architecture, is told what it looks like."""

from __future__ import annotations

import pytest
import torch

import segzoo
from segzoo.convert import from_smp, from_torchvision, from_transformers
from segzoo.errors import ConversionError

from ..architecture_checks import smp_model


def tensors(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1) for name in names}


SMP = tensors("encoder.conv1.weight", "segmentation_head.0.weight")
TORCHVISION = tensors("backbone.conv1.weight", "classifier.4.weight")
SEGFORMER = tensors("segformer.encoder.a", "decode_head.classifier.weight")


@pytest.mark.parametrize(
    ("convert", "given", "right"),
    [
        (from_torchvision, SMP, "from_smp"),
        (from_transformers, SMP, "from_smp"),
        (from_smp, TORCHVISION, "from_torchvision"),
        (from_transformers, TORCHVISION, "from_torchvision"),
        (from_smp, SEGFORMER, "from_transformers"),
        (from_torchvision, SEGFORMER, "from_transformers"),
        (from_smp, tensors("dpt.a", "neck.b"), "from_transformers"),
        (from_smp, tensors("query.weight", "upscale_block.a"), "from_transformers"),
    ],
)
def test_the_converter_of_the_right_library_is_named(convert, given, right):
    with pytest.raises(ConversionError, match=rf"looks like .* segzoo\.convert\.{right}\."):
        convert(given)


def test_a_model_of_segzoo_is_recognised():
    own = segzoo.Unet("test_resnet").state_dict()
    for convert in (from_smp, from_torchvision, from_transformers):
        with pytest.raises(ConversionError, match=r"segzoo\.from_pretrained opens its folder"):
            convert(own)


def test_nothing_is_said_of_what_is_not_known():
    with pytest.raises(ConversionError) as caught:
        from_torchvision(tensors("a.b"))
    assert "looks like" not in str(caught.value)


@pytest.mark.parametrize(("kind", "said"), [("FPN", "Unet"), ("DPT", "Segformer")])
def test_tensors_of_another_architecture_than_the_config_says(kind, said):
    encoder = "tu-test_vit" if kind == "DPT" else "tu-test_resnet"
    source = smp_model(kind, encoder).state_dict()
    message = rf"says that it is a {said}, its tensors are those of smp's {kind}"
    with pytest.raises(ConversionError, match=message):
        from_smp(source, {"encoder_name": encoder, "_model_class": said})
