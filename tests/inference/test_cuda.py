"""An optimised model on each device of this machine: on every GPU, and on the CPU like them."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import segzoo

from ..helpers import randomise

DEVICES = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
#: On the CPU a small encoder says the same; the reference is what a GPU's kernels are made for.
ENCODER = {"cpu": "resnet10t"}


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def model(device):
    torch.manual_seed(0)
    name = ENCODER.get(device, "resnet34")
    model = segzoo.Unet(name, classes=3, depth=3 if device == "cpu" else 5)
    randomise(model)
    return model.to(device).eval()


@pytest.fixture(scope="module")
def exact(model):
    return copy.deepcopy(model).double()


@pytest.fixture(scope="module")
def fast(model, device):
    """As the documentation says, under the process's own settings: on a GPU they allow TF32."""
    return segzoo.optimize(model, example=torch.rand(2, 3, 64, 96, device=device))


def images(seed, count, height, width, device):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=generator).to(device)


def check(fast, exact, image):
    """To what TF32 leaves of float32 where it is allowed: it rounds factors to 2**-11."""
    logits = fast(image)
    wanted = torch.cat([exact(one.double()[None]) for one in image])
    assert logits.device == image.device
    gap = float((logits.double() - wanted).abs().max() / wanted.abs().max())
    assert gap < (1e-4 if image.device.type == "cpu" else 2e-2)


@torch.no_grad()
@pytest.mark.parametrize(
    "shape",
    [(2, 64, 96), (1, 64, 96), (2, 65, 97), (3, 31, 200)],
    ids=["as recorded", "the last, partial batch", "odd sides", "another shape"],
)
def test_every_image_gets_its_own_logits(fast, exact, device, shape):
    for seed in range(2):
        check(fast, exact, images(seed, *shape, device))


def test_threads_do_not_mix_their_images(fast, exact, device):
    @torch.no_grad()
    def work(seed):
        check(fast, exact, images(seed, 2, 64, 96, device))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precisions(device, model, dtype):
    image = images(0, 2, 64, 96, device)
    fast = segzoo.optimize(model, dtype=dtype, example=image)
    with torch.no_grad():
        plain = copy.deepcopy(model).to(dtype)(image.to(dtype)).float()
    assert fast(image).dtype is dtype
    assert (fast(image).float() - plain).abs().max() < 0.1 * plain.abs().max()
