"""Shapes that are looked up are those that are computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segzoo._compat import gives_new_tensors
from segzoo.encoders import build_on_meta, known_shapes
from segzoo.encoders.positions import PositionsHaveValues
from segzoo.encoders.timm_flexible import most_flexible

ATEN = torch.ops.aten


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What is known, nothing at first."""
    found = {}
    monkeypatch.setattr(known_shapes, "_KNOWN", found)
    return found


def meta(*shape, **options):
    return torch.empty(shape, device="meta", **options)


def described(result):
    items = result if isinstance(result, (list, tuple)) else [result]
    return [item if item is None else (item.shape, item.stride(), item.dtype) for item in items]


LAST = torch.channels_last


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (ATEN.add.Tensor, [(meta(2, 3, 4), meta(4)), (meta(2, 3, 4), meta(3, 1))]),
        (ATEN.add.Tensor, [(meta(3), meta(3)), (meta(3).half(), meta(3)), (meta(3).half(),) * 2]),
        (ATEN.add.Scalar, [(meta(3).long(), 1), (meta(3).long(), 1.0), (meta(3).long(), True)]),
        (ATEN.relu.default, [(meta(2, 3, 4, 5),), (meta(2, 3, 4, 5).to(memory_format=LAST),)]),
        (ATEN.cat.default, [([meta(1, 2), meta(1, 3)], 1), ([meta(2, 2), meta(3, 2)], 0)]),
        (ATEN.native_layer_norm.default, [(meta(2, 5, 8), [8], meta(8), meta(8), 1e-5)]),
        (ATEN.max_pool2d_with_indices.default, [(meta(1, 2, 9, 7), [3, 3], [2, 2], [1, 1])]),
        (ATEN.split_with_sizes_copy.default, [(meta(5, 2), [2, 3]), (meta(5, 2), [1, 4])]),
    ],
    ids=str,
)
def test_the_second_answer_is_the_first(operation, arguments, known):
    expected = [operation(*given) for given in arguments]
    for _ in range(2):
        for given, wanted in zip(arguments, expected, strict=True):
            found = known_shapes.on_meta(operation, given, {})
            assert type(found) is type(wanted)
            assert described(found) == described(wanted)
    assert len(known) == len(arguments)  # no two of them are taken for each other


def test_what_shares_changes_or_has_values_is_never_looked_up(known):
    x = meta(2, 3)
    for operation, given in (
        (ATEN.view.default, (x, [6])),
        (ATEN.transpose.int, (x, 0, 1)),
        (ATEN.add_.Tensor, (x, x)),
        (ATEN.add.out, (x, x)),
        (ATEN.add.Tensor, (x, torch.tensor(1))),  # a number, which lies on the CPU
        (ATEN.add.Tensor, (x.cfloat(), x)),
    ):
        kwargs = {"out": meta(2, 3)} if operation is ATEN.add.out else {}
        for _ in range(2):
            found = known_shapes.on_meta(operation, given, kwargs)
            assert described(found) == described(operation(*given, **kwargs))
    assert known_shapes.on_meta(ATEN.add_.Tensor, (x, x), {}) is x
    assert not known
    assert not gives_new_tensors(ATEN.view.default)


def test_each_answer_is_a_tensor_of_its_own():
    x = meta(2, 3)
    first, second = (known_shapes.on_meta(ATEN.relu.default, (x,), {}) for _ in range(2))
    assert first is not second
    first.resize_(5)
    assert known_shapes.on_meta(ATEN.relu.default, (x,), {}).shape == (2, 3)


def test_gradients_flow_through_what_is_known():
    weight = meta(4, 3, 3, 3, requires_grad=True)
    for _ in range(2):
        with PositionsHaveValues():
            out = F.gelu(F.conv2d(meta(1, 3, 8, 8), weight)).mean()
        (slope,) = torch.autograd.grad(out, weight)
        assert slope.shape == weight.shape


def test_it_does_not_grow_without_end(monkeypatch, known):
    monkeypatch.setattr(known_shapes, "_MOST", 3)
    for size in range(1, 9):
        assert known_shapes.on_meta(ATEN.relu.default, (meta(size),), {}).shape == (size,)
        assert len(known) <= 3


def test_a_backbone_takes_the_same_images_without_it(monkeypatch, known):
    found = most_flexible("test_vit", {}, (160, 160), None)
    assert known
    monkeypatch.setattr(known_shapes, "_new", lambda operation: False)
    assert most_flexible("test_vit", {}, (160, 160), None)[1:] == found[1:]


def test_what_reads_values_while_it_is_built_is_built():
    layer = build_on_meta(lambda: torch.nn.Linear(3, len(torch.ones(2).tolist())))
    assert layer.weight.shape == (2, 3)
    assert layer.weight.is_meta
