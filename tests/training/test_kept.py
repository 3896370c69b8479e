"""Pairs of files that stay in memory: each is read once, and nothing else changes."""

from __future__ import annotations

import pickle

import pytest
import torch

import segzoo
from segzoo.data.splits import Subset
from segzoo.training import kept
from segzoo.training.kept import Kept, room_for_pairs

from ..datasets.making import make_pairs
from .trainings import assert_same, train

NAMES = [f"a{i}" for i in range(6)]


@pytest.fixture
def reads(monkeypatch):
    """Names of the masks that were read, in turn."""
    seen: list[str] = []
    there = segzoo.data.dataset.read_classes

    def read(path, *others):
        seen.append(path.stem)
        return there(path, *others)

    monkeypatch.setattr("segzoo.data.dataset.read_classes", read)
    return seen


@pytest.fixture
def pairs(tmp_path, reads):
    make_pairs(tmp_path, NAMES)
    found = segzoo.open_data(tmp_path / "images", tmp_path / "masks")
    reads.clear()
    return found


def whole(data, **changed):
    return Kept(data, data, **{"size": None, "masks": True, "limit": 1 << 30, **changed})


@pytest.mark.parametrize("size", [None, (20, 30)])
@pytest.mark.parametrize("masks", [True, False])
def test_an_item_is_what_is_read_and_is_read_once(pairs, reads, size, masks):
    data = pairs.train
    items = whole(data, size=size, masks=masks)
    plain = Kept(data, data, size=size, masks=masks, limit=0)
    for _ in range(3):
        for index in range(len(data)):
            for found, expected in zip(items[index], plain[index], strict=True):
                assert found.dtype == expected.dtype
                assert torch.equal(found, expected)
    assert sorted(reads) == sorted(4 * items.names)
    assert items[0][0].shape[-2:] == (size or data[0][0].shape[-2:])
    assert items[0][1].shape == (size if size and masks else data[0][1].shape)


def test_what_has_no_room_is_read_each_time(pairs, reads):
    data = pairs.train
    image, mask = data[0]
    each = image.nbytes + mask.numel()
    items, expected = whole(data, limit=2 * each), [data[index][0] for index in range(3)]
    reads.clear()
    for _ in range(2):
        assert all(torch.equal(items[index][0], expected[index]) for index in range(3))
    assert reads == [*data.names[:3], data.names[2]]
    assert items.used == 2 * each


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_pixels_lie_the_same_way_each_time(pairs, limit):
    """How they lie decides in which order a resize adds up."""
    whole_picture = torch.randint(0, 256, (8, 9, 4), dtype=torch.uint8)
    for image in (
        whole_picture.permute(2, 0, 1),
        whole_picture.permute(2, 0, 1)[:3],
        whole_picture.permute(2, 0, 1).contiguous()[:3],
        whole_picture.permute(2, 0, 1)[:, 2:, 3:],
    ):
        item = (image, torch.zeros(image.shape[1:], dtype=torch.long))
        items = Kept([item], pairs.train, size=None, masks=True, limit=limit)
        first, second = items[0][0], items[0][0]
        assert torch.equal(first, image)
        assert torch.equal(second, image)
        assert first.stride() == second.stride()
        assert first.untyped_storage().nbytes() == image.nbytes
        assert items.used == (image.nbytes + item[1].numel() if limit else 0)


@pytest.mark.parametrize(
    ("values", "bytes_each"), [((0, 255), 1), ((-100, 3), 2), ((0, 70_000), 4), ((-1, 2**40), 8)]
)
def test_masks_of_any_values_come_back(pairs, values, bytes_each):
    image, mask = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.tensor([values, values])
    items = Kept([(image, mask)], pairs.train, size=None, masks=True, limit=1 << 20)
    for _ in range(2):
        found = items[0][1]
        assert found.dtype == torch.int64
        assert torch.equal(found, mask)
    assert items.used == image.nbytes + 4 * bytes_each


def test_other_datasets_are_asked_each_time(pairs):
    class Changing:
        count = 0

        def __len__(self):
            return 1

        def __getitem__(self, index):
            self.count += 1
            return torch.full((3, 2, 2), self.count), torch.zeros(2, 2, dtype=torch.long)

    items = whole(Changing())
    assert [int(items[0][0].max()) for _ in range(3)] == [1, 2, 3]
    changed = type("Changed", (segzoo.PairDataset,), {})(pairs.train.pairs)
    assert not kept.is_of_files(changed)
    assert not kept.is_of_files(Subset(changed, (0,)))
    assert kept.is_of_files(Subset(pairs.train, (0,)))


def test_workers_get_an_empty_one(pairs):
    items = whole(pairs.train)
    items[0]
    there = pickle.loads(pickle.dumps(items))
    assert (there.used, len(there._items)) == (0, 0)
    assert torch.equal(there[0][0], items[0][0])


def test_processes_share_the_room(monkeypatch):
    monkeypatch.setattr(kept, "usable_memory", lambda: 16 << 30)
    assert room_for_pairs(0) == room_for_pairs(1) == 1 << 30
    assert room_for_pairs(4) == 1 << 28
    monkeypatch.setattr(kept, "launched_here", lambda: 2)
    assert room_for_pairs(4) == 1 << 27
    monkeypatch.setattr(kept, "usable_memory", lambda: None)
    assert room_for_pairs(0) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_is_the_same_and_reads_each_pair_once(
    pairs, reads, tmp_path, monkeypatch, workers
):
    monkeypatch.setattr("segzoo.training.run.write_results", lambda *_, **__: None)
    recipe = segzoo.Recipe(epochs=3, batch_size=2, size=(16, 24))
    train(tmp_path / "kept", recipe, given=pairs, workers=workers)
    if workers == 0:  # others read in processes of their own; a few are looked at before
        assert len(reads) <= len(NAMES) + 2
    monkeypatch.setattr("segzoo.training.run.room_for_pairs", lambda workers: 0)
    train(tmp_path / "read", recipe, given=pairs, workers=workers)
    assert_same(tmp_path / "kept", tmp_path / "read")


def test_a_file_that_is_mended_is_read(pairs):
    items, path = whole(pairs.train), pairs.train.pairs[0].mask
    sound = path.read_bytes()
    path.write_bytes(sound[:40])
    with pytest.raises(segzoo.errors.SegzooError):
        items[0]
    path.write_bytes(sound)
    assert torch.equal(items[0][1], pairs.train[0][1])
