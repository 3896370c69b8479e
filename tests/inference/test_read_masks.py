"""Masks that are read in strips are those of the whole map."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segzoo.inference.optimize import read_masks as module
from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.read_masks import MaskReader, read_masks
from segzoo.inference.optimize.trace import trace_module
from segzoo.nn.layers import ChannelNorm2d


class Reader(nn.Module):
    """A map of queries' masks; with ``shared`` somebody else reads the map too."""

    def __init__(self, shared=False, equation="bqc, bchw -> bqhw", **options):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, **{"kernel_size": 3, "padding": 1, **options})
        self.norm = ChannelNorm2d(8)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.shared, self.equation = shared, equation

    def forward(self, x, queries):
        cells = self.norm(self.conv(x))
        masks = torch.einsum(self.equation, queries, cells)
        return masks + cells.mean() if self.shared else masks


def graph_of(model):
    graph = trace_module(model.double().eval())
    fuse_epilogues(graph)
    return graph, read_masks(graph)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 8, "bias": False},
        {"kernel_size": (7, 1), "padding": (3, 0)},
        {"padding": 3, "dilation": 3},
        {"kernel_size": 1, "padding": 0},
    ],
    ids=["depthwise", "tall", "dilated", "pointwise"],
)
@torch.no_grad()
def test_strips_are_those_of_the_map(options, monkeypatch):
    torch.manual_seed(0)
    model = Reader(**options)
    graph, count = graph_of(model)
    assert count == 1
    strips = []
    strip = MaskReader._strip
    monkeypatch.setattr(
        MaskReader, "_strip", lambda self, *rest: strips.append(rest[1:]) or strip(self, *rest)
    )
    monkeypatch.setattr(module, "_AT_A_TIME", 5 * 8 * 9)  # five rows of nine columns
    for height in (1, 4, 13):
        x, queries = torch.randn(2, 8, height, 9).double(), torch.randn(2, 6, 8).double()
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            strips.clear()
            out = graph(image, queries)
            torch.testing.assert_close(out, model(image, queries), rtol=1e-12, atol=1e-12)
            assert strips == ([(0, 5), (5, 5), (10, 3)] * 2 if height == 13 else [])


@pytest.mark.parametrize(
    "options",
    [
        {"shared": True},
        {"equation": "bqc, bchw -> bqwh"},
        {"stride": 2},
        {"padding": 0},
        {"padding_mode": "reflect"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_alike_stays(options):
    assert graph_of(Reader(**options))[1] == 0


def test_normalisations_that_it_does_not_know_stay():
    class Other(Reader):
        def forward(self, x, queries):
            cells = self.conv(x).permute(0, 2, 3, 1)
            cells = F.layer_norm(cells, (8,), self.norm.weight * 2, None, 1e-6)
            return torch.einsum("bqc, bchw -> bqhw", queries, cells.permute(0, 3, 1, 2))

    assert graph_of(Other())[1] == 0
