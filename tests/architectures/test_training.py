"""How the decoder computes in training changes time and memory, and no result."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import segzoo
from segzoo._compat import operations_go_to
from segzoo.errors import ArgumentError, UnknownNameError
from segzoo.nn.activation_checkpoint import recomputed
from segzoo.nn.layers import INTERPOLATIONS
from segzoo.nn.upsample_conv import DOUBLING, doubles

from ..helpers import randomise, tiny_unet


def step(model, shape=(2, 3, 64, 96)):
    """Logits, gradients and buffers of one training step, on a copy of the model."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(1)
    weight = next(model.parameters())
    image = torch.randn(shape, generator=generator).to(weight.dtype)
    target = torch.randint(0, model.classes, (shape[0], *shape[2:]), generator=generator)
    logits = model(image)
    F.cross_entropy(logits, target).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {"logits": logits.detach(), **gradients, **dict(model.named_buffers())}


def joins(model):
    """How many concatenations and resizings a step makes."""
    counts = {"cat": 0, "upsample_nearest2d": 0}

    def count(func, args, kwargs):
        name = func.overloadpacket.__name__
        counts[name] = counts.get(name, 0) + 1
        return func(*args, **kwargs)

    with operations_go_to(count):
        model(torch.rand(2, 3, 64, 96))
    return counts["cat"], counts["upsample_nearest2d"]


def kept_bytes(model):
    """Bytes of all tensors that autograd keeps of a forward in training mode, each storage once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(torch.rand(2, 3, 64, 96))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=3)
    randomise(model)
    return model


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("size", "target"), [((1, 1), (2, 2)), ((5, 4), (10, 8)), ((3, 7), (6, 13))]
)
def test_what_doubles_a_map_repeats_its_cells(interpolation, size, target):
    x = torch.randn(1, 2, *size)
    repeated = x.repeat_interleave(2, -2).repeat_interleave(2, -1)
    resized = F.interpolate(x, target, mode=interpolation)
    assert doubles(x, target, interpolation) == (interpolation in DOUBLING and target[1] % 2 == 0)
    if doubles(x, target, interpolation):
        assert torch.equal(resized, repeated)


@pytest.mark.parametrize("shape", [(2, 3, 64, 96), (2, 3, 65, 97)], ids=str)
def test_the_rewritten_decoder_trains_alike(resnet, shape):
    model = copy.deepcopy(resnet).double()
    plain = step(model.configure_training(decoder_impl="plain"), shape)
    rewritten = step(model.configure_training(decoder_impl="rewritten"), shape)
    for name, value in plain.items():
        scale = value.abs().max().clamp_min(1e-30)
        assert (rewritten[name] - value).abs().max() <= 1e-9 * scale, name
    # At odd sizes no target is twice its map, and everything is the plain form.
    assert all(torch.equal(rewritten[n], plain[n]) for n in plain) == (shape[2] == 65)


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "none"},
        {"interpolation": "area"},
        {"attention": "scse"},
        {"decoder_channels": (5, 3), "center": True},
    ],
    ids=str,
)
def test_options_train_alike(arguments):
    model = tiny_unet(**arguments).double()
    plain = step(model.configure_training(decoder_impl="plain"))
    rewritten = step(model.configure_training(decoder_impl="rewritten", checkpoint=True))
    for name, value in plain.items():
        torch.testing.assert_close(rewritten[name], value, rtol=1e-9, atol=1e-12, msg=name)


@torch.no_grad()
def test_what_is_made_and_what_is_not():
    model = tiny_unet()
    assert joins(model.train()) == (0, 0)  # auto
    assert joins(model.eval()) == (1, 2)  # in eval mode plain, to the bit
    assert joins(model.configure_training(decoder_impl="rewritten")) == (0, 0)
    assert joins(model.train().configure_training(decoder_impl="plain")) == (1, 2)
    # Attention reads the concatenation, where there is one; the last block has no skip.
    assert joins(tiny_unet(attention="scse", decoder_impl="rewritten")) == (1, 1)
    assert joins(tiny_unet(interpolation="bilinear", decoder_impl="rewritten"))[0] == 1


@torch.no_grad()
def test_auto_in_eval_mode_is_plain_to_the_bit(resnet):
    image = torch.rand(1, 3, 64, 96)
    auto = copy.deepcopy(resnet).eval()
    plain = copy.deepcopy(resnet).configure_training(decoder_impl="plain").eval()
    assert torch.equal(auto(image), plain(image))


@torch.no_grad()
def test_what_hangs_on_a_convolution_is_not_passed_over():
    model = tiny_unet(decoder_impl="rewritten")
    first = model.decoder.blocks[0].conv1
    seen = []
    for module in (first, first.conv):
        handle = module.register_forward_hook(lambda *_: seen.append(1))
        assert joins(model) == (1, 1)
        handle.remove()
    assert len(seen) == 2
    assert joins(model) == (0, 0)
    torch.nn.utils.parametrizations.weight_norm(first.conv)
    assert joins(model) == (1, 1)
    first.conv = nn.Sequential(nn.Conv2d(12, 32, 3, padding=1))
    assert joins(model) == (1, 1)


@pytest.mark.parametrize("checkpoint", [True, 5])
@pytest.mark.parametrize("impl", ["plain", "rewritten"])
def test_checkpointing_changes_nothing_to_the_bit(resnet, checkpoint, impl):
    model = copy.deepcopy(resnet).configure_training(decoder_impl=impl)
    expected = step(model)
    found = step(model.configure_training(checkpoint=checkpoint))
    assert {name for name in expected if not torch.equal(found[name], expected[name])} == set()
    assert kept_bytes(model) < kept_bytes(model.configure_training(checkpoint=0))


def test_each_way_keeps_less():
    model = tiny_unet()
    plain, rewritten, one, both = (
        kept_bytes(model.configure_training(decoder_impl=impl, checkpoint=count))
        for impl, count in (("plain", 0), ("rewritten", 0), ("rewritten", 1), ("rewritten", 2))
    )
    assert plain > rewritten > one > both
    assert kept_bytes(model.configure_training(decoder_impl="auto", checkpoint=0)) == rewritten


def test_auto_leaves_a_map_that_is_smaller_than_the_kernel(resnet):
    auto, plain = copy.deepcopy(resnet), copy.deepcopy(resnet)
    plain.configure_training(decoder_impl="plain")
    assert kept_bytes(auto) < kept_bytes(plain)
    assert kept_bytes(auto) < kept_bytes(auto.configure_training(decoder_impl="rewritten"))


class Stateful(nn.Module):
    """Dropout, a running statistic, and a buffer that the output depends on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.dropout(self.norm(self.conv(x))).tanh() * self.calls.clone()


