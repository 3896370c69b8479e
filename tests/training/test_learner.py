"""Steps of a model: rates, decay, accumulation, averages, heads, precision."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch

import segzoo
from segzoo.errors import TrainingError
from segzoo.timing import Timing
from segzoo.training import finding, precision
from segzoo.training.finding import (
    PLAIN_BATCH,
    chosen_rate,
    doubled,
    find_batch_size,
    find_learning_rate,
)
from segzoo.training.learner import Learner, Settled
from segzoo.training.objective import AllHeads, has_unused
from segzoo.training.optimizer import encoder_layers, make_optimizer
from segzoo.training.processes import Processes

from .toys import Blobs, toy_model

SETTLED = Settled(batch_size=4, learning_rate=1e-2, precision="float32")
CPU = Processes("cpu")


def learner(model=None, *, ignore_index=None, **values):
    recipe = segzoo.Recipe(precision="float32", **values)
    made = Learner(model or toy_model(), recipe, SETTLED, CPU, ignore_index=ignore_index)
    made.begin(frozen=False)
    return made


def batch(count=4, **options):
    data = Blobs(count, **options)
    return tuple(torch.stack(items) for items in zip(*(data[i] for i in range(count)), strict=True))


def by_name(optimizer):
    return {group["name"]: group for group in optimizer.param_groups}


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay():
    model = segzoo.Unet("resnet10t", classes=3)
    optimizer = make_optimizer(model, segzoo.Recipe(encoder_scale=0.5, weight_decay=0.1), 1e-3)
    found = [item for group in optimizer.param_groups for item in group["params"]]
    assert len(found) == len(set(map(id, found))) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert all((item.ndim > 1) == (group["weight_decay"] == 0.1) for item in group["params"])
    peaks = {name: group["peak"] for name, group in by_name(optimizer).items()}
    assert peaks["encoder.early"] == pytest.approx(0.25e-3)
    assert peaks["encoder.late, no decay"] == pytest.approx(0.5e-3)
    assert peaks["decoder"] == pytest.approx(1e-3)


@pytest.mark.parametrize(("began_with", "scale"), [(None, 1.0), ("timm/resnet10t", 0.3)])
def test_an_encoder_that_has_learned_gets_smaller_rates(began_with, scale):
    model = segzoo.Unet("resnet10t", classes=3)
    model.base_model = began_with
    groups = by_name(make_optimizer(model, segzoo.Recipe(), 1.0))
    assert groups["encoder.late"]["peak"] == pytest.approx(scale)
    assert groups["decoder"]["peak"] == 1.0


def test_layers_of_a_transformer_are_its_blocks_and_what_it_excludes_does_not_decay():
    model = segzoo.Unet("test_vit", classes=3)
    layers = encoder_layers(model)
    blocks = model.encoder.backbone.model.blocks
    assert len(layers) > len(blocks)
    inside = {id(item) for layer in layers for item in layer}
    assert inside == {id(item) for item in model.encoder.backbone.parameters()}
    place = {id(item): i for i, layer in enumerate(layers) for item in layer}
    places = [{place[id(item)] for item in block.parameters()} for block in blocks]
    assert all(len(found) == 1 for found in places)
    assert [min(found) for found in places] == sorted({min(found) for found in places})
    optimizer = make_optimizer(model, segzoo.Recipe(layer_decay=0.5), 1.0)
    rates = {
        id(item): group["peak"] for group in optimizer.param_groups for item in group["params"]
    }
    decays = {
        id(item): group["weight_decay"]
        for group in optimizer.param_groups
        for item in group["params"]
    }
    last = max(place.values())
    for item in model.encoder.backbone.parameters():
        assert rates[id(item)] == pytest.approx(0.5 ** (last + 1 - place[id(item)]))
    assert decays[id(model.encoder.backbone.model.pos_embed)] == 0


def test_layers_of_other_encoders_are_their_stages():
    model = segzoo.Unet("resnet10t", classes=3)
    assert list(map(len, encoder_layers(model))) == list(map(len, model.encoder.stages()))


def test_a_step_is_that_of_plain_torch():
    # Dropout of the toy draws as values lie in memory, so both lie in the same way.
    made = learner(clip_norm=0.5, weight_decay=0.0, channels_last=False)
    plain = copy.deepcopy(made.model)
    images, masks = batch()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.5e-2, weight_decay=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = made.update([(images, masks)], 0.5, 0.9)
        torch.manual_seed(0)
        expected = segzoo.losses.SegmentationLoss()(plain(plain.normalization(images)), masks)
    expected.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    optimizer.step()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(made.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_step_in_one_pass_is_torch_s_step_however_weights_lie():
    """torch's pass over memory would be wrong, without a word, for gradients that lie otherwise."""
    models = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = segzoo.Unet("resnet10t", classes=3)
        model = model.double().to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, segzoo.Recipe(), 1e-2, fused=fused)
        for seed in range(2):
            torch.manual_seed(seed)
            image = torch.randn(2, 3, 33, 47).double().to(memory_format=torch.channels_last)
            model(image).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        models.append(model)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_accumulated_batches_make_one_step():
    made = learner(accumulate=2, channels_last=False)
    before = copy.deepcopy(made.model)
    parts = [batch(2, seed=0), batch(2, seed=1)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        total = made.update(parts, 1.0, 0.9)
        torch.manual_seed(0)
        loss = segzoo.losses.SegmentationLoss()
        each = [loss(before(before.normalization(x)), y) for x, y in parts]
    assert total.item() == pytest.approx(sum(each).item() / 2, rel=1e-6)
    assert all(state["step"] == 1 for state in made.optimizer.state.values())


def test_a_loss_that_is_not_finite_spoils_no_weights_on_a_cpu():
    made = learner()
    images, masks = batch()
    broken = images.float() / 255
    broken[1, 0, 3, 3] = float("nan")
    before = copy.deepcopy([item.detach().clone() for item in made.model.parameters()])
    assert made.update([(broken, masks)], 1.0, 0.9).isnan()
    for now, then in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_an_average_of_weights_is_what_is_judged():
    made = learner(ema=0.5)
    assert made.scored is not made.model
    plain = learner()
    assert plain.scored is plain.model
    for step in range(1, 30):
        made.update([batch()], 1.0, 0.9)
        made.averaged(step)
    ours, theirs = made.scored.state_dict(), made.model.state_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert made.scored.normalization == made.model.normalization


def test_all_heads_learn():
    model = segzoo.Unet(
        "resnet10t",
        classes=3,
        auxiliary_stride=16,
        classification=segzoo.Classification(classes=3),
        deep_supervision=("blocks.1",),
    )
    made = learner(model)
    made.update([batch(2, size=(64, 64))], 1.0, 0.9)
    for name, item in model.named_parameters():
        assert len(made.optimizer.state[item]), name


def test_parameters_without_a_use_are_found():
    assert not has_unused(AllHeads(toy_model()))
    deeper = segzoo.Unet("resnet10t", classes=3, depth=2)
    assert has_unused(AllHeads(deeper)) == any(
        item is None
        for item in torch.autograd.grad(
            deeper.eval()(torch.zeros(2, 3, 64, 64)).sum(),
            list(deeper.parameters()),
            allow_unused=True,
        )
    )
    model = toy_model()
    model.never = torch.nn.Linear(2, 2)
    assert has_unused(AllHeads(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a size that is nobody's image's
        has_unused(AllHeads(segzoo.LinearHead("pit_ti_224", classes=3, image_size=(32, 32))))


def test_the_encoder_stands_still_where_it_is_told_to():
    made = learner()
    made.begin(frozen=True)
    before = copy.deepcopy(made.model.encoder.state_dict())
    made.update([batch()], 1.0, 0.9)
    for name, value in made.model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    made.begin(frozen=False)
    made.update([batch()], 1.0, 0.9)
    assert any(
        not torch.equal(value, before[name])
        for name, value in made.model.encoder.state_dict().items()
    )


def test_what_was_frozen_before_stays_frozen():
    model = toy_model().freeze_encoder(1)
    made = learner(model)
    assert model.encoder.frozen_stages == 1
    made.begin(frozen=True)
    assert model.encoder.frozen_stages == 2
    made.begin(frozen=False)
    assert model.encoder.frozen_stages == 1


def test_bfloat16_is_for_the_forward_only():
    recipe = segzoo.Recipe()
    made = Learner(toy_model(), recipe, Settled(4, 1e-2, "bfloat16"), CPU, ignore_index=None)
    made.begin(frozen=False)
    loss = made.update([batch()], 1.0, 0.9)
    assert loss.dtype == torch.float32
    assert {item.dtype for item in made.model.parameters()} == {torch.float32}


def test_precision_is_measured_on_a_processor(monkeypatch):
    made, cpu = [], torch.device("cpu")

    def clocked(calls, **_):
        for call in calls.values():
            call()
        made.append(set(calls))
        return {name: Timing((milliseconds[name],)) for name in calls}

    monkeypatch.setattr(precision, "in_turn", clocked)
    for taken, expected in ((0.5, "bfloat16"), (0.9, "float32"), (1.5, "float32")):
        milliseconds = {"bfloat16": taken, "float32": 1.0}
        precision._share_of_float32.cache_clear()
        with torch.inference_mode(mode=False), torch.no_grad():
            assert precision.chosen("auto", cpu) == precision.chosen("auto", cpu) == expected
    assert made == [{"bfloat16", "float32"}] * 3  # once a process
    precision._share_of_float32.cache_clear()
    assert precision.chosen("float32", cpu) == "float32"
    assert precision.chosen("bfloat16", cpu) == "bfloat16"
    assert made[3:] == []
    assert not precision.has_fast_bfloat16(torch.device("mps"))


def test_a_rate_is_found_and_nothing_else_changes():
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    stream = iter([batch(4, seed=i % 3) for i in range(100)])
    rate, curve = find_learning_rate(
        model, segzoo.Recipe(), SETTLED, CPU, stream, ignore_index=None
    )
    assert 1e-5 < rate < 0.5
    assert [r for r, _ in curve] == sorted(r for r, _ in curve)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_where_no_loss_falls_no_rate_is_found():
    assert chosen_rate([(1e-4, 2.0), (1e-3, 1.0), (1e-2, 1.5)]) == pytest.approx(1e-4)
    for curve in ([], [(1e-4, 1.0), (1e-3, 2.0)]):
        with pytest.raises(TrainingError, match="Give learning_rate a number"):
            chosen_rate(curve)


@pytest.mark.parametrize("most", [3, 100])
def test_a_cpu_takes_the_plain_batch(most):
    sample = batch(1)
    found = find_batch_size(
        toy_model(), segzoo.Recipe(), SETTLED, CPU, sample, most=most, ignore_index=None
    )
    assert found == min(most, PLAIN_BATCH)


@pytest.mark.parametrize(("most", "expected"), [(1, 0), (2, 2), (9, 8), (100, 32)])
def test_sizes_are_doubled_while_they_fit(most, expected):
    assert doubled(lambda size: size <= 40, most) == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_size_that_fails_does_not_fit(error):
    def fits(size):
        if size > 4:
            raise error("CUDNN_STATUS_ALLOC_FAILED")
        return True

    assert doubled(fits, 100) == 4


@pytest.mark.parametrize("text", ["no kernel image", "an illegal memory access was encountered"])
def test_two_that_fail_otherwise_are_an_error(text):
    def fits(size):
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=text):
        doubled(fits, 100)


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED"])
def test_not_even_two_fit_whatever_the_library_calls_it(text):
    def fits(size):
        raise RuntimeError(text)

    assert doubled(fits, 100) == 0


@pytest.mark.parametrize(
    ("largest", "free", "expected"),
    [(20, lambda size: 0.5, 16), (100, lambda size: 0.5 if size < 9 else 0.01, 8), (1, None, None)],
)
def test_a_gpu_takes_what_fits_and_leaves_some_memory(monkeypatch, largest, free, expected):
    """On a device that only pretends to be one."""
    seen = []

    class Pretends:
        def __init__(self, *_, teacher, **__):
            assert teacher == "who is asked too"

        def begin(self, *, frozen):
            assert not frozen

        def update(self, batches, share, momentum):
            seen.append(len(batches[0][0]))
            if seen[-1] > largest:
                raise torch.OutOfMemoryError

    for name, value in {
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device: (free(seen[-1]) * 1000, 1000),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(finding, "Learner", Pretends)
    monkeypatch.setattr(finding, "random_state", lambda device: None)
    monkeypatch.setattr(finding, "set_random_state", lambda state, device: None)
    gpu = copy.copy(CPU)
    gpu.device = SimpleNamespace(type="cuda", index=0)
    call = (toy_model(), segzoo.Recipe(), SETTLED, gpu, batch(1))
    options = {"most": 1000, "ignore_index": None, "teacher": "who is asked too"}
    if expected is None:
        with pytest.raises(TrainingError, match="Not even two images fit"):
            find_batch_size(*call, **options)
        return
    assert find_batch_size(*call, **options) == expected
    assert max(seen) == 2 * expected


@pytest.mark.parametrize(("width", "computed"), [(32, torch.float32), (33, torch.bfloat16)])
def test_images_of_one_cell_are_not_computed_in_bfloat16(width, computed):
    """What a CPU gives for the gradients of such is not always a number."""
    model = segzoo.Unet("resnet10t", classes=2)
    settled = Settled(batch_size=2, learning_rate=1e-2, precision="bfloat16")
    made = Learner(model, segzoo.Recipe(), settled, CPU, ignore_index=None)
    made.begin(frozen=False)
    seen = []
    model.encoder.register_forward_hook(lambda module, given, maps: seen.append(maps[-1].dtype))
    data = (torch.rand(2, 3, 40, width), torch.zeros(2, 40, width, dtype=torch.int64))
    made.loss_of(data).backward()
    assert seen == [computed]
