"""Classes without logits: what a recorded graph decides, with a stand-in for CUDA's graphs."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import segzoo
from segzoo.errors import ArgumentError, InputError
from segzoo.inference.optimize import backends, optimize
from segzoo.inference.optimize.answers import decided
from tests.helpers import ready, tiny_unet

SHAPE = (2, 3, 32, 48)


class Graph:
    """Runs again what was called while it was recorded."""

    def __init__(self):
        self.again = None

    def replay(self):
        self.again()

    def pool(self):
        return "its memory"


class Recorded(backends.RecordedFor):
    """As the real one, but for the device."""

    pools: ClassVar[list[object]] = []

    def __init__(self, body, image, *, beside=None):
        def record(call, image, *, pool=None, **_):
            Recorded.pools.append(pool)
            graph, out = Graph(), call()
            graph.again = lambda: out.copy_(call())
            return graph, out

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backends, "record", record)
            patch.setattr(torch.cuda, "Event", Event)
            super().__init__(body, image, beside=beside)

    def forward(self, image):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "current_stream", lambda *_: Event())
            return super().forward(image)


class Event:
    """An event, and a stream that waits for one."""

    def record(self, stream):
        pass

    def wait_event(self, event):
        assert isinstance(event, Event)


@pytest.fixture
def fast_of(monkeypatch):
    """What optimises a model as on a device that records graphs."""
    monkeypatch.setattr(optimize, "make_backend", lambda name, body, image: Recorded(body, image))
    monkeypatch.setattr(optimize, "RecordedFor", Recorded)
    Recorded.pools.clear()

    def build(classes=3, **options):
        torch.manual_seed(0)
        model = ready(tiny_unet(classes=classes))
        return model, segzoo.optimize(model, backend="eager", example=torch.rand(SHAPE), **options)

    return build


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 31, 48)], ids=["recorded", "another"])
def test_masks_and_predict_are_those_of_the_logits(fast_of, classes, shape):
    model, fast = fast_of(classes)
    assert "x masks" in fast.report()
    image = torch.randn(shape)
    logits = fast(image)
    masks = fast.masks(image)
    assert (masks.dtype, masks.shape) == (torch.uint8, (shape[0], *shape[2:]))
    expected = logits.argmax(dim=1) if classes > 1 else (logits[:, 0] > 0).long()
    assert torch.equal(masks.long(), expected)
    picture = (torch.rand(shape) * 255).to(torch.uint8)
    found = fast.predict(picture)
    assert found.dtype is torch.int64
    assert torch.equal(found, model.predict(picture))
    assert torch.equal(fast.predict(picture[0]), model.predict(picture[0]))


def test_both_graphs_share_image_memory_and_turn(fast_of):
    _, fast = fast_of()
    assert Recorded.pools == [None, "its memory"]
    run, answers = fast._run, fast._answers
    assert run.image is answers.image
    assert run.lock is answers.lock
    assert run.done is answers.done


def test_an_image_becomes_what_the_graph_reads_in_one_copy(fast_of, monkeypatch):
    _, fast = fast_of(dtype=torch.bfloat16)
    seen = []
    copy_ = torch.Tensor.copy_

    def watched(self, source, *rest):
        if self is fast._run.image:
            seen.append((source.dtype, source.is_contiguous()))
        return copy_(self, source, *rest)

    monkeypatch.setattr(torch.Tensor, "copy_", watched)
    image = torch.rand(SHAPE)
    assert fast(image).dtype is torch.bfloat16
    assert seen == [(torch.float32, True)]
    wanted = fast._run.body(image.bfloat16())
    assert torch.equal(fast(image), wanted)


@pytest.mark.parametrize("classes", [1, 3])
def test_not_a_number_is_no_class(classes):
    logits = torch.randn(2, classes, 4, 5)
    whole = decided(logits, 0.0)
    logits[1, -1, 2, 3] = torch.nan
    missing = decided(logits, 0.0)
    assert missing[1, 2, 3] == 255
    missing[1, 2, 3] = whole[1, 2, 3]
    assert torch.equal(missing, whole)


def test_a_picture_without_classes_is_refused(fast_of, monkeypatch):
    _, fast = fast_of()
    monkeypatch.setattr(fast._answers, "forward", lambda image: decided(image / 0 * 0, 0.0))
    with pytest.raises(InputError, match="logits are NaN for a picture of finite pixels"):
        fast.predict(torch.rand(SHAPE))


def test_a_confidence_asks_for_logits(fast_of, monkeypatch):
    model, fast = fast_of()
    picture = torch.rand(SHAPE)
    monkeypatch.setattr(fast._answers, "forward", None)
    found = fast.predict(picture, min_confidence=0.5)
    assert torch.equal(found, model.predict(picture, min_confidence=0.5))


def test_what_decides_wrongly_or_fails_is_left_out(fast_of, monkeypatch):
    class Wrong(nn.Module):
        fused = False

        def __init__(self, run, threshold):
            super().__init__()
            self.run = run

        def forward(self, image):
            return 2 - decided(self.run(image), 0.0)

    monkeypatch.setattr(optimize, "Answers", Wrong)
    _, fast = fast_of()
    assert fast._answers is None
    assert "  masks" in fast.report()
    monkeypatch.setattr(optimize, "Answers", None)
    _, fast = fast_of()
    assert "TypeError" in fast.report()
    image = torch.rand(SHAPE)
    assert torch.equal(fast.masks(image).long(), fast(image).argmax(dim=1))


def test_of_too_many_classes_there_is_no_number(fast_of):
    _, fast = fast_of(classes=256)
    assert "masks" not in fast.report()
    with pytest.raises(ArgumentError, match="has 256 classes"):
        fast.masks(torch.rand(SHAPE))


def test_bad_images_are_refused_as_ever(fast_of):
    _, fast = fast_of()
    for image in ("text", torch.zeros(SHAPE, dtype=torch.uint8), torch.rand(2, 4, 32, 48)):
        with pytest.raises(InputError):
            fast.masks(image)


def test_autocast_changes_nothing():
    """An optimised model has its own precision; a graph or a kernel is made for that."""
    torch.manual_seed(0)
    model, image = ready(tiny_unet()), torch.rand(SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        fast = segzoo.optimize(model, backend="eager", example=image)
        inside = fast(image), fast.masks(image)
    assert inside[0].dtype is torch.float32
    assert torch.equal(inside[0], fast(image))
    assert torch.equal(inside[1], fast.masks(image))
