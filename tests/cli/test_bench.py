"""``segzoo bench``: the same weights in both libraries, figures, reasons and refusals."""

import json
import sys
from pathlib import Path

import pytest
import torch

import segzoo
from segzoo import bench
from segzoo.cli import main
from segzoo.environment.machine import processor_name
from segzoo.errors import ArgumentError

SIZE = (64, 64)


def run(capsys, *arguments):
    code = main(["bench", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err.splitlines()


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv3_small_050"])
def test_both_models_have_the_same_settled_weights(encoder):
    pair = bench.make_pair(encoder, "unet", SIZE)
    image = torch.randn(2, 3, *SIZE)
    assert torch.equal(pair.ours(image), pair.theirs(image))
    assert not any(p.min() == p.max() for p in pair.ours.parameters())


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["smp_mobilenet_v2", "mit_b0", "densenet121", "regnetx_002"])
def test_the_rival_is_the_encoder_that_was_asked_for(encoder):
    pair = bench.make_pair(encoder, "unet", SIZE)
    assert pair.reason is None
    assert pair.ours.encoder.name.partition(".")[0] == encoder
    image = torch.randn(1, 3, *SIZE)
    assert torch.equal(pair.ours(image), pair.theirs(image))


@torch.no_grad()
def test_settled_models_neither_explode_nor_vanish():
    model = segzoo.Unet("resnet18", classes=3)
    images = torch.randn(2, 3, *SIZE)
    bench.settle(model, images)
    assert not model.training
    logits = model(images)
    assert 0.01 < logits.std() < 100
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_without_smp_ours_is_timed_alone_and_the_reason_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    _, out, _ = run(capsys, "resnet18", "--size", "32", "--threads", "1")
    assert "smp: not installed: pip install segmentation-models-pytorch" in out
    assert "how many times faster than segzoo eager" in out
    assert "smp eager" not in out
    last = out.splitlines()[-1]
    start = f"unet resnet18 1x32x32 float32 | {processor_name()}, 1 thread | "
    assert last.startswith(start)
    figures = [float(line.split()[-2]) for line in out.splitlines() if line.startswith("segzoo ")]
    assert last.removeprefix(start).startswith(f"{max(figures):.2f} images/s (")
    assert last.endswith(f"| segzoo {segzoo.__version__}, torch {torch.__version__}")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("processor : 0\nmodel name\t:\nModel : A Board Rev 1.2\n", "A Board Rev 1.2"),
        ("processor : 0\n", "another word"),
        (None, "another word"),
    ],
)
def test_the_processor_is_named_by_whoever_knows(monkeypatch, text, name):
    def read(path, **_):
        if text is None:
            raise FileNotFoundError(path)
        return text

    def no_program(*_, **__):
        raise FileNotFoundError("sysctl")

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr("subprocess.run", no_program)
    monkeypatch.setattr("platform.processor", lambda: "another word")
    assert processor_name() == name


def test_what_smp_cannot_build_is_told():
    pair = bench.make_pair("vit_tiny_patch16_224", "unet", SIZE)
    assert pair.theirs is None
    assert "Unsupported model downsampling pattern" in pair.reason
    assert bench.make_pair("resnet18", "dynamic_unet", SIZE).reason == (
        "smp has no architecture dynamic_unet"
    )


def test_the_figures_belong_together(capsys):
    threads = torch.get_num_threads()
    code, out, err = run(
        capsys, "test_resnet", "--size", "64x32", "--batch", "2", "--device", "cpu", "--json"
    )
    facts = json.loads(out)
    assert (code, err) == (0, [])
    assert torch.get_num_threads() == threads
    assert (facts["size"], facts["batch"], facts["smp"]) == ([64, 32], 2, None)
    rows = facts["ways"]
    assert list(rows) == ["segzoo eager", "segzoo optimized", "smp eager", "smp channels_last"]
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(2e3 / row["ms"]["median"], rel=0.01)
        assert row["difference_to_float64"] < 1e-4
    assert facts["baseline"].startswith("smp")
    assert rows[facts["baseline"]]["ratio"] == 1


def test_a_wrong_output_is_not_timed_and_the_exit_code_is_1(capsys, monkeypatch):
    def wrong(model, image, dtype, **_):
        return lambda: model(image) * 1.01

    monkeypatch.setattr(bench, "optimized", wrong)
    code, out, err = run(capsys, "resnet18", "--size", "32")
    assert code == 1
    assert "segzoo optimized  not timed: wrong output: differs by" in out
    assert err == ["segzoo: Not timed: segzoo optimized."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet43",), "Did you mean resnet34"),
        (("resnet18", "--size", "big"), "'big' is no size: give 512, or height and width"),
        (("resnet18", "--size", "0x32"), "'0x32' is no size"),
        (("resnet18", "--size", "99999"), "size must be between 1 and 16384"),
        (("resnet18", "--batch", "0"), "batch must be between 1 and 4096, got 0"),
        (("resnet18", "--dtype", "float61"), "Did you mean float16"),
        (("resnet18", "--arch", "unett"), "Did you mean unet"),
        (("resnet18", "--device", "gpu9"), "'gpu9' cannot be used"),
        (("resnet18", "--threads", "0"), "0 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_use_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out, len(err)) == (2, "", 1)
    assert message in err[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "gpu"}, "'gpu' cannot be used"),
        ({"device": None}, "'None' cannot be used"),
        ({"size": 64}, "size must be a sequence, got 64"),
        ({"size": (64,)}, r"size must be \(height, width\), got \(64,\)"),
        ({"size": (64, 64.0)}, "size must be an integer, got 64.0"),
        ({"rounds": 0}, "rounds must be between 1 and"),
        ({"limit": 0}, "limit must be above 0"),
        ({"limit": None}, "limit must be a number"),
        ({"batch": 1.5}, "batch must be an integer"),
    ],
    ids=str,
)
def test_values_that_cannot_work_are_refused_before_anything_is_built(monkeypatch, values, message):
    monkeypatch.setattr(bench, "make_pair", None)
    with pytest.raises(ArgumentError, match=message):
        bench.run_bench("test_resnet", **values)


def test_too_little_memory_is_one_line_wherever_it_ends(capsys, monkeypatch):
    def none_left(*_):
        raise RuntimeError("can't allocate memory\nat many places")

    monkeypatch.setattr(bench, "settle", none_left)
    code, out, err = run(capsys, "test_resnet", "--size", "32")
    assert (code, out, len(err)) == (2, "", 1)
    assert "cannot be run so on cpu in float32: can't allocate memory" in err[0]
