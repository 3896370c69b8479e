"""Segments of queries: as transformers makes them, and what cannot be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import segzoo
from segzoo.errors import ArgumentError, InputError

SIDE = 48


def queries(count: int = 9, classes: int = 4, *, images: int = 2, seed: int = 0) -> segzoo.Queries:
    """Smooth masks that overlap, and classes of which most queries are sure."""
    random = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(images, count, 4, 4, generator=random)
    masks = F.interpolate(coarse, (12, 12), mode="bicubic")
    return segzoo.Queries(masks, 5 * torch.randn(images, count, classes + 1, generator=random))


@pytest.fixture(scope="module")
def processor() -> Any:
    transformers = pytest.importorskip("transformers")
    size = {"shortest_edge": SIDE, "longest_edge": SIDE}
    return transformers.EomtImageProcessor(size=size)


def outputs(found: segzoo.Queries) -> Any:
    return SimpleNamespace(
        masks_queries_logits=found.mask_logits,
        class_queries_logits=found.class_logits,
        patch_offsets=None,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("threshold", "overlap", "stuff"), [(0.8, 0.8, ()), (0.4, 0.2, (0, 2)), (0.0, 0.0, (1,))]
)
def test_panoptic_is_transformers(processor, seed, threshold, overlap, stuff):
    found = queries(seed=seed)
    ours = segzoo.postprocess.panoptic(
        found, size=(SIDE, SIDE), threshold=threshold, overlap_threshold=overlap, stuff=stuff
    )
    theirs = processor.post_process_panoptic_segmentation(
        outputs(found),
        target_sizes=[(SIDE, SIDE)] * 2,
        threshold=threshold,
        overlap_mask_area_threshold=overlap,
        stuff_classes=list(stuff),
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.ids, other["segmentation"].long())
        told = [{"id": i, "label_id": k, "score": round(s, 6)} for i, k, s in mine.segments]
        assert told == other["segments_info"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.8, 0.3, 0.0])
def test_instances_are_transformers(processor, seed, threshold):
    found = queries(seed=seed)
    ours = segzoo.postprocess.instances(found, size=(SIDE, SIDE), threshold=threshold)
    theirs = processor.post_process_instance_segmentation(
        outputs(found), target_sizes=[(SIDE, SIDE)] * 2, threshold=threshold
    )
    for mine, other in zip(ours, theirs, strict=True):
        # Theirs is one map: later instances lie over earlier ones.
        ids = torch.full((SIDE, SIDE), -1)
        for i, mask in enumerate(mine.masks):
            ids[mask] = i
        assert torch.equal(ids, other["segmentation"].long())
        assert mine.labels.tolist() == [item["label_id"] for item in other["segments_info"]]
        scores = [item["score"] for item in other["segments_info"]]
        assert mine.scores.tolist() == pytest.approx(scores, abs=1e-6)


def test_masks_are_drawn_at_the_size_of_the_image():
    masks = torch.full((1, 2, 4, 4), -9.0)
    masks[0, 0, :, :2] = 9.0
    masks[0, 1, :, 2:] = 9.0
    classes = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    found = segzoo.Queries(masks, classes)
    ids, segments = segzoo.postprocess.panoptic(found, size=(10, 20))[0]
    assert ids.shape == (10, 20)
    assert (ids[:, :10] == 0).all()
    assert (ids[:, 10:] == 1).all()
    assert [segment.label for segment in segments] == [0, 1]
    found = segzoo.postprocess.instances(found, size=(10, 20))[0]
    assert found.masks.sum(dim=(1, 2)).tolist() == [100, 100]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_area_of_a_mask_fits_into_every_precision(dtype):
    side = 300  # 90000 pixels: half precision ends at 65504, and bfloat16 counts to 256
    masks = torch.full((1, 1, 4, 4), 4.0, dtype=dtype)
    classes = torch.tensor([[[3.0, -3.0]]], dtype=dtype)
    found = segzoo.postprocess.instances(segzoo.Queries(masks, classes), size=(side, side))[0]
    assert found.scores.tolist() == pytest.approx([0.9796], abs=1e-4)
    assert found.scores.dtype == (dtype if dtype == torch.float64 else torch.float32)
    found = segzoo.postprocess.panoptic(segzoo.Queries(masks, classes), size=(side, side))[0]
    assert [segment.label for segment in found.segments] == [0]
    assert (found.ids == 0).all()


def test_nothing_is_found():
    sure_of_nothing = torch.zeros(1, 3, 5)
    sure_of_nothing[..., -1] = 9.0
    found = segzoo.Queries(torch.randn(1, 3, 4, 4), sure_of_nothing)
    assert segzoo.postprocess.panoptic(found, size=(8, 8))[0].segments == ()
    assert (segzoo.postprocess.panoptic(found, size=(8, 8))[0].ids == -1).all()
    assert segzoo.postprocess.instances(found, size=(8, 9))[0].masks.shape == (0, 8, 9)
    empty = segzoo.Queries(torch.full((1, 3, 4, 4), -9.0), torch.eye(3, 5)[None] * 9)
    assert segzoo.postprocess.panoptic(empty, size=(8, 8))[0].segments == ()
    assert segzoo.postprocess.instances(empty, size=(8, 8), threshold=0)[0].labels.tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.2}, "threshold must be"),
        ({"threshold": float("nan")}, "threshold must be"),
        ({"mask_threshold": -1}, "mask_threshold must be"),
        ({"overlap_threshold": 80}, "overlap_threshold must be"),
        ({"stuff": [4]}, "stuff must be"),
        ({"stuff": ["sky"]}, "stuff must be"),
        ({"stuff": 1}, "stuff must be"),
        ({"size": (8,)}, r"size must be \(height, width\)"),
        ({"size": (8, 0)}, r"size\[1\] must be"),
        ({"size": 8}, "size must be"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        segzoo.postprocess.panoptic(queries(), **{"size": (8, 8), **arguments})
    if set(arguments) <= {"size", "threshold"}:
        with pytest.raises(ArgumentError, match=message):
            segzoo.postprocess.instances(queries(), **{"size": (8, 8), **arguments})


@pytest.mark.parametrize(
    ("masks", "classes"),
    [((2, 3, 4), (2, 3, 5)), ((1, 2, 4, 4), (1, 3, 5)), ((1, 2, 4, 4), (1, 2, 1))],
)
def test_what_are_no_queries(masks, classes):
    with pytest.raises(InputError, match=r"Expected mask_logits \(N, queries, h, w\)"):
        segzoo.postprocess.panoptic(
            segzoo.Queries(torch.zeros(masks), torch.zeros(classes)), size=(8, 8)
        )
    with pytest.raises(InputError, match="int64"):
        segzoo.postprocess.instances(
            segzoo.Queries(torch.zeros(1, 2, 4, 4).long(), torch.zeros(1, 2, 5)), size=(8, 8)
        )


@pytest.mark.parametrize("broken", ["mask_logits", "class_logits"])
def test_queries_that_are_nan_are_no_empty_picture(broken):
    found = queries()._replace(**{broken: getattr(queries(), broken) * float("nan")})
    for call in (segzoo.postprocess.panoptic, segzoo.postprocess.instances):
        with pytest.raises(InputError, match="logits of the queries are NaN"):
            call(found, size=(8, 8))
