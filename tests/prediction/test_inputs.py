"""What goes into models in another precision, and what comes out: ordinary tensors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segzoo
from segzoo.errors import InputError
from segzoo.prediction.pixel_model import pixel_model
from tests.helpers import TinyBackbone, tiny_unet

IMAGE = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return tiny_unet().eval()


@pytest.fixture(scope="module")
def fast(tiny):
    return segzoo.optimize(tiny, backend="eager", example=IMAGE)


# ---- the same picture, the same mask --------------------------------------------------------


@pytest.mark.parametrize("picture", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_real_numbers_are_rounded_once(dtype, picture):
    """After they are normalised, whatever asks for the mask: tiles, probabilities, a server."""
    torch.manual_seed(0)
    normalization = segzoo.Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = tiny_unet(normalization=normalization).eval().to(dtype)
    image = torch.rand(3, 96, 128).to(picture)
    ready = normalization(image if picture is torch.float64 else image.float()).to(dtype)
    mask = model(ready[None]).argmax(1)[0]
    assert torch.equal(model.predict(image), mask)
    assert torch.equal(torch.from_numpy(segzoo.predict_tiled(model, image).values), mask.byte())
    with pixel_model(model) as same:
        assert torch.equal(same.normalized(image), ready)


# ---- ordinary tensors -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tiny", "fast"])
def test_masks_can_be_written_to(kind, request):
    mask = request.getfixturevalue(kind).predict(IMAGE)
    mask[mask == 2] = 255
    assert not mask.is_inference()
    assert 2 not in mask


def test_logits_of_an_optimised_model_can_be_changed(fast):
    logits = fast(IMAGE)
    logits += 1
    torch.testing.assert_close(logits, fast(IMAGE) + 1)
    assert not logits.requires_grad


@pytest.mark.parametrize("kind", ["tiny", "fast"])
def test_a_teacher_for_training(tiny, kind, request):
    teacher, student = request.getfixturevalue(kind), copy.deepcopy(tiny).train()
    F.cross_entropy(student(IMAGE), teacher.predict(IMAGE)).backward()
    if kind == "fast":
        (student(IMAGE) * teacher(IMAGE)).mean().backward()
    assert student.head.conv.weight.grad.abs().sum() > 0


def tensors_of(value):
    """All tensors that something keeps, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, nn.Module) or type(value).__module__.startswith("segzoo."):
        yield from tensors_of(getattr(value, "__dict__", None))


@torch.inference_mode()
def test_what_is_made_in_inference_mode_is_ordinary():
    model = tiny_unet(decoder_channels=(128, 128)).eval()
    with torch.inference_mode(False):
        outside = copy.deepcopy(model)
    for source in (model, outside):
        fast = segzoo.optimize(source, example=torch.rand(1, 3, 32, 32))
        kept = list(tensors_of(fast))
        assert len(kept) > 20
        assert not any(tensor.is_inference() for tensor in kept)
        assert fast(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


# ---- precision ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["tiny", "vit_tiny_patch16_224"])
@pytest.mark.parametrize(
    ("weights", "image"),
    [("float32", "float64"), ("float16", "float32"), ("bfloat16", "float16")],
)
def test_an_image_of_another_precision(kind, weights, image, training):
    model = tiny_unet() if kind == "tiny" else segzoo.Unet(kind, classes=2, depth=1)
    model = model.to(getattr(torch, weights)).train(training)
    with pytest.raises(InputError, match=f"image is torch.{image}.*weights are torch.{weights}"):
        model(torch.rand(2, 3, 32, 32, dtype=getattr(torch, image)))


@torch.no_grad()
def test_autocast_takes_images_of_other_precisions(tiny):
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert tiny(IMAGE.to(dtype)).shape == (2, 3, 32, 48)
        with pytest.raises(InputError, match=r"image is torch\.float64"):  # of which it keeps off
            tiny(IMAGE.double())


class Converts(TinyBackbone):
    """Brings its images to its own precision."""

    def forward(self, image):
        return super().forward(image.to(self.fine[0].weight.dtype))


@torch.no_grad()
def test_an_encoder_may_convert_its_images():
    model = segzoo.Unet(Converts(), classes=3).eval()
    torch.testing.assert_close(model(IMAGE.double()), model(IMAGE))


class Fails(TinyBackbone):
    def forward(self, image):
        raise RuntimeError("of its own")


def test_other_errors_stay_what_they_are():
    model = tiny_unet()
    model.encoder.backbone = Fails()
    for image in (IMAGE, IMAGE.double()):
        with pytest.raises(RuntimeError, match="of its own"):
            model(image)


def test_optimised_models_and_predictions_take_any_precision(tiny, fast):
    mask = tiny.predict(IMAGE)
    for dtype in (torch.float64, torch.float32):
        torch.testing.assert_close(fast(IMAGE.to(dtype)), fast(IMAGE))
        assert torch.equal(tiny.predict(IMAGE.to(dtype)), mask)
    assert fast(IMAGE.half()).dtype is torch.float32
