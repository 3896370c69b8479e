"""An optimised model gives what its source gives, and leaves it alone."""

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from timm.layers import BatchNormAct2d, StdConv2d
from torch import fx, nn

import segzoo
from segzoo import _compat
from segzoo._compat import hooks_of
from segzoo.errors import ArgumentError, InputError, OptimizationError, UnknownNameError
from segzoo.inference.optimize import autotune, optimize
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fold_batchnorm import fold_batchnorm
from segzoo.inference.optimize.fuse_epilogues import fuse_epilogues
from segzoo.inference.optimize.fused_conv import FusedConv
from segzoo.inference.optimize.trace import trace, trace_module
from segzoo.timing import largest_difference
from tests.helpers import (
    assert_near,
    ready,
    reference,
    tiny_unet,
)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return ready(tiny_unet())


def gap(fast, model, *size, batch=1):
    image = torch.randn(batch, model.in_channels, *size, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        return largest_difference(fast(image), model(image))


def test_the_reference_model_at_every_size():
    model = reference()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = segzoo.optimize(model, example=torch.randn(1, 3, 64, 96))
    for size in ((64, 96), (65, 97), (33, 200), (1, 1)):
        assert gap(fast, model, *size) < 1e-5
    assert gap(fast, model, 64, 96, batch=3) < 1e-5
    applied = {item.name for item in fast.passes if item.applied}
    assert {"fold batch norm", "rewrite decoder", "fuse epilogues"} <= applied
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


#: A Swin transformer with a windowed and a shifted block in each stage.
NARROW = {"embed_dim": 24, "depths": (2, 2, 2, 2)}


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("mobilenetv3_small_050", {}),
        ("test_convnext", {}),
        ("swin_tiny_patch4_window7_224", {"in_channels": 2, "encoder_options": NARROW}),
        ("test_vit", {"depth": 2}),
        ("dla46x_c", {"interpolation": "bilinear"}),
        ("test_resnet", {"attention": "scse", "norm": "group", "rounding": "down"}),
        ("vgg11_bn", {"center": True, "depth": 3}),
    ],
)
def test_other_encoders_and_options(encoder, options):
    torch.manual_seed(0)
    model = ready(segzoo.Unet(encoder, classes=2, **options))
    fast = segzoo.optimize(
        model, backend="eager", example=torch.randn(1, model.in_channels, 64, 64)
    )
    assert gap(fast, model, 64, 64) < 1e-5
    assert gap(fast, model, 71, 50) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["xception41p", "pit_ti_224"])
def test_a_backbone_that_collects_its_maps_by_hooks_becomes_a_graph(encoder):
    model = ready(segzoo.Unet(encoder, classes=2))
    image = model.encoder.size_rule.fit(torch.rand(1, 3, 64, 96))
    expected = model(image)
    body = trace(model, image)
    assert isinstance(body.encoder.backbone, fx.GraphModule)
    assert not any(hooks for module in body.modules() for hooks in hooks_of(module))
    assert_near(body(image), expected)
    assert_near(model(image), expected)


def test_dynamic_unet():
    torch.manual_seed(0)
    model = ready(segzoo.DynamicUnet("resnet18", classes=1))
    fast = segzoo.optimize(model, backend="eager", example=torch.randn(1, 3, 64, 64))
    assert gap(fast, model, 64, 64) < 1e-5
    assert gap(fast, model, 57, 70) < 1e-5
    pictures = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    agree = (fast.predict(pictures) == model.predict(pictures)).float().mean()
    assert agree > 0.999


def test_branches_of_a_backbone_are_merged():
    torch.manual_seed(0)
    model = ready(segzoo.Unet("fastvit_t8", classes=1))
    fast = segzoo.optimize(model, backend="eager", example=torch.randn(1, 3, 64, 64))
    (merged,) = [item for item in fast.passes if item.name == "merge branches"]
    assert merged.applied
    assert gap(fast, model, 64, 64) < 1e-5


def test_maps_plane_by_plane(tiny):
    fast = segzoo.optimize(tiny, channels_last=False, example=torch.randn(1, 3, 32, 32))
    (report,) = [item for item in fast.passes if item.name == "channels last"]
    assert not report.applied
    assert "plane by plane" in report.detail
    assert gap(fast, tiny, 32, 32) < 1e-5
    assert gap(fast, tiny, 19, 33) < 1e-5


def test_double_precision(tiny):
    model = copy.deepcopy(tiny).double()
    fast = segzoo.optimize(model, example=torch.randn(1, 3, 32, 32).double())
    assert gap(fast, model, 32, 32) < 1e-12
    assert gap(fast, model, 31, 19) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_a_plain_cast(dtype):
    torch.manual_seed(0)
    model = ready(segzoo.Unet("test_resnet", classes=3, decoder_channels=(64, 32, 32, 16, 16)))
    image = torch.randn(2, 3, 64, 64)
    fast = segzoo.optimize(model, dtype=dtype, example=image, backend="eager")
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double())
        cast = copy.deepcopy(model).to(dtype)(image.to(dtype))
    logits = fast(image)
    assert logits.dtype is dtype

    def error(output):
        return (output.double() - exact).square().mean().sqrt()

    assert error(logits) <= 1.05 * error(cast)


