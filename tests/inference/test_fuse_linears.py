"""Linear layers with what follows them, and graphs inside of what cannot be one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segzoo
from segzoo._compat import packs_linear
from segzoo.errors import OptimizationError
from segzoo.inference.optimize.fuse_linears import fuse_linears
from segzoo.inference.optimize.fused_linear import FusedLinear
from segzoo.inference.optimize.trace import trace, trace_module
from segzoo.inference.optimize.trace_parts import Part, trace_parts
from segzoo.timing import largest_difference
from tests.architectures.tiny_eomt import tiny
from tests.helpers import TinyBackbone, ready


class Steps(nn.Module):
    """Linear layers before all that may follow one, and what may not become part of one."""

    def __init__(self):
        super().__init__()
        for i in range(9):
            setattr(self, f"layer{i}", nn.Linear(6, 6, bias=i != 1))
        self.gelu, self.tanh, self.relu = nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU()
        self.factor = nn.Parameter(torch.randn(6))
        self.single = nn.Parameter(torch.randn(1))

    def forward(self, x):
        x = x + self.factor * self.layer0(x)  # all in one
        x = self.layer1(x) * self.factor + x  # without a bias
        x = self.tanh(self.layer2(self.gelu(self.layer3(x))))
        x = x + F.gelu(self.layer4(x)) + F.relu(self.layer5(x))  # no addition after an activation
        larger = x[None].repeat(2, 1, 1, 1) + self.layer6(x)  # the addend has one dimension more
        twice = self.layer7(x)
        later = self.layer8(x)
        after = x.sin()
        return larger + twice * twice * self.single + (later + after)


def test_what_follows_a_linear_layer_becomes_part_of_it():
    torch.manual_seed(0)
    steps = Steps().double().eval()
    graph = trace_module(steps)
    assert fuse_linears(graph) == 9
    x = torch.randn(2, 5, 6).double()
    torch.testing.assert_close(graph(x), steps(x), rtol=1e-12, atol=1e-12)
    found = {
        str(node.target).removeprefix("fused_layer"): graph.get_submodule(str(node.target))
        for node in graph.graph.nodes
        if node.op == "call_module"
    }
    assert [(found[str(i)].act, found[str(i)].adds) for i in range(9)] == [
        ("none", True),
        ("none", True),
        ("gelu_tanh", False),
        ("gelu", False),
        ("gelu", False),
        ("relu", False),
        ("none", True),
        ("none", False),
        ("none", False),  # what is added comes later
    ]
    assert torch.equal(found["7"].weight, steps.layer7.weight)
    expected = steps.layer0.weight * steps.factor[:, None]
    torch.testing.assert_close(found["0"].weight, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", ["none", "relu", "gelu", "gelu_tanh"])
@torch.no_grad()
def test_onednn_gives_the_same(act, dtype):
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 40, dtype=dtype), torch.randn(24, dtype=dtype)
    x, other = torch.randn(2, 7, 40, dtype=dtype), torch.randn(2, 7, 24, dtype=dtype)
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0.02, "atol": 0.1}
    for given in (bias, None):
        plain, packed = (FusedLinear(weight, given, act=act) for _ in range(2))
        assert ("onednn" in packed.choices(x)) == packs_linear(dtype)
        if not packs_linear(dtype):  # without oneDNN, or bfloat16 on a processor without it
            continue
        packed.use("onednn", x)
        for rows in (x, x[0, :3], x[:, ::2]):
            torch.testing.assert_close(packed(rows), plain(rows), **near)
        plain, packed = (FusedLinear(weight, given, adds=True) for _ in range(2))
        packed.use("onednn", x)
        for addend in (other, other[:1], other.transpose(0, 1).contiguous().transpose(0, 1)):
            torch.testing.assert_close(packed(x, addend), plain(x, addend), **near)
    assert packed.choices(x.double()) == ["torch"]


@torch.no_grad()
def test_a_lower_precision_may_be_computed_in_float32():
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 40).bfloat16(), torch.randn(24).bfloat16()
    x, other = torch.randn(2, 7, 40).bfloat16(), torch.randn(2, 7, 24).bfloat16()
    for given in (bias, None):
        exact = F.linear(x.double(), weight.double(), None if given is None else given.double())
        step = FusedLinear(weight, given, act="gelu")
        assert "float32" in step.choices(x)
        assert "float32" not in step.choices(x.float())
        step.use("float32", x)
        adding = FusedLinear(weight, given, adds=True)
        adding.use("float32", x)
        for out, wanted in ((step(x), F.gelu(exact)), (adding(x, other), exact + other)):
            assert out.dtype is torch.bfloat16
            torch.testing.assert_close(out.double(), wanted, rtol=2**-8, atol=1e-4)
        larger = adding(x, other[None].repeat(2, 1, 1, 1))
        torch.testing.assert_close(larger, adding(x, other).expand_as(larger))


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"],
)
@torch.no_grad()
def test_blocks_of_a_transformer_are_graphs(name):
    model = tiny(name, encoder_options={"depth": 3})
    fast = segzoo.optimize(model, backend="eager", example=torch.rand(1, 3, 64, 48))
    applied = {item.name for item in fast.passes if item.applied}
    wanted = {"trace parts", "fuse epilogues", "read in strips", "fuse linear layers"}
    wanted |= {"copy for attention"} | ({"turn tokens"} if "dinov3" in name else set())
    assert wanted <= applied, fast.report()
    assert sum(isinstance(item, FusedLinear) for item in fast.modules()) >= 6
    for size in ((64, 48), (33, 50)):
        image = model.size_rule.fit(torch.rand(2, 3, *size))
        assert largest_difference(fast(image), model(image)) < 2e-5


@torch.no_grad()
def test_other_architectures_have_them_too():
    torch.manual_seed(0)
    model = ready(segzoo.LinearHead("test_vit", classes=2))
    example = torch.rand(1, 3, 64, 64)
    fast = segzoo.optimize(model, backend="eager", example=example)
    assert "fuse linear layers" in {item.name for item in fast.passes if item.applied}
    low = segzoo.optimize(model, dtype=torch.bfloat16, backend="eager", example=example)
    for size in ((64, 64), (71, 50)):
        image = torch.rand(1, 3, *size)
        assert largest_difference(fast(image), model(image)) < 1e-5
        assert low(image).isfinite().all()


class Odd(nn.Module):
    """Calls one of its parts in two ways, and asks another for more than to be called."""

    def __init__(self):
        super().__init__()
        self.alike = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.asked = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.asked.scale = 2.0
        self.varied = Varied()

    def forward(self, x):
        if x.shape[-1] != 4:  # keeps it from being a graph
            raise ValueError
        x = self.alike(x) + self.asked.scale * self.asked(x)
        return self.varied(x) + self.varied(x, scale=2.0)


class Varied(nn.Module):
    """Has more than one way to be called."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x, scale=1.0):
        return scale * self.inner(x)


