"""What only a GPU does, seen without one: its devices, its recorded graphs, its compiler."""

import contextlib
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import segzoo
from segzoo import timing
from segzoo.errors import OptimizationError
from segzoo.inference.optimize import autotune, backends, cuda_graph, optimize
from segzoo.inference.optimize.fused_conv import FusedConv, Geometry
from tests.helpers import ready, tiny_unet


class Frozen(nn.Module):
    """A graph that holds no work: the logits that were there when it was recorded, for ever."""

    def __init__(self, body, image):
        super().__init__()
        self.body, self.shape, self.logits = body, image.shape, body(image)

    def forward(self, image):
        return self.logits.clone() if image.shape == self.shape else self.body(image)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_without_work_is_refused(batch, monkeypatch):
    monkeypatch.setattr(optimize, "make_backend", lambda name, body, image: Frozen(body, image))
    with pytest.raises(OptimizationError, match="too far from its source"):
        segzoo.optimize(ready(tiny_unet()), backend="eager", example=torch.rand(batch, 3, 32, 32))


def test_a_graph_is_recorded_on_the_images_device(monkeypatch):
    """On the device and on a stream of it, whichever device is current."""
    current, seen = ["cuda:0"], []

    class Stream:
        def __init__(self, device=None, **options):
            self.device = device

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __getattr__(self, name):
            return lambda *arguments: None

    @contextlib.contextmanager
    def device_of(tensor):
        current.append("the image's")
        yield
        current.pop()

    class Graph:
        def replay(self):
            seen.append(("replay", current[-1]))

        def capture_begin(self, **options):
            seen.append(("record", current[-1], streams[-1].device))

        def capture_end(self):
            seen.append("recorded")

    @contextlib.contextmanager
    def on_stream(stream):
        streams.append(stream)
        yield
        streams.pop()

    streams = []
    monkeypatch.setattr(cuda_graph, "_STREAMS", {})
    for name in ("current_stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: Stream())
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    image = torch.zeros(1, 3, 4, 5)
    with torch.no_grad():
        backends.RecordedFor(nn.Conv2d(3, 2, 1), image)(image)
    recorded = ("record", "the image's", image.device)
    assert seen == [recorded, "recorded", ("replay", "the image's")]
    assert list(cuda_graph._STREAMS) == [image.device]


def test_steps_are_timed_many_at_a_launch(monkeypatch):
    """The clock sees the work of ten calls, recorded once, and not their launches."""
    recorded, replayed = [], []

    class Graph:
        def replay(self):
            replayed.append(self)

        def capture_begin(self, *, pool, capture_error_mode):
            assert cuda_graph._RECORDING.locked()  # torch records one at a time
            self.pool, self.before = pool, len(calls)

        def capture_end(self):
            recorded.append((len(calls) - self.before, self.pool))

    for name in ("stream", "device_of"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: contextlib.nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: SimpleNamespace(wait_stream=id))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(cuda_graph, "_STREAMS", {})
    calls = []

    def call():
        calls.append(1)
        return torch.full((2,), float(len(calls)))

    replay = cuda_graph.launched_at_once(call, torch.zeros(1), 10, "a pool")
    assert recorded == [(10, "a pool")]
    assert len(calls) == 13
    assert replay().tolist() == [13, 13]
    assert (len(replayed), len(calls)) == (1, 13)

    def refuse(*arguments, **options):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graph, "capture_begin", refuse)
    again = cuda_graph.launched_at_once(call, torch.zeros(1), 10)
    before = len(calls)
    assert again().tolist() == [before + 10] * 2  # as much work as those that are recorded
    assert not cuda_graph._RECORDING.locked()
    monkeypatch.setattr(Graph, "capture_begin", lambda graph, **options: None)
    monkeypatch.setattr(Graph, "capture_end", lambda graph: ended.append(graph))
    ended = []
    assert cuda_graph.launched_at_once(lambda: refuse(), torch.zeros(1), 10)
    monkeypatch.setattr(cuda_graph, "_WARMUP", 0)  # what fails only while it is recorded
    cuda_graph.launched_at_once(lambda: refuse(), torch.zeros(1), 10)
    assert len(ended) == 1  # a recording that failed is ended, or all later ones would fail