def test_without_onednn_for_16_bits_nothing_is_rounded_twice(tiny, monkeypatch):
    """torch's own transposed convolution rounds each part of a sum, and so do two in a row."""
    monkeypatch.setattr(_compat, "_packs", lambda dtype: dtype is torch.float32)
    image = torch.randn(1, 3, 32, 32)
    for dtype, forms in ((torch.bfloat16, {"plain"}), (torch.float32, {"transposed"})):
        fast = segzoo.optimize(tiny, dtype=dtype, example=image, backend="eager")
        blocks = [item for item in fast.modules() if isinstance(item, DoubledConv)]
        assert {block.implementation for block in blocks} == forms
        kernels = {conv.kernel for conv in fast.modules() if isinstance(conv, FusedConv)}
        assert ("onednn" in kernels) == _compat.computes_on_cpu(dtype)


def test_a_named_backend_gives_the_same_model_twice(tiny):
    image = torch.randn(1, 3, 32, 48)
    first, second = (segzoo.optimize(tiny, backend="eager", example=image) for _ in range(2))
    assert first.report() == second.report()
    assert torch.equal(first(image), second(image))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_for_one_shape_and_step_by_step_for_others(tiny):
    torch.compiler.reset()
    fast = segzoo.optimize(tiny, backend="compile", example=torch.randn(1, 3, 32, 32))
    image = torch.randn(1, 3, 32, 32)
    with torch.compiler.set_stance("fail_on_recompile"):  # one graph serves all of these
        assert gap(fast, tiny, 32, 32) < 1e-5
        assert gap(fast, tiny, 17, 40) < 1e-5
        wanted = fast(image)
        with torch.inference_mode():
            torch.testing.assert_close(fast(image), wanted)
            torch.testing.assert_close(fast(image.clone()), wanted)
        with ThreadPoolExecutor(4) as pool:
            for logits in pool.map(fast, [image] * 8):
                torch.testing.assert_close(logits, wanted)
        wanted += 1


# ---- passes ---------------------------------------------------------------------------------


class Convs(nn.Module):
    """Every kind of convolution and batch norm that folding must tell apart."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(4, 6, 3, groups=2, bias=True)
        self.norm1 = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 8, 2, groups=2)
        self.norm2 = nn.BatchNorm2d(8, affine=False)
        self.standardised = StdConv2d(8, 8, 3)
        self.norm3 = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.norm4 = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.norm5 = BatchNormAct2d(4)
        self.pair = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.shared = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm2(self.up(self.norm1(self.grouped(x))))
        x = self.norm3(self.standardised(x))
        x = self.norm4(self.twice(x)) + self.twice(x)
        x = self.norm5(self.last(x))
        return self.shared(self.pair[0](x)) + self.shared(self.pair[1](x))


def test_folding_knows_what_it_may_fold():
    torch.manual_seed(0)
    module = ready(Convs()).double()
    graph = trace_module(module)
    x = torch.randn(2, 4, 9, 9).double()
    wanted = module(x)
    assert fold_batchnorm(graph) == 3
    assert largest_difference(graph(x), wanted) < 1e-13
    left = [name for name, item in graph.named_modules() if isinstance(item, nn.BatchNorm2d)]
    assert left == ["norm3", "norm4", "shared"]


class Residual(nn.Module):
    """Additions and activations in every order."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(7))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        a, b, c, d, e, f, g = self.convs
        x = self.act(a(x))
        x = torch.relu(b(x) + x)
        y = c(x)
        x = d(x)
        x += y
        x = nn.functional.silu(x)
        x = x + nn.functional.hardswish(e(x)).relu()
        z = f(x)
        return torch.add(z, x, alpha=2) + z + g(x) + 1


def test_epilogues_are_fused_where_they_are_additions_and_known_activations():
    torch.manual_seed(0)
    module = Residual().eval()
    graph = trace_module(module)
    x = torch.randn(1, 4, 8, 9)
    wanted = module(x)
    assert fuse_epilogues(graph) == 5
    fused = [item for item in graph.modules() if isinstance(item, FusedConv)]
    assert sorted((item.act, item.adds) for item in fused) == [
        *(("hardswish", False), ("none", False), ("none", False)),
        *(("none", True), ("relu", False), ("relu", True), ("swish", True)),
    ]
    assert largest_difference(graph(x), wanted) < 1e-6
    with torch.inference_mode():
        autotune.choose(graph, x, timed=False)
        assert largest_difference(graph(x), wanted) < 1e-6