@torch.no_grad()
def test_only_what_can_be_a_graph_becomes_one():
    torch.manual_seed(0)
    body = trace(ready(segzoo.LinearHead("test_resnet", classes=1)), torch.rand(1, 3, 64, 64))

    class Small(type(body)):
        def forward(self, image):
            return self.encoder.backbone(image)

    small = Small(body.encoder, body.decode)
    odd = Odd()
    small.encoder.backbone = odd
    x = torch.randn(2, 3, 4)
    expected = odd(x)
    assert trace_parts(small, [x[:1], x]) == 2
    assert isinstance(odd.alike, Part)
    assert not isinstance(odd.asked, Part)
    assert not isinstance(odd.varied, Part)
    assert isinstance(odd.varied.inner, Part)
    assert torch.equal(small(x), expected)
    assert torch.equal(odd.varied.inner(x), odd.varied.inner.graph([x]))
    with pytest.raises(OptimizationError, match="calls its parts in another way"):
        odd.alike(x, None)


class Told(nn.Module):
    """Of its input it is told one number."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x, number):
        return x + self.inner(x) / number


class Telling(TinyBackbone):
    """Tells a part of it how many images, or columns, there are."""

    def __init__(self, axis):
        super().__init__()
        self.axis, self.told = axis, Told()

    def forward(self, image):
        fine, coarse = super().forward(image)
        told = self.told(coarse.permute(0, 2, 3, 1), int(image.shape[self.axis]))
        return [fine, told.permute(0, 3, 1, 2)]


@pytest.mark.parametrize("axis", [0, 3], ids=["images", "columns"])
@torch.no_grad()
def test_a_number_that_a_part_is_told_is_no_constant(axis):
    torch.manual_seed(0)
    model = ready(segzoo.Unet(Telling(axis), classes=2))
    fast = segzoo.optimize(model, backend="eager", example=torch.rand(1, 3, 65, 97))
    for shape in ((1, 3, 65, 97), (3, 3, 32, 44)):
        image = torch.rand(shape)
        assert largest_difference(fast(image), model(image)) < 1e-5
