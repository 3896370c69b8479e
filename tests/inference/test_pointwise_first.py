"""1x1 convolutions before resizes: where they are moved, and that nothing else changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import segzoo
from segzoo.inference.optimize.fold_batchnorm import fold_batchnorm
from segzoo.inference.optimize.pointwise_first import pointwise_first
from segzoo.inference.optimize.trace import trace, trace_module
from segzoo.timing import largest_difference
from tests.architecture_checks import Maps
from tests.helpers import ready

PYRAMID = (2, 4, 8, 16)


@torch.no_grad()
@pytest.mark.parametrize(
    ("build", "moved"),
    [
        (lambda: segzoo.Segformer(Maps(*PYRAMID), classes=3, decoder_channels=16), 1),
        (lambda: segzoo.Segformer(Maps(4, 8), decoder_channels=16, norm="none"), 1),
        (lambda: segzoo.FPN(Maps(*PYRAMID), decoder_channels=32, pyramid_channels=8), 1),
        (lambda: segzoo.FPN(Maps(*PYRAMID), decoder_channels=32, merge="cat"), 1),
        (lambda: segzoo.DPT(Maps(16, 16, 16), decoder_channels=8), 3),
        # A branch is narrower than what its convolution gives: resizing that would take longer.
        (lambda: segzoo.PSPNet(Maps(8), decoder_channels=32), 0),
    ],
    ids=["segformer", "norm none", "fpn", "fpn cat", "dpt", "pspnet"],
)
def test_decoders(build, moved):
    torch.manual_seed(0)
    model = ready(build()).double()
    image = torch.randn(1, 3, 64, 96).double()
    body = trace(model, image)
    fold_batchnorm(body.decode)
    cells = _multiplications(body.decode, body.encoder(image), image)
    assert pointwise_first(body.decode, body.encoder(image), image) == moved
    fewer = _multiplications(body.decode, body.encoder(image), image)
    if "FPN" in type(model).__name__:  # it has a few more, but resizes and adds up logits only
        assert fewer < 1.05 * cells
    else:
        assert fewer < cells if moved else fewer == cells
    for size in ((64, 96), (97, 50), (9, 200)):
        image = torch.randn(2, 3, *size).double()
        assert largest_difference(body(image), model(image)) < 1e-13


def _multiplications(graph, maps, image):
    """Of all convolutions and linear layers."""
    count = 0

    def add(module, _, out):
        nonlocal count
        cells = out[:, :1].numel() if out.ndim == 4 else out[..., 0].numel()
        count += module.weight.numel() * cells

    hooks = [
        item.register_forward_hook(add)
        for item in graph.modules()
        if isinstance(item, (nn.Conv2d, nn.Linear))
    ]
    graph(maps, image)
    for hook in hooks:
        hook.remove()
    return count


class Decoder(nn.Module):
    """Convolutions around a resize, as a function says."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.before = nn.Conv2d(4, 6, 1)
        self.conv = nn.Conv2d(6, 3, 1)
        self.joined = nn.Conv2d(10, 3, 1)
        self.strided = nn.Conv2d(6, 3, 1, stride=2)
        self.wide = nn.Conv2d(6, 12, 1)

    def forward(self, maps, image):
        return self.run(self, maps[0], image)


def enlarge(x, mode="bilinear", times=2):
    size = (x.shape[-2] * times, x.shape[-1] * times)
    corners = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
    return F.interpolate(x, size, mode=mode, **corners)


def twice(m, x, _):
    large = enlarge(m.before(x))
    return m.conv(large) + large.mean()


@torch.no_grad()
@pytest.mark.parametrize(
    ("run", "moved"),
    [
        (lambda m, x, _: m.conv(enlarge(m.before(x), "nearest-exact")), 1),
        (lambda m, x, _: m.conv(enlarge(F.relu(m.before(x)), "nearest")), 1),
        (lambda m, x, _: m.joined(torch.cat([enlarge(m.before(x)), enlarge(x)], 1)), 1),
        (lambda m, x, _: m.joined(torch.cat([m.before(x), x], dim=1)), 0),  # nothing is enlarged
        (lambda m, x, _: m.conv(enlarge(enlarge(m.before(x)), "nearest", 3)), 1),
        (lambda m, x, image: m.conv(F.interpolate(m.before(x), image.shape[-2:])), 1),
        (lambda m, x, _: m.conv(F.relu(enlarge(m.before(x)))), 0),
        (lambda m, x, _: m.conv(F.avg_pool2d(m.before(x), 2)), 0),
        (lambda m, x, _: m.conv(enlarge(m.before(x), "bicubic")), 0),
        (lambda m, x, _: m.strided(enlarge(m.before(x))), 0),
        (lambda m, x, _: m.wide(enlarge(m.before(x))), 0),
        (lambda m, x, _: m.conv(enlarge(m.before(x)) + 1), 0),
        (twice, 0),
    ],
)
def test_what_is_moved_and_what_is_not(run, moved):
    torch.manual_seed(0)
    module = Decoder(run).double().eval()
    graph = trace_module(module)
    assert isinstance(graph, fx.GraphModule)
    maps, image = [torch.randn(1, 4, 5, 6).double()], torch.randn(1, 3, 10, 12).double()
    wanted = module(maps, image)
    assert pointwise_first(graph, maps, image) == moved
    assert largest_difference(graph(maps, image), wanted) < 1e-14