class Later(nn.Module):
    """Additions to maps that are made after the convolution, and of two convolutions."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 1))

    def forward(self, x):
        a, b, c = self.convs
        y = a(x)
        y = nn.functional.avg_pool2d(x, 3, stride=1, padding=1) + y
        z = b(y)
        return torch.relu(z + c(x))


def test_an_addend_may_be_computed_later():
    torch.manual_seed(0)
    module = Later().eval()
    graph = trace_module(module)
    x = torch.randn(1, 4, 8, 9)
    wanted = module(x)
    assert fuse_epilogues(graph) == 2
    fused = [item for item in graph.modules() if isinstance(item, FusedConv)]
    found = sorted((item.weight.shape[-1], item.act, item.adds) for item in fused)
    assert found == [(1, "none", True), (1, "relu", True), (3, "none", False)]
    assert largest_difference(graph(x), wanted) < 1e-6


def test_a_pass_that_is_wrong_is_left_out(tiny, monkeypatch):
    def wrong(body):
        body.graphs()[0].fine.get_submodule("0").weight.data.mul_(1.001)
        return "something"

    monkeypatch.setattr(optimize, "fold", wrong)
    fast = segzoo.optimize(tiny, example=torch.randn(1, 3, 32, 32))
    (report,) = [item for item in fast.passes if item.name == "fold batch norm"]
    assert not report.applied
    assert "differ" in report.detail
    assert gap(fast, tiny, 32, 32) < 1e-5


def test_a_kernel_that_is_wrong_is_not_chosen(tiny, monkeypatch):
    def wrong(self, x, other):
        return FusedConv(self.weight, self.bias, self.geometry, act="relu")(x)

    monkeypatch.setattr(FusedConv, "_onednn", wrong)
    monkeypatch.setattr(autotune, "_FOUND", {})
    fast = segzoo.optimize(tiny, backend="eager", example=torch.randn(1, 3, 32, 32))
    assert gap(fast, tiny, 32, 32) < 1e-5


def test_a_kernel_that_was_right_with_other_weights_is_not_taken_unseen(tiny, monkeypatch):
    monkeypatch.setattr(autotune, "_FOUND", {})
    example = torch.randn(1, 3, 32, 32)
    segzoo.optimize(tiny, backend="eager", example=example)
    known = dict(autotune._FOUND)
    assert "onednn" in known.values()
    right = FusedConv._onednn

    def wrong(self, x, other):  # as sums that cancel out are, with some weights
        return right(self, x, other) + 1

    monkeypatch.setattr(FusedConv, "_onednn", wrong)
    fast = segzoo.optimize(tiny, backend="eager", example=example)
    assert gap(fast, tiny, 32, 32) < 1e-5
    assert known == autotune._FOUND  # for others it is right


# ---- wrong use ------------------------------------------------------------------------------


def test_models_that_cannot_be_optimised(tiny):
    with pytest.raises(ArgumentError, match=r"training mode; call model\.eval"):
        segzoo.optimize(tiny_unet())
    with pytest.raises(ArgumentError, match="takes a segzoo model, got Linear"):
        segzoo.optimize(nn.Linear(1, 1))
    for add in ("register_forward_hook", "register_full_backward_pre_hook"):
        hooked = copy.deepcopy(tiny)
        getattr(hooked.head, add)(lambda *_: None)
        with pytest.raises(ArgumentError, match="head has hooks"):
            segzoo.optimize(hooked)


def test_arguments_that_cannot_work(tiny):
    with pytest.raises(UnknownNameError, match="Did you mean eager"):
        segzoo.optimize(tiny, backend="eagre")
    with pytest.raises(ArgumentError, match="needs a CUDA device"):
        segzoo.optimize(tiny, backend="cudagraph")
    with pytest.raises(ArgumentError, match=r"floating point torch\.dtype, .*got torch\.int8"):
        segzoo.optimize(tiny, dtype=torch.int8)
    with pytest.raises(ArgumentError, match=r"cannot compute in torch\.float8_e5m2"):
        segzoo.optimize(tiny, dtype=torch.float8_e5m2)
    with pytest.raises(InputError, match="takes 3 channels, the image has 4"):
        segzoo.optimize(tiny, example=torch.rand(1, 4, 32, 32))
    with pytest.raises(InputError, match="example is on meta"):
        segzoo.optimize(tiny, example=torch.rand(1, 3, 32, 32, device="meta"))
    with pytest.raises(OptimizationError, match=r"allowed are 0\.0e\+00.*tolerance="):
        segzoo.optimize(tiny, tolerance=0, dtype=torch.bfloat16, example=torch.rand(1, 3, 32, 32))


def test_an_optimised_model_says_what_it_cannot_do(tiny):
    fast = segzoo.optimize(tiny, backend="eager", example=torch.rand(1, 3, 32, 32))
    assert fast.eval() is fast
    # What is recorded, and decided on the device, has it already.
    assert fast.threshold == 0.0
    with pytest.raises(AttributeError, match="threshold"):
        fast.threshold = 1.0
    with pytest.raises(ArgumentError, match="cannot be trained"):
        fast.train()
    with pytest.raises(ArgumentError, match="made for its device and precision"):
        fast.half()
    for copying in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ArgumentError, match="cannot be copied or saved"):
            copying(fast)
    with pytest.raises(InputError, match="image is on meta, the optimised model on cpu"):
        fast(torch.rand(1, 3, 32, 32, device="meta"))
    with pytest.raises(InputError, match="normalised floating point"):
        fast(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