def test_recomputing_repeats_dropout_and_no_side_effect():
    plain = Stateful()
    again = copy.deepcopy(plain)
    image = torch.rand(2, 3, 5, 4)
    torch.manual_seed(3)
    expected = [plain(image), plain(image)]
    torch.manual_seed(3)
    found = [recomputed(again, image), recomputed(again, image)]
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
        for _ in range(2):  # a retained graph is recomputed for each backward
            mine.sum().backward(retain_graph=True)
            theirs.sum().backward(retain_graph=True)
    for mine, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    for mine, theirs in zip(again.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_compiled_step_is_the_same():
    model = tiny_unet(decoder_impl="rewritten", checkpoint=True)
    compiled = copy.deepcopy(model)
    image = torch.rand(2, 3, 16, 24)
    for result in (
        model(image),
        torch.compile(compiled, fullgraph=True, backend="aot_eager")(image),
    ):
        result.square().mean().backward()
    for mine, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(compiled.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_graph_serves_every_size(training, strict):
    model = tiny_unet(decoder_impl="rewritten", checkpoint=True).train(training)
    sizes = {2: Dim("h", min=8, max=4096), 3: Dim("w", min=8, max=4096)}
    program = torch.export.export(
        copy.deepcopy(model),
        (torch.rand(2, 3, 32, 48),),
        dynamic_shapes={"image": sizes},
        strict=strict,
    )
    for size in ((32, 16), (33, 50)):
        image = torch.rand(2, 3, *size)
        torch.testing.assert_close(program.module()(image), model(image), rtol=1e-4, atol=1e-5)


def test_an_exported_graph_of_one_size_is_rewritten():
    model = tiny_unet(decoder_impl="rewritten").eval()
    image = torch.rand(2, 3, 32, 48)
    program = torch.export.export(model, (image,))
    torch.testing.assert_close(program.module()(image), model(image))
    names = {str(node.target) for node in program.graph.nodes}
    assert "aten.conv_transpose2d.input" in names
    assert not {"aten.cat.default", "aten.upsample_nearest2d.vec"} & names


def test_autocast_rounds_weights_once():
    model = tiny_unet(norm="none", decoder_impl="rewritten")
    image = torch.rand(2, 3, 32, 32)
    exact = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(image).float(), exact, atol=0.05, rtol=0.05)


def test_it_is_not_saved(tmp_path):
    model = tiny_unet(decoder_impl="rewritten", checkpoint=True)
    assert model.config.decoder_impl == "rewritten"
    assert not {"decoder_impl", "checkpoint"} & set(model.config.arguments())
    model = segzoo.Unet("resnet18", depth=2, decoder_impl="rewritten", checkpoint=1)
    loaded = segzoo.Unet.from_pretrained(model.save_pretrained(tmp_path))
    assert (loaded.config.decoder_impl, loaded.config.checkpoint) == ("auto", False)
    assert loaded.configure_training(checkpoint=2).decoder.checkpoint == 2
    assert loaded.config.checkpoint == 2


def test_wrong_values():
    model = tiny_unet()
    with pytest.raises(UnknownNameError, match="Did you mean rewritten"):
        model.configure_training(decoder_impl="rewriten")
    for value, message in (
        (3, "between 0 and 2"),
        (-1, "from 0 to 1024"),
        (1.0, "True, False, a number"),
    ):
        with pytest.raises(ArgumentError, match=f"checkpoint must be .*{message}"):
            model.configure_training(checkpoint=value)
    assert (model.config.decoder_impl, model.decoder.checkpoint) == ("auto", 0)
