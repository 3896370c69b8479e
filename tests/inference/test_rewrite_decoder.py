"""Doubled convolutions: which steps of a decoder become one, and every implementation of it."""

import pytest
import torch
from torch import fx, nn

import segzoo
from segzoo._compat import fuses_on_cpu
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fold_batchnorm import fold_batchnorm
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from segzoo.inference.optimize.rewrite_decoder import rewrite_decoder
from segzoo.inference.optimize.trace import trace, trace_module
from segzoo.inference.optimize.winograd import WINOGRAD
from segzoo.timing import largest_difference
from tests.architecture_checks import Maps
from tests.helpers import ready, tiny_unet


def decoder_of(**options):
    torch.manual_seed(0)
    model = ready(tiny_unet(**options)).double()
    image = torch.randn(1, 3, 32, 32).double()
    body = trace(model, image)
    assert isinstance(body.decode, fx.GraphModule)
    fold_batchnorm(body.decode)
    return model, body, image


@pytest.mark.parametrize("interpolation", ["nearest", "nearest-exact", "area"])
def test_every_way_of_a_rewritten_block_is_equal(interpolation):
    model, body, image = decoder_of(interpolation=interpolation)
    count = rewrite_decoder(body.decode, body.encoder(image), image)
    blocks = [item for item in body.modules() if isinstance(item, DoubledConv)]
    assert count == len(blocks) == len(model.decoder.blocks)
    assert [block.choices(image) for block in blocks] == [
        ["plain", "split", "transposed"],
        ["plain", "transposed"],
    ]
    for size in ((32, 32), (31, 18)):
        image = torch.randn(2, 3, *size).double()
        wanted = model(image)
        for name in ("plain", "split", "transposed"):
            for block in blocks:
                block.use(name if name in block.choices(image) else "plain", image)
            assert largest_difference(body(image), wanted) < 1e-13


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["test_convnext", "test_mambaout"])
def test_a_graph_does_not_copy_maps_that_lie_channels_last(encoder):
    model, image = ready(segzoo.Unet(encoder, classes=2)), torch.randn(1, 3, 64, 64)
    body = trace(model, image)
    maps = body.encoder(image)
    assert not any(item.is_contiguous() for item in maps)
    assert rewrite_decoder(body.decode, maps, image) == len(model.decoder.blocks)


@pytest.mark.parametrize("options", [{"interpolation": "bilinear"}, {"attention": "scse"}])
def test_a_decoder_for_which_the_algebra_does_not_hold_stays(options):
    model, body, image = decoder_of(**options)
    count = rewrite_decoder(body.decode, body.encoder(image), image)
    assert count == (0 if "interpolation" in options else 1)  # the last has no attention before it
    assert largest_difference(body(image), model(image)) < 1e-13


@pytest.mark.parametrize(
    ("architecture", "options", "count"),
    [
        # Three nodes, the last of which joins three maps.
        (segzoo.UnetPlusPlus, {}, 3),
        (segzoo.UnetPlusPlus, {"interpolation": "area"}, 3),
        (segzoo.UnetPlusPlus, {"attention": "scse"}, 0),
        # Each resized map is multiplied by a gate that is made of it.
        (segzoo.MAnet, {}, 2),
        (segzoo.MAnet, {"interpolation": "bilinear"}, 0),
    ],
    ids=str,
)
def test_several_maps_and_a_gate_are_rewritten_too(architecture, options, count):
    torch.manual_seed(0)
    model = ready(architecture(Maps(1, 2, 4), decoder_channels=(8, 4), **options)).double()
    image = torch.randn(1, 3, 33, 50).double()
    body = trace(model, image)
    fold_batchnorm(body.decode)
    assert rewrite_decoder(body.decode, body.encoder(image), image) == count
    blocks = [item for item in body.modules() if isinstance(item, DoubledConv)]
    assert len(blocks) == count
    for size in ((32, 48), (33, 50)):
        image = torch.randn(2, 3, *size).double()
        for name in ("plain", "split", "transposed"):
            for block in blocks:
                block.use(name, image)
            assert largest_difference(body(image), model(image)) < 1e-13


class KernelOnCpu:
    """In the place of the Triton kernel, which takes two maps, none of them too large."""

    def __init__(self, conv, most):
        self.block, self.most = DoubledConv(conv, 128), most

    def why_not(self, x, skip, size):
        return "it is too large" if x.numel() > self.most else None

    def __call__(self, x, skip):
        assert self.why_not(x, skip, (8, 12)) is None
        return self.block(x, skip, (8, 12))


@pytest.mark.parametrize(
    "implementation", ["plain", "split", "transposed", *WINOGRAD, "triton", "too large for triton"]
)
def test_implementations_that_know_one_skip_get_the_others_with_it(implementation):
    torch.manual_seed(0)
    x, *beside = (torch.randn(2, channels, 8, 12) for channels in (128, 16, 48, 64))
    x = x[..., :4, :6].contiguous()
    conv = FusedConv(torch.randn(128, 256, 3, 3), torch.randn(128), Geometry(), act="relu")
    block = DoubledConv(conv, 128)
    wanted = conv(torch.cat([nn.functional.interpolate(x, (8, 12)), *beside], dim=1))
    if "triton" in implementation:
        most = x.numel() if implementation == "triton" else 1
        block.implementation, block._triton = "triton", (KernelOnCpu(conv, most),)
    elif implementation in WINOGRAD and not fuses_on_cpu():
        pytest.skip(f"torch {torch.__version__} has no oneDNN here, which both forms multiply with")
    else:
        assert implementation in block.choices(x)
        block.use(implementation, x)
    assert largest_difference(block(x, beside[0], (8, 12), *beside[1:]), wanted) < 1e-5


class Resized(nn.Module):
    """A map that is resized and joined in ways that are no doubled convolution."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, maps, image):
        size = (image.shape[-2], image.shape[-1])
        x = nn.functional.interpolate(maps[0], size=size, mode="nearest")
        return self.conv(self.join(x, image))


@pytest.mark.parametrize(
    ("channels", "join", "count"),
    [
        (1, lambda x, image: torch.cat([x, image], dim=1), 1),
        (1, lambda x, image: torch.cat([x * image.mean((2, 3), keepdim=True)[:, :1], image], 1), 1),
        # One channel times three.
        (1, lambda x, image: torch.cat([image[:, :1], x * image], 1), 0),
        (1, lambda x, image: torch.cat([image.amax((2, 3), keepdim=True) * x, image[:, :1]], 1), 1),
        (1, lambda x, image: torch.cat([x * image, x], 1), 0),
        (1, lambda x, image: torch.cat([image, x], 1), 0),
        (1, lambda x, image: torch.cat([x, image], 1) * 2, 0),
        (4, lambda x, image: torch.cat([x, x], 2)[:, :, : image.shape[-2]], 0),
        (4, lambda x, image: x * image[:, :1, :1, :1], 1),
        (4, lambda x, image: x * image.shape[-1], 0),
    ],
)
def test_only_what_is_a_doubled_convolution_is_rewritten(channels, join, count):
    module = Resized(join).double().eval()
    graph = trace_module(module)
    assert isinstance(graph, fx.GraphModule)
    maps, image = [torch.randn(1, channels, 5, 4).double()], torch.randn(1, 3, 9, 8).double()
    assert rewrite_decoder(graph, maps, image) == count
    image = torch.randn(1, 3, 10, 8).double()
    assert largest_difference(graph(maps, image), module(maps, image)) < 1e-13
