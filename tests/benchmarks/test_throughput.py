"""The benchmark of whole models: its record, what it refuses to time, what it says is missing."""

import contextlib
import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import segzoo
from benchmarks.common import put_aside
from benchmarks.throughput import achieved, beside, candidates, card, child, roofline, run
from benchmarks.throughput.report import report
from benchmarks.throughput.settings import CPU, CPU_FULL, GPU, GPU_FULL, Setting, from_json
from segzoo.bench import as_called
from segzoo.inference.optimize.trace import Body, trace

from ..helpers import randomise, reference, tiny_unet

TINY = Setting(encoder="test_resnet", size=(64, 64), threads=1)


def measured(setting=TINY, only="*eager"):
    budget = child.Budget(100)
    options = {"device": "cpu", "rounds": 1, "limit": 0, "only": only}
    return child.measure(setting, budget, **options)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    """The real ones take seconds."""
    monkeypatch.setattr(child, "ceilings", lambda *_: {"copy_gb_s": 10.0, "tflop_s": 0.1})
    child.pair_of.cache_clear()


def test_one_command_writes_record_table_and_plot(tmp_path, capsys):
    setting = "--cpu --encoder test_resnet --size 64 --batch 1 --threads 1 --rounds 1 --limit 0.1"
    run.main([*setting.split(), "--only", "*[op] eager", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "throughput_cpu.json").read_text())
    assert record["gpu"] == "not measured"
    assert record["environment"]["threads"] == "1"
    assert record["left_out"] == {}
    (result,) = record["results"]
    assert from_json({k: v for k, v in result["setting"].items() if k != "batch_searched"}) == TINY
    assert result["best_rival"] == "smp eager"
    assert result["ceilings"]["tflop_s"] > 0
    row = result["ways"]["smp eager"]
    assert row["to_best_rival"] == 1
    assert row["images_per_second"] == pytest.approx(1e3 / row["ms"]["median"], rel=0.01)
    assert row["difference"] <= result["allowed_difference"]
    assert (tmp_path / "throughput_cpu.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "throughput_cpu.md").read_text().strip()
    assert "GPU: not measured" in printed


def test_a_wrong_output_is_not_timed(monkeypatch):
    def wrong(load):
        model = load.copy()
        return lambda: model(load.image) * 1.001

    right = partial(candidates._eager, channels_last=False)
    entries = (candidates.Candidate("right", right), candidates.Candidate("wrong", wrong))
    monkeypatch.setattr(candidates, "INFERENCE", entries)
    result = measured(only="*")
    assert "ms" in result["ways"]["segzoo right"]
    for name in ("segzoo wrong", "smp wrong"):
        assert result["ways"][name]["not_timed"].startswith("wrong output: differs by")
        assert "ms" not in result["ways"][name]
    assert result["best_rival"] == "smp right"
    record = {"results": [result], "gpu": "not measured", "left_out": {}}
    assert "- smp wrong: wrong output" in report(record)


def test_smp_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    result = measured()
    assert result["best_rival"] is None
    assert not any(name.startswith("smp") for name in result["ways"])
    record = {"results": [result], "gpu": "not measured", "left_out": {}}
    assert "- smp: not installed: pip install segmentation-models-pytorch" in report(record)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_training_step_is_compared_by_loss_and_gradients(monkeypatch, wrong):
    if wrong:  # the gradient of one parameter is off, the loss is right
        plain = candidates.training

        def training(load, **options):
            step = plain(load, **options)

            def call():
                loss, parameters = step()
                parameters[0].grad *= 1.5
                return loss, parameters

            return call

        entries = (candidates.Candidate("eager", partial(training, how="eager")),)
        monkeypatch.setattr(candidates, "TRAINING", entries)
    setting = Setting("resnet18", (64, 64), 2, task="training", threads=1, quick=True)
    rows = measured(setting, only="* eager")["ways"]
    assert list(rows) == ["segzoo eager", "smp eager"]
    assert [("ms" in row) for row in rows.values()] == [not wrong] * 2


def test_settings_that_do_not_fit_the_time_are_named():
    options = {"device": "cpu", "rounds": 1, "limit": 1.0, "only": "*"}
    found = run.run([TINY], minutes=0, options=options)
    assert found == {"results": [], "left_out": {str(TINY): "the time was used up"}}


def test_a_process_that_dies_takes_one_setting_with_it(monkeypatch):
    second = Setting(encoder="resnet34", threads=1)
    events = iter([[{"begins": 0}], [{"begins": 1}, {"ends": 1, "result": {"it": "is"}}]])
    monkeypatch.setattr(run, "_child", lambda *_: next(events))
    options = {"device": "cpu", "rounds": 1, "limit": 1.0, "only": "*"}
    found = run.run([TINY, second], minutes=9, options=options)
    assert found["results"] == [{"it": "is"}]
    assert found["left_out"] == {str(TINY): "the process was stopped, or stopped itself"}


def test_the_time_that_building_took_is_expected_again():
    budget = child.Budget(100)
    candidate = candidates.Candidate("compiled", candidates.compiled, kind="compiled")
    assert budget.refusal(candidate, reserve=10) is None
    budget.saw(candidate, 95)
    assert budget.refusal(candidate, reserve=10) == "left out: the time was used up"


def test_the_sets_have_no_setting_twice():
    for settings in (CPU, CPU_FULL, GPU, GPU_FULL):
        assert len(set(settings)) == len(settings)
    for setting in (*CPU_FULL, *GPU_FULL):
        assert from_json(json.loads(json.dumps(setting.as_json()))) == setting
        assert candidates.candidates(setting, "ours", "cuda")


def test_both_sides_take_turns_and_what_takes_long_comes_last():
    entries = list(child.in_order(GPU[0], ["ours", "theirs"], "smp", "cuda"))
    kinds = [candidate.kind for _, _, candidate in entries]
    assert kinds == sorted(kinds, key=list(child._EXPECTED).index)
    assert [name for name, _, _ in entries[:2]] == ["segzoo eager", "smp eager"]
    tuned = [side for _, side, candidate in entries if candidate.kind == "tuned"]
    assert tuned[:2] == ["ours", "theirs"]
    assert len({name for name, _, _ in entries}) == len(entries)


def test_a_setting_leaves_time_for_the_next():
    whole = child.Budget(100)
    part = whole.part(10)
    assert part.left <= 10 < whole.left
    assert whole.part(None).left == pytest.approx(whole.left, abs=1)
    part.saw(candidates.Candidate("x", candidates.compiled, kind="compiled"), 95)
    assert whole.expected["compiled"] == 95


def test_the_way_from_picture_to_mask_is_the_model_s():
    model = tiny_unet().eval()
    call = as_called(model, torch.randn(2, 3, 64, 96))
    way = beside.picture_to_mask(call, model.normalization)
    pictures = torch.randint(
        0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )
    assert torch.equal(way().long(), model.predict(pictures))
    found = beside.measure_beside(call, model.normalization, torch.device("cpu"), 0.0)
    assert found["latency_ms"]["calls"] == 3
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert found["first_call_at_another_shape_ms"] > 0
    assert "joules" not in found


def test_what_the_card_says_of_itself(monkeypatch):
    answers = {
        "--query-gpu=name": "NVIDIA X, 1.2, 700.00 W, 1980 MHz, 143771 MiB",
        "--query-gpu=clo": "345 MHz, 2619 MHz, 71.10 W, 30, 0x0000000000000001",
        "--query-com": "12, 300 MiB\n",
    }

    def ask(command, **_):
        out = next(text for start, text in answers.items() if command[1].startswith(start))
        return SimpleNamespace(stdout=out)

    monkeypatch.setattr(card.subprocess, "run", ask)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    assert card.state()["power.draw"] == "71.10 W"
    facts = card.facts()
    assert (facts["power.limit"], facts["processes"]) == ("700.00 W", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert card.state() == card.facts() == {}


@torch.no_grad()
def test_the_roofline_s_rewritten_model_is_the_same_model():
    model = tiny_unet().double()
    randomise(model)
    model.eval()
    image = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    shapes = roofline.block_shapes(model, image)
    assert all(shape.doubles for shape in shapes)
    other = roofline.rewritten(model, shapes)
    assert torch.allclose(other(image), model(image), rtol=1e-12, atol=1e-12)
    with FlopCounterMode(display=False) as plain:
        model(image)
    with FlopCounterMode(display=False) as rewritten:
        other(image)
    found = roofline.accounts(roofline.on_meta(model), image.to("meta"))
    flops = {name: sum(p.flops for p in parts.values()) for name, parts in found.items()}
    assert flops["eager"] == flops["compiled"] == plain.get_total_flops()
    assert flops["rewritten"] == flops["block_fused"] == rewritten.get_total_flops()
    moved = [sum(p.values for p in found[name].values()) for name in roofline.ACCOUNTS]
    assert moved == sorted(moved, reverse=True)


@torch.no_grad()
@pytest.mark.parametrize(
    ("fuse", "values"),
    [
        # 16 values through convolution (9 + 1 weights), ReLU, and a second convolution
        ("nothing", (16 + 10 + 16) + (16 + 16) + (16 + 10 + 16)),
        ("elementwise", (16 + 10 + 16) + (16 + 16) + (16 + 10 + 16)),
        ("epilogues", (16 + 10 + 16) + (16 + 10 + 16)),
    ],
)
def test_bytes_are_those_counted_by_hand(fuse, values):
    layers = [torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Conv2d(1, 1, 3, padding=1)).to("meta")
    recorder = roofline.Recorder(fuse)
    with recorder.watching():
        model(torch.empty(1, 1, 4, 4, device="meta"))
    assert sum(part.values for part in recorder.parts.values()) == values


def test_a_torch_that_shows_no_operations_is_no_count_of_zero(monkeypatch):
    monkeypatch.setattr(roofline, "operations_go_to", lambda _: contextlib.nullcontext())
    recorder = roofline.Recorder()
    with pytest.raises(RuntimeError, match="no operation was seen"), recorder.watching():
        torch.empty(1, device="meta") + 1


@torch.no_grad()
def test_two_elementwise_operations_are_one_kernel():
    conv = torch.nn.Conv2d(1, 1, 1, bias=False, device="meta")
    image = torch.empty(1, 1, 4, 4, device="meta")
    recorder = roofline.Recorder("elementwise")
    with recorder.watching():
        conv((conv(image) + image).relu())
    first, joined, second = 16 + 1 + 16, 16 + 16 + 16, 16 + 1 + 16
    assert sum(part.values for part in recorder.parts.values()) == first + joined + second


def test_each_step_of_a_plain_and_an_optimised_model_belongs_to_a_part():
    model, image = reference(), torch.rand(1, 3, 64, 64)
    eager = roofline.accounts(roofline.on_meta(model), image.to("meta"))["eager"]
    parts = list(roofline.merged(eager))
    fast = segzoo.optimize(model, example=image, backend="eager")
    for body in (trace(model, image), next(m for m in fast.modules() if isinstance(m, Body))):
        expected = body(image)
        clocks = achieved.timed(body, parts, image.device)
        assert torch.equal(body(image), expected)
        assert [part for clock in clocks for part in clock.times] == parts
        assert all(clock.times[part] > 0 for clock in clocks for part in clock.times)


def test_the_roofline_record_names_what_it_is():
    record = roofline.measure("resnet18", 64, 2, 2, {"gb_s": 1.0, "tflop_s": 1.0})
    assert "nothing here was timed" in record["modelled"]
    parts = [row["part"] for row in record["parts"]]
    assert parts == [
        *("conv1", "layer1", "layer2", "layer3", "layer4"),
        *(f"decoder.blocks.{i}" for i in range(5)),
        "head",
    ]


def test_a_record_of_another_kind_of_processor_is_kept_under_its_name(tmp_path):
    here = {"gpu": None, "cpu": "Some(R) CPU @ 2", "instructions": ["AVX2", "AMX bf16"]}
    kinds = [
        here,  # the same one: replaced
        {"gpu": None, "cpu": "Some(R) CPU @ 2"},  # not told
        {**here, "instructions": ["AVX2"]},
        {"gpu": None, "cpu": "An Other"},
    ]
    for number, kind in enumerate(kinds):
        path = tmp_path / str(number) / "throughput_cpu.json"
        path.parent.mkdir()
        put_aside(path, here)
        path.write_text(json.dumps({"environment": kind}))
        put_aside(path, here)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    assert found == {
        "0/throughput_cpu.json",
        "1/throughput_cpu.json",
        "2/throughput_cpu_some_r_cpu_2_avx2.json",
        "3/throughput_cpu_an_other.json",
    }
