"""Averages over bins: torch's own to the bit, and the same in a graph for every size."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch.export import Dim

from segzoo.nn.bin_pool import AdaptiveBins
from segzoo.nn.pyramid_pooling import BINS

#: Divided by the bins, not divided, and smaller than them.
SIZES = ((12, 18), (7, 13), (65, 97), (2, 5), (3, 4))


@pytest.mark.parametrize("bins", [*BINS, 5])
def test_a_graph_for_every_size_gives_torch_s_averages(bins):
    layer = AdaptiveBins(bins)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    graphs = [layer, fx.symbolic_trace(layer)]
    for graph in list(graphs):
        program = torch.export.export(graph, (torch.rand(2, 4, 24, 36),), dynamic_shapes=(sizes,))
        # What runtimes cannot do at another size; one bin is a mean by any name.
        assert bins == 1 or "adaptive" not in str(program.graph)
        graphs.append(program.module())
    for size in SIZES:
        x = torch.rand(3, 4, *size)
        expected = torch.nn.functional.adaptive_avg_pool2d(x, bins)
        for graph in graphs[:2]:
            assert torch.equal(graph(x), expected), size
        for graph in graphs[2:]:
            torch.testing.assert_close(graph(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_map_is_kept(dtype):
    layer, x = AdaptiveBins(3), torch.rand(1, 2, 8, 10, dtype=dtype)
    program = torch.export.export(layer, (x,))
    tolerance = 1e-12 if dtype is torch.float64 else 1e-2
    torch.testing.assert_close(program.module()(x), layer(x), rtol=tolerance, atol=tolerance)
