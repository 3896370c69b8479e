"""One small model of each of timm's modules; benchmarks/encoders/coverage.py takes every architecture."""

from __future__ import annotations

import pytest
import timm
import torch

import segzoo
from benchmarks.encoders.families import smallest
from segzoo.encoders import build_on_meta
from segzoo.encoders.own_weights import classifier_keys
from segzoo.encoders.timm_meta import meta_backbone
from segzoo.errors import ArgumentError

#: Encoders with more weights than this are too slow to train and save here.
MOST_PARAMETERS = 100_000_000
#: Odd sides, and small enough to be quick.
SIZE = (65, 97)
#: Larger than most backbones were made for.
LARGE = (225, 257)

families = pytest.mark.parametrize("module", timm.list_modules())


def smallest_up_to_the_limit(module: str) -> str:
    name = smallest(module)
    parameters = sum(weight.numel() for weight in meta_backbone(name, {}).parameters())
    if parameters > MOST_PARAMETERS:
        pytest.skip(
            f"{name}, the smallest of {module}, has {parameters:,} parameters, too many to train "
            "here; benchmarks.encoders.coverage --real does"
        )
    return name


@families
@pytest.mark.filterwarnings("ignore:.* images only, so others are resized:UserWarning")
def test_real_tensors_through_training_saving_and_loading(module, tmp_path):
    name = smallest_up_to_the_limit(module)
    torch.manual_seed(0)
    model = segzoo.Unet(name, classes=3)
    image, mask = torch.rand(2, 3, *SIZE), torch.randint(3, (2, *SIZE))

    torch.nn.functional.cross_entropy(model.train()(image), mask).backward()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    assert any(key.startswith("encoder.") and g is not None for key, g in gradients.items())
    for key, gradient in gradients.items():
        if not key.startswith("encoder."):
            assert gradient is not None, key
            assert gradient.isfinite().all(), key
            assert gradient.any(), key
    del gradients
    model.zero_grad()

    with torch.inference_mode():
        logits = model.eval()(image)
        assert logits.shape == (2, 3, *SIZE)
        assert logits.isfinite().all()
        model.save_pretrained(tmp_path)
        assert torch.equal(segzoo.from_pretrained(tmp_path)(image), logits)
        # Sizes above a backbone's own reach what is out of bounds in its tables of positions.
        if model.encoder.size_rule.fixed is None:
            assert model(torch.rand(1, 3, *LARGE)).isfinite().all()


@families
@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_any_number_of_bands(module):
    name = smallest_up_to_the_limit(module)
    for bands in (1, 13):
        try:
            encoder = build_on_meta(lambda n=bands: segzoo.create_encoder(name, in_channels=n))
        except ArgumentError:
            backbone = meta_backbone(name, {"in_chans": bands})
            with pytest.raises(RuntimeError):  # of timm's own
                backbone(torch.empty(1, bands, 256, 256, device="meta"))
            continue
        image = encoder.size_rule.fit(torch.empty(2, bands, *SIZE, device="meta"))
        assert [item.shape[1] for item in encoder.eval()(image)] == list(encoder.channels)


@families
def test_whole_checkpoints_fit_when_the_classifier_is_left_out(module):
    name = smallest(module)
    whole = build_on_meta(lambda: timm.create_model(name)).state_dict()
    rest = build_on_meta(lambda: timm.create_model(name, num_classes=0)).state_dict()
    assert whole.keys() - classifier_keys(name) == rest.keys()
