"""Levels of a pyramid joined with the one convolution that uses them."""

import pytest
import torch
from torch import nn

import segzoo
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fold_batchnorm import fold_batchnorm
from segzoo.inference.optimize.join_laterals import join_laterals
from segzoo.inference.optimize.rewrite_decoder import rewrite_decoder
from segzoo.inference.optimize.trace import trace, trace_module
from segzoo.nn.layers import resize
from segzoo.timing import largest_difference
from tests.architecture_checks import Maps
from tests.helpers import ready


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"interpolation": "nearest-exact", "merge": "cat"}, 1),
        ({"interpolation": "bilinear"}, 0),
        ({"pyramid_channels": 8}, 0),  # the encoder's map is nearly as wide as the level
    ],
    ids=str,
)
def test_the_finest_level_of_a_pyramid(options, count):
    torch.manual_seed(0)
    encoder = Maps(4, 8, 16)
    options = {"pyramid_channels": 16, "decoder_channels": 32, **options}
    model = ready(segzoo.FPN(encoder, **options)).double()
    image = torch.randn(1, 3, 64, 96).double()
    body = trace(model, image)
    fold_batchnorm(body.decode)
    assert join_laterals(body.decode, body.encoder(image), image) == count
    assert rewrite_decoder(body.decode, body.encoder(image), image) == count
    for block in body.modules():
        if isinstance(block, DoubledConv):
            block.use("transposed", image)
    for size in ((64, 96), (97, 50), (12, 12)):
        image = torch.randn(2, 3, *size).double()
        assert largest_difference(body(image), model(image)) < 1e-13


class Decoder(nn.Module):
    """A level of a pyramid and what uses it, as a function says."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.lateral = nn.Conv2d(2, 8, 1)
        self.bare = nn.Conv2d(2, 8, 1, bias=False)
        self.conv = nn.Conv2d(8, 3, 3, padding=1, bias=False)
        self.unpadded = nn.Conv2d(8, 3, 3)

    def forward(self, maps, image):
        return self.run(self, maps[1], maps[0])


def up(x, skip):
    return resize(x, (skip.shape[-2], skip.shape[-1]), mode="nearest")


def used_twice(m, x, y):
    level = up(x, y) + m.lateral(y)
    return m.conv(level) + level.mean()


@torch.no_grad()
@pytest.mark.parametrize(
    ("run", "count"),
    [
        (lambda m, x, y: m.conv(m.bare(y) + up(x, y)), 1),
        (lambda m, x, y: m.conv(up(x, y) + torch.relu(m.lateral(y))), 0),
        (lambda m, x, y: m.conv(up(x, y) + y.mean()), 0),
        (lambda m, x, y: m.unpadded(up(x, y) + m.lateral(y)), 0),
        (used_twice, 0),
    ],
)
def test_what_is_joined_and_what_is_not(run, count):
    torch.manual_seed(0)
    module = Decoder(run).double().eval()
    graph = trace_module(module)
    maps = [torch.randn(1, 2, 10, 6).double(), torch.randn(1, 8, 5, 3).double()]
    wanted = module(maps, maps[0])
    assert join_laterals(graph, maps, maps[0]) == count
    assert largest_difference(graph(maps, maps[0]), wanted) < 1e-14
