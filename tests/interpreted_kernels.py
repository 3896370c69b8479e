"""The kernels in Triton's interpreter; tests/inference/test_kernels.py runs this file in a process of its own.

The interpreter is chosen when a kernel is made, by TRITON_INTERPRET=1, for the whole process.
"""

from functools import partial

import pytest
import torch

import segzoo
from segzoo.errors import InputError
from segzoo.inference.kernels import (
    ConvRelu,
    ConvReluHead,
    DoubleConcatConv,
    ImageConv,
    MaxPool,
    checking,
    modules,
    operators,
    self_check,
    usable,
)
from segzoo.inference.optimize import autotune, optimize
from segzoo.inference.optimize.answers import Answers, decided
from segzoo.inference.optimize.doubled_conv import DoubledConv
from segzoo.inference.optimize.fuse_head import HeadedConv

from .helpers import randomise, tiny_unet

CPU = torch.device("cpu")
#: Widths that are and are not multiples of what a product takes; maps of several tiles and of one
#: pixel. A tile is 8x8 pixels here, and one with a head 6x6.
CASES = (
    (DoubleConcatConv, (16, 16, 16), (2, 5, 4)),
    (DoubleConcatConv, (3, 0, 40), (1, 5, 2)),
    (DoubleConcatConv, (40, 24, 3), (1, 1, 1)),
    (ConvRelu, (24, 16), (2, 9, 7)),
    (ConvRelu, (3, 40), (1, 1, 1)),
    (ConvReluHead, (16, 16, 1), (2, 7, 4)),
    (ConvReluHead, (3, 24, 11), (1, 1, 1)),
    (ConvReluHead, (5, 16, 3), (1, 3, 7)),
    (ConvReluHead, (3, 4, 6), (1, 3, 2)),
    (ImageConv, (3, 16, 7, 7, 2, 2, 3, 3), (2, 9, 15)),
    (ImageConv, (13, 5, 3, 4, 1, 2, 1, 0), (1, 5, 7)),
    (ImageConv, (1, 40, 4, 4, 4, 4, 0, 0), (2, 7, 13)),
    (MaxPool, (16,), (2, 10, 18)),
    (MaxPool, (5,), (1, 1, 7)),
)


def case(kind, widths, shape):
    batch, *size = shape
    weights, maps = checking.trial(kind, widths, batch=batch, size=tuple(size))
    return checking.made(kind, widths, weights), weights, maps


@pytest.mark.parametrize(("kind", "widths", "shape"), CASES)
def test_float32_equals_float64_borders_included(kind, widths, shape):
    kernel, weights, maps = case(kind, widths, shape)
    exact = checking.by_torch(
        kind,
        widths,
        [weight.double() for weight in weights],
        [None if x is None else x.double() for x in maps],
    )
    out = kernel(*maps)
    assert out.shape == exact.shape
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (out - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "widths", "shape"), [CASES[i] for i in (1, 3, 6, 10, 13)])
def test_half_precision_is_as_near_to_float64_as_torch(kind, widths, shape, dtype):
    kernel, weights, maps = case(kind, widths, shape)
    out = kernel.to(dtype)(*(None if x is None else x.to(dtype) for x in maps))
    assert out.dtype == dtype
    assert checking.compared(out, kind, widths, weights, maps) is None


def test_an_optimised_model_can_take_them(monkeypatch):
    torch.manual_seed(0)

    def prefer(self, step, inputs, setters):
        return "triton" if "triton" in setters else next(iter(setters))

    monkeypatch.setattr(optimize, "_ODD", (5, 7))  # the interpreter is slow
    monkeypatch.setattr(checking, "_checked", lambda *_: None)  # the tests above do
    monkeypatch.setattr(autotune._Chooser, "_compare", prefer)
    model = tiny_unet(decoder_channels=(16, 16))
    randomise(model)
    image = torch.randn(1, 3, 8, 4)
    fast = segzoo.optimize(model.eval(), backend="eager", example=image)
    steps = [step for step in fast.modules() if isinstance(step, (DoubledConv, HeadedConv))]
    assert sum(isinstance(step, HeadedConv) for step in steps) == 1
    assert [step.implementation for step in steps] == ["triton"] * 3, fast.report()
    answering = Answers(fast._run, model.threshold)
    assert answering.fused
    classes = answering(image)
    for size in ((8, 4), (5, 4)):
        image = image[..., : size[0], :]
        with torch.no_grad():
            logits, expected = fast(image), model(image)
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
        if size == (8, 4):
            assert torch.equal(classes, logits.argmax(dim=1))
    monkeypatch.setattr(modules, "MAX_ELEMENTS", 1)  # as of an image of 8192x8192
    image = torch.randn(1, 3, 8, 4)
    with torch.no_grad():
        logits, expected = fast(image), model(image)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("index", "dtype"), [(6, torch.float32), (7, torch.float16), (8, torch.float32)]
)
def test_classes_are_those_of_the_logits(index, dtype):
    kind, widths, shape = CASES[index]
    kernel, _, (x,) = case(kind, widths, shape)
    kernel, x = kernel.to(dtype), x.to(dtype)
    classes = kernel.classes_of(x)
    assert (classes.dtype, classes.shape) == (torch.uint8, (shape[0], *shape[1:]))
    assert torch.equal(classes, decided(kernel(x), 0.0))
    x[0, 0, -1, -1] = torch.nan
    assert classes_are_missing_around_the_end(kernel.classes_of(x)[0])


def classes_are_missing_around_the_end(classes):
    """Where two windows of 3x3 look at the last pixel, and at most a pixel further."""
    rows, columns = torch.where(classes == 255)
    near = [min(3, side) for side in classes.shape]
    return (
        (classes[-near[0] :, -near[1] :] == 255).all()
        and rows.min() >= classes.shape[0] - 4
        and columns.min() >= classes.shape[1] - 4
    )


