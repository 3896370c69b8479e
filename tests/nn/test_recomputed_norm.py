"""Normalisations and ReLUs that are computed again give the bits of those that are kept."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segzoo
from benchmarks.common import saved_activations
from segzoo import _compat
from segzoo.errors import ArgumentError
from segzoo.nn.layers import ConvNormAct
from segzoo.nn.recomputed_norm import Again, RecomputedNorms

from ..helpers import randomise, tiny_unet


def step(model, shape=(2, 3, 32, 48), *, autocast=False, passes=1):
    """Logits, gradients and buffers of a training step, on a copy of the model."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(shape, generator=generator).to(next(model.parameters()).dtype)
    target = torch.randint(0, model.classes, (shape[0], *shape[2:]), generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model.forward_heads(image)
    loss = F.cross_entropy(outputs.logits.float(), target)
    for item in outputs.auxiliary.values():
        loss = loss + F.cross_entropy(item.float(), target)
    for _ in range(passes):
        loss.backward(retain_graph=True)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": outputs.logits.detach(), **gradients, **dict(model.named_buffers())}


def check(model, *arguments, **options):
    expected = step(model.configure_training(checkpoint=False), *arguments, **options)
    found = step(model.configure_training(checkpoint="norms"), *arguments, **options)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = tiny_unet()
    randomise(made)
    return made


@pytest.mark.parametrize("impl", ["plain", "rewritten"])
@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (3, 3, 31, 45)], ids=str)
def test_nothing_changes_to_the_bit(model, impl, shape):
    check(copy.deepcopy(model).configure_training(decoder_impl=impl), shape)


@pytest.mark.parametrize(
    "arguments",
    [
        {"attention": "scse"},
        {"interpolation": "bilinear", "dropout": 0.0, "center": True},
        {"deep_supervision": ("blocks.0", "blocks.1")},
    ],
    ids=str,
)
def test_with_options(arguments):
    torch.manual_seed(0)
    check(tiny_unet(**arguments))


@pytest.mark.parametrize("kind", [segzoo.UnetPlusPlus, segzoo.MAnet])
def test_other_architectures_that_have_it(kind):
    torch.manual_seed(0)
    check(kind("test_resnet", classes=2), (2, 3, 64, 64))


def test_under_autocast_and_twice(model):
    check(copy.deepcopy(model), autocast=True, passes=2)


def test_with_frozen_statistics(model):
    model = copy.deepcopy(model)
    for module in model.decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module
            module.training = False
    check(model)


def test_less_is_kept():
    torch.manual_seed(0)
    model, image = segzoo.Unet("test_resnet", classes=3).train(), torch.rand(2, 3, 64, 64)
    model.configure_training(decoder_impl="rewritten")
    kept = {}
    for value in (False, "norms"):
        kept[value] = saved_activations(model.configure_training(checkpoint=value), image)
    blocks = list(model.decoder.blocks)
    # What both ReLUs of each block gave, in float32, at half the stride of the one before.
    sides = [64 >> i for i in reversed(range(len(blocks)))]
    ratio = sum(2 * 2 * 4 * b.out_channels * s * s for b, s in zip(blocks, sides, strict=True))
    assert kept[False] - kept["norms"] == ratio


def test_gradients_of_gradients():
    torch.manual_seed(0)
    block, x = ConvNormAct(3, 4).double(), torch.randn(2, 3, 5, 6).double()
    found = []
    for context in (RecomputedNorms(), torch.enable_grad()):
        with context:
            out = ConvNormAct.forward(block, x).square().sum()
        (first,) = torch.autograd.grad(out, block.conv.weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), block.conv.weight)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_a_map_that_changes_afterwards_is_kept():
    torch.manual_seed(0)
    first, second = ConvNormAct(3, 4), nn.Conv2d(4, 2, 3)
    x, gradients = torch.randn(2, 3, 8, 8), []
    for context in (torch.enable_grad(), RecomputedNorms()):
        with context:
            out = second(first(x).mul_(2))
        gradients.append(torch.autograd.grad(out.sum(), second.weight)[0])
    assert torch.equal(*gradients)


def test_another_map_at_the_same_place_is_not_taken_for_it():
    norms = RecomputedNorms()
    norm, x = nn.BatchNorm2d(2), torch.randn(2, 2, 3, 3)
    out = norm(x)
    norms.knows(out, x, norm)
    F.relu_(out)
    assert isinstance(norms.keep(out), Again)
    assert isinstance(norms.keep(out.detach()), Again)
    for other in (out[:1], out.mT, out.clone(), torch.empty(0)):
        assert norms.keep(other) is other
    del out
    gc.collect()
    assert norms._known == {}


def test_without_versions_of_tensors(monkeypatch, model):
    found = _compat.found
    monkeypatch.setattr(
        _compat, "found", lambda o, name: None if name == "_version" else found(o, name)
    )
    check(copy.deepcopy(model))


def test_a_compiler_decides_itself(model):
    model = copy.deepcopy(model).configure_training(checkpoint="norms").train()
    image = torch.rand(2, 3, 32, 32)
    expected = model(image)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), expected)
    torch.compiler.reset()


def test_inference_and_storage_know_nothing_of_it(model, tmp_path):
    model = copy.deepcopy(model).eval()
    image = torch.rand(1, 3, 32, 32)
    expected = model(image)
    assert torch.equal(model.configure_training(checkpoint="norms")(image), expected)
    assert "checkpoint" not in model.config.saved()


@pytest.mark.parametrize("norm", ["group", "none"])
def test_other_norms_are_refused(norm):
    model = tiny_unet(norm=norm)
    with pytest.raises(ArgumentError, match=f"the norm is '{norm}'. Take checkpoint=True"):
        model.configure_training(checkpoint="norms")
    with pytest.raises(ArgumentError, match="batch normalisation"):
        tiny_unet(norm=norm, checkpoint="norms")


@pytest.mark.parametrize("value", ["norm", "all", ""])
def test_unknown_values(model, value):
    with pytest.raises(ArgumentError, match=r"checkpoint.*norms"):
        copy.deepcopy(model).configure_training(checkpoint=value)
