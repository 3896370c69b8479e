"""What has become of a device."""

import pytest
import torch

from segzoo.devices import device_of, is_lost


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA out of memory. Tried to allocate 2.00 MiB.", False),
        (None, False),
    ],
)
def test_a_gpu_is_lost_where_the_smallest_computation_fails(said, lost, monkeypatch):
    def ones(*_, device):
        assert device == torch.device("cuda:1")
        if said is not None:
            raise RuntimeError(said)
        return torch.tensor(1.0)

    monkeypatch.setattr(torch, "ones", ones)
    assert is_lost(torch.device("cuda:1")) is lost
    assert not is_lost(torch.device("cpu"))


def test_where_a_model_computes():
    class Told:
        device = torch.device("meta")

    assert device_of(Told()) == Told.device
    assert device_of(torch.nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(torch.nn.ReLU()) == device_of(object()) == torch.device("cpu")
