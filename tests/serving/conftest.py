"""One server for all tests that only ask it."""

import pytest
import torch

from ..helpers import ready, tiny_unet
from .serving import running


@pytest.fixture(scope="session")
def tiny():
    """A model of three classes that differ from pixel to pixel."""
    torch.manual_seed(0)
    return ready(tiny_unet(class_names=("sky", "road", "car")))


@pytest.fixture(scope="session")
def server(tiny):
    """That model's server, with small limits: 200 kB, 1 megapixel."""
    with running(tiny, max_bytes=200_000, max_pixels=1_000_000) as found:
        yield found
