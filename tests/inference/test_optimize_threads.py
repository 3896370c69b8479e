"""Optimising, and running what is optimised, in several threads at once."""

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import fx, nn

import segzoo
from segzoo.inference import precision
from segzoo.inference.optimize import autotune, backends, cuda_graph
from segzoo.inference.optimize.trace import trace_module
from segzoo.nn.sharing import Lock
from tests.helpers import in_threads, tiny_unet


class Recorded:
    """A CUDA graph without CUDA: it computes the recorded logits from the recorded image."""

    def capture_begin(self, **options):
        pass

    def capture_end(self):
        pass

    def replay(self):
        image = self.run.image.clone()
        time.sleep(1e-3)
        self.run.logits.copy_(self.run.body(image))
        time.sleep(1e-3)


class Stream:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
def recorded(monkeypatch):
    """What runs a model as a recorded graph, on the CPU."""
    for name in ("Stream", "stream", "current_stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: Stream())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(cuda_graph, "_STREAMS", {})
    with torch.no_grad():
        run = backends.RecordedFor(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 4, 5))
    run.graph.run = run
    return run


@torch.no_grad()
def test_threads_do_not_mix_up_the_images_of_a_recorded_graph(recorded):
    images = [torch.full((1, 3, 4, 5), float(i)) for i in range(16)]
    wanted = [recorded.body(image) for image in images]

    def run(image):
        with torch.no_grad():
            return recorded(image)

    for logits, expected in zip(in_threads(run, images), wanted, strict=True):
        torch.testing.assert_close(logits, expected)
    assert recorded(torch.zeros(1, 3, 2, 2)).shape == (1, 2, 2, 2)


def test_a_lock_is_copied_and_pickled_with_its_module():
    module = nn.Identity()
    module.lock = Lock()
    with module.lock:
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            with other.lock:  # another one, or this would wait for ever
                pass


def test_four_threads_optimise_at_once():
    models = [tiny_unet().eval() for _ in range(4)]
    image = torch.rand(1, 3, 32, 48)
    fast = in_threads(lambda m: segzoo.optimize(m, backend="eager", example=image), models, 4)
    for model, optimised in zip(models, fast, strict=True):
        assert "2 of 2 parts are graphs" in optimised.report()
        with torch.no_grad():
            torch.testing.assert_close(optimised(image), model(image), atol=1e-5, rtol=1e-5)


class Slow(nn.Module):
    """Lets others run in the middle of it."""

    def __init__(self, reached, go_on):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.reached, self.go_on = reached, go_on

    def forward(self, x):
        self.reached.set()
        self.go_on.wait(0.2)
        return self.conv(torch.relu(x))


def test_a_module_runs_as_ever_while_another_thread_records():
    reached, go_on = threading.Event(), threading.Event()
    slow = Slow(reached, go_on)
    other = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), slow.conv)
    with ThreadPoolExecutor(1) as pool:
        graph = pool.submit(trace_module, slow)
        assert reached.wait(60)
        out = other(torch.rand(1, 1, 3, 3))
        weight = slow.conv.weight
        go_on.set()
        traced = graph.result()
    assert out.shape == (1, 1, 3, 3)
    assert isinstance(weight, nn.Parameter)
    assert isinstance(traced, fx.GraphModule)
    assert [node.op for node in traced.graph.nodes].count("call_module") == 1


def test_two_threads_record_one_after_the_other():
    slow = [Slow(threading.Event(), threading.Event()) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        graphs = [pool.submit(trace_module, module) for module in slow]
        time.sleep(0.05)
        slow[0].go_on.set()
        slow[1].go_on.set()
        assert all(isinstance(graph.result(), fx.GraphModule) for graph in graphs)


def test_the_precision_of_the_process_is_put_back():
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    entered, leave = threading.Event(), threading.Event()

    def second():
        with precision.exactly():
            entered.set()
            leave.wait(60)

    try:
        thread = threading.Thread(target=second)
        with precision.exactly():
            assert not matmul.allow_tf32
            thread.start()
            entered.wait(0.05)
        leave.set()
        thread.join()
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before


def test_what_was_found_is_forgotten_the_longest_unused_first(monkeypatch):
    monkeypatch.setattr(autotune, "_FOUND", {})
    monkeypatch.setattr(autotune, "_MOST", 3)
    for i in (1, 2, 3, 1, 4):
        assert autotune._remembered((i,), lambda i=i: f"choice {i}") == f"choice {i}"
    assert list(autotune._FOUND) == [(3,), (1,), (4,)]
    assert autotune._remembered((1,), lambda: "another") == "choice 1"
    found = in_threads(lambda i: autotune._remembered((i % 7,), lambda: str(i % 7)), range(200))
    assert found[1:] == ["choice 1" if i == 1 else str(i % 7) for i in range(1, 200)] or set(found)
    assert len(autotune._FOUND) == 3


def test_kernels_are_launched_one_at_a_time(monkeypatch):
    pytest.importorskip("triton")
    from segzoo.inference.kernels import launching, operators

    inside, together = [], []

    class Launched:
        def __getitem__(self, grid):
            return self.run

        def run(self, *arguments, **options):
            inside.append(1)
            together.append(len(inside))
            time.sleep(1e-3)
            inside.pop()

    monkeypatch.setattr(operators, "_demand_usable", lambda x: None)
    monkeypatch.setattr(launching, "KERNELS", {"conv": Launched(), "head": Launched()})
    x, weight, bias = torch.zeros(1, 16, 4, 4), torch.zeros(9, 16, 16), torch.zeros(16)

    def launch(i):
        if i % 2:
            operators._conv3x3(x, weight, bias, 16, True, 0)
        else:
            operators._conv3x3_head(x, weight, bias, weight, bias, 3, False, 0)

    in_threads(launch, range(16))
    assert together == [1] * 16
