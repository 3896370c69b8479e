"""Models that several files of this room look at."""

import pytest
import torch

from tests.helpers import ready, tiny_unet


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return ready(tiny_unet())


@pytest.fixture(scope="module")
def double():
    torch.manual_seed(0)
    return ready(tiny_unet()).double()