def test_memory_is_asked_for_only_where_it_is_wanted(monkeypatch):
    monkeypatch.setattr(timing, "synchronise", lambda device: None)

    def asked(*_):
        raise AssertionError("the cache was emptied")

    monkeypatch.setattr(torch.cuda, "empty_cache", asked)
    monkeypatch.setattr(torch.cuda, "memory_reserved", asked)
    call = functools.partial(torch.zeros, 1)
    arguments = {"difference": lambda output: 0.0, "allowed": 1.0, "device": "cuda", "rounds": 1}
    found = timing.side_by_side({"a": lambda: call}, memory=False, **arguments)["a"]
    assert found.timing is not None
    assert found.memory is None
    with pytest.raises(AssertionError, match="emptied"):
        timing.side_by_side({"a": lambda: call}, **arguments)


def test_more_models_than_the_compiler_keeps_of_one_code_are_compiled(monkeypatch):
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda run, **options: compile_(run, backend=count, **options)
    )
    image = torch.rand(1, 3, 4, 4)
    for number in range(11):
        body = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        run = backends.CompiledFor(body, image)
        assert len(compiled) == number + 1
        with torch.no_grad():
            torch.testing.assert_close(run(image), body(image))
            assert run(image[..., :3]).shape == (1, 2, 4, 3)
    assert len(compiled) == 11
    torch.compiler.reset()


def steps_by(body):
    return {step.kernel for step in body.modules() if isinstance(step, FusedConv)}


def test_fastest_tries_the_compiler_too(monkeypatch):
    """The compiler gets the steps that are best for it, and one that fails is told."""
    made = {}

    def make(name, body, image):
        made[name] = body
        if name == "max-autotune":
            raise AssertionError  # without a word
        return body

    monkeypatch.setattr(optimize, "make_backend", make)
    model = ready(tiny_unet())
    fast = segzoo.optimize(model, backend="fastest", example=torch.rand(1, 3, 32, 32))
    assert list(made) == ["eager", "compile", "max-autotune"]
    assert made["eager"] is not made["compile"] is made["max-autotune"]
    assert "onednn" not in steps_by(made["compile"])
    assert "  backend max-autotune  AssertionError: " in fast.report()
    assert fast.report().count("x backend") == 1
    made.clear()
    segzoo.optimize(model, backend="auto", example=torch.rand(1, 3, 32, 32))
    assert list(made) == ["eager"]
    with pytest.raises(OptimizationError, match="'max-autotune' failed"):
        segzoo.optimize(model, backend="max-autotune", example=torch.rand(1, 3, 32, 32))


def test_which_backends_are_compared():
    cuda = torch.device("cuda")
    assert backends.to_be_compared("auto", cuda) == ["eager", "cudagraph"]
    assert backends.to_be_compared("fastest", cuda) == list(backends.BACKENDS)
    assert backends.to_be_compared("compile", cuda) == ["compile"]


def test_differences_are_found_piece_by_piece(monkeypatch):
    """A batch in float64 may not fit where it does itself."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(5, 3, 4, 6, generator=generator)
    output = reference.clone()
    output[3, 1, 2, 3] += 0.5
    whole = timing.largest_difference(output, reference)
    assert whole == pytest.approx(0.5 / float(reference.max()))
    monkeypatch.setattr(timing, "_AT_ONCE", 150)
    assert timing.largest_difference(output, reference) == whole
    assert math.isnan(timing.largest_difference(output * math.nan, reference))
    assert timing.largest_difference(torch.tensor(3.0), torch.tensor(2.0)) == 0.5
    with pytest.raises(ValueError, match="cannot be compared"):
        timing.largest_difference(output[:2], reference)


def test_without_timing_a_large_window_is_not_given_to_cudnn(monkeypatch):
    tried = []
    monkeypatch.setattr(FusedConv, "choices", lambda self, x: ["torch", "cudnn"])
    monkeypatch.setattr(
        FusedConv, "use", lambda self, kernel, x: tried.append((self.weight.shape[-1], kernel))
    )
    monkeypatch.setattr(autotune, "_FOUND", {})
    body = nn.Sequential(
        FusedConv(torch.zeros(8, 3, 7, 7), None, Geometry(padding=(3, 3)), act="relu"),
        FusedConv(torch.zeros(8, 8, 3, 3), None, Geometry(), act="relu"),
    )
    autotune.choose(body, torch.rand(1, 3, 16, 16), timed=False)
    assert (7, "cudnn") not in tried
    assert tried[-1] == (3, "cudnn")
    tried.clear()
    autotune.choose(body, torch.rand(1, 3, 16, 16), timed=True)
    assert (7, "cudnn") in tried