def test_of_equal_logits_the_first_class_wins():
    weight = torch.zeros(3, 4, 3, 3)
    kernel = ConvReluHead(torch.zeros(4, 3, 3, 3), None, weight, torch.tensor([-1.0, 2, 2]))
    assert (kernel.classes_of(torch.zeros(1, 3, 2, 3)) == 1).all()


def test_any_memory_format_and_no_bias():
    _, (weight, _), (x, skip) = case(DoubleConcatConv, (5, 3, 4), (2, 3, 6))
    kernel = DoubleConcatConv(weight, None, 5, 3)
    expected = checking.by_torch(DoubleConcatConv, (5, 3, 4), (weight, torch.zeros(4)), (x, skip))
    strided = torch.randn(2, 5, 3, 12)[..., ::2].copy_(x)
    for maps in (
        (x.to(memory_format=torch.channels_last), skip.to(memory_format=torch.channels_last)),
        (strided, skip.mT.contiguous().mT),
    ):
        torch.testing.assert_close(kernel(*maps), expected, rtol=1e-5, atol=1e-5)


def test_without_relu_negative_values_stay_and_nan_stays_with_it():
    weight, x = torch.randn(4, 3, 3, 3), torch.randn(1, 3, 4, 6)
    plain = torch.nn.functional.conv2d(x, weight, padding=1)
    assert plain.min() < 0
    torch.testing.assert_close(ConvRelu(weight, None, relu=False)(x), plain)
    x[..., 0, 0] = torch.nan
    assert ConvRelu(weight, None)(x)[0, :, :2, :2].isnan().all()


def test_a_maximum_of_nothing_but_negative_values_and_of_nan():
    x = -torch.rand(2, 5, 6, 9) - 1
    x[0, 1, 3, 4] = torch.nan
    expected = torch.nn.functional.max_pool2d(x, 3, 2, padding=1)
    assert torch.equal(MaxPool(5)(x).nan_to_num(9), expected.nan_to_num(9))
    assert expected.isnan().sum() == 2


def test_an_image_and_its_window():
    conv = torch.nn.Conv2d(4, 8, (5, 3), stride=(3, 2), padding=(0, 2))
    kernel = ImageConv.from_conv(conv, relu=False)
    for size in ((5, 1), (11, 6)):
        image = torch.randn(2, 4, *size)
        torch.testing.assert_close(kernel(image), conv(image), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="no window of 5x3 fits into"):
        kernel(torch.randn(2, 4, 4, 9))


def test_the_check_accepts_what_is_right_and_finds_what_is_wrong(monkeypatch):
    kernel, weights, maps = case(DoubleConcatConv, (16, 0, 16), (1, 2, 2))
    assert usable(CPU, torch.float32) is None
    assert self_check(kernel) is None
    wrong = kernel(*maps).clone()
    wrong[0, 0, 0, 0] = torch.nan
    assert "error" in checking.compared(wrong, DoubleConcatConv, kernel.widths, weights, maps)
    checking._checked.cache_clear()
    monkeypatch.setattr("segzoo.inference.kernels.modules.pack_phases", lambda w: pack_wrongly(w))
    assert "error against float64" in self_check(kernel)
    checking._checked.cache_clear()
    monkeypatch.setattr(operators, "_run_conv", None)
    assert "does not run: TypeError" in self_check(kernel)
    checking._checked.cache_clear()


def pack_wrongly(weight):
    from segzoo.inference.kernels.packing import pack_phases

    return pack_phases(weight.flip(-1))


def test_torch_sees_operators(recwarn):
    # There are no gradients; what a compiler does of them is tried as a whole.
    seen = partial(torch.library.opcheck, test_utils=("test_schema", "test_faketensor"))
    kernel, _, maps = case(DoubleConcatConv, (3, 2, 4), (1, 2, 3))
    head, _, (x,) = case(ConvReluHead, (4, 4, 2), (1, 4, 6))
    conv = ConvRelu(head.weight.new_zeros(4, 4, 3, 3), None)

    def block(x, skip):
        return head(conv(kernel(x, skip)) + kernel(x, skip))

    expected = block(*maps)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*maps), expected)
    arguments = (*maps, kernel.weight, kernel.skip_weight, kernel.bias, 4, True, 0)
    seen(operators.double_concat_conv, arguments)
    seen(operators.conv3x3, (x, conv.weight, conv.bias, 4, True, 0))
    for answer in (False, True):
        arguments = (x, head.weight, head.bias, head.head_weight, head.head_bias, 2, answer, 1)
        seen(operators.conv3x3_head, arguments)
    image = ImageConv(torch.randn(4, 3, 4, 4), None, stride=(2, 2), padding=(1, 1))
    arguments = (maps[0], image.weight, image.bias, 4, list(image.geometry), True, 0)
    seen(operators.image_conv, arguments)
    seen(operators.max_pool, (x, 0))


def test_maps_of_another_type_are_refused():
    kernel, _, maps = case(DoubleConcatConv, (3, 0, 4), (1, 2, 2))
    with pytest.raises(InputError, match=r"the kernel is torch\.float32"):
        kernel(maps[0].half())
    with pytest.raises(InputError, match="not in float64"):
        kernel.double()(maps[0].double())


def test_an_interpreter_chosen_too_late_is_a_reason(monkeypatch):
    from segzoo.inference.kernels import launching

    monkeypatch.setattr(launching, "INTERPRETED", False)
    assert "set it before" in usable(CPU, torch.float32)
