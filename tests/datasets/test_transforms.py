"""Augmentation: exact where it can be, void outside, and a function of its key alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import segzoo
from segzoo.data.resample import resize_image, resize_mask
from segzoo.data.transforms import change_color, keyed_generator
from segzoo.errors import ArgumentError, DataError

VOID = 255
#: Bands and kinds of values, as files have them.
KINDS = [
    (1, torch.uint8),
    (3, torch.uint8),
    (5, torch.uint16),
    (2, torch.int16),
    (4, torch.float32),
    (3, torch.float64),
    (3, torch.float16),
]


def image_of(bands=3, dtype=torch.uint8, size=(11, 17)):
    if dtype.is_floating_point:
        return torch.rand(bands, *size).to(dtype)
    low = -300 if dtype == torch.int16 else 0
    return torch.randint(low, min(torch.iinfo(dtype).max, 60000), (bands, *size)).to(dtype)


def numbered(size=(11, 17)):
    """Each pixel of the mask and of the picture has a number of its own."""
    mask = torch.arange(size[0] * size[1]).view(size)
    return mask[None].to(torch.float32), mask


@pytest.mark.parametrize(("bands", "dtype"), KINDS, ids=str)
def test_any_bands_and_kinds_of_values(bands, dtype):
    image, mask = image_of(bands, dtype), torch.randint(0, 3, (11, 17))
    before = image.clone(), mask.clone()
    augmentation = segzoo.Augmentation(
        vflip=True, scale=(0.5, 2), crop=(8, 9), color=0.4, rare_class_crops=0.5, size=(20, 30)
    )
    for seed in range(8):
        one, labels = augmentation(image, mask, generator=keyed_generator(seed), ignore_index=VOID)
        assert (one.shape, one.dtype) == ((bands, 8, 9), dtype)
        assert (labels.shape, labels.dtype) == ((8, 9), torch.int64)
        assert set(labels.unique().tolist()) <= {0, 1, 2, VOID}
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_flips_and_crops_move_picture_and_mask_alike(seed, hflip, vflip):
    image, mask = numbered()
    augmentation = segzoo.Augmentation(hflip=hflip, vflip=vflip, crop=(5, 7))
    one, labels = augmentation(image, mask, generator=keyed_generator(seed))
    assert torch.equal(one[0].long(), labels)
    # A piece of the picture, and nothing but a piece of it.
    rows, columns = labels // 17, labels % 17
    assert set(rows.diff(dim=0).unique().tolist()) <= ({1, -1} if vflip else {1})
    assert set(columns.diff(dim=1).unique().tolist()) <= ({1, -1} if hflip else {1})


@given(
    st.integers(0, 10**6),
    st.floats(0.3, 1),
    st.floats(1, 3),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_what_lies_outside_is_void_and_only_that(seed, low, high, height, width):
    image, mask = numbered()
    image = image + 1
    augmentation = segzoo.Augmentation(scale=(low, high), crop=(height, width), hflip=False)
    one, labels = augmentation(image, mask, generator=keyed_generator(seed), ignore_index=-1)
    assert one.shape == (1, height, width)
    assert (one[0][labels == -1] < 188).all()
    rows, columns = labels // 17, labels % 17
    inside = labels >= 0
    # Neighbours stay neighbours: rows and columns rise together.
    assert (rows.diff(dim=0)[inside[1:] & inside[:-1]] >= 0).all()
    assert (columns.diff(dim=1)[inside[:, 1:] & inside[:, :-1]] >= 0).all()
    one, labels = augmentation(image, mask, generator=keyed_generator(seed))
    assert (labels >= 0).all()
    assert (one > 0).all()  # without void nothing is filled up


def test_half_of_the_time_each():
    image, mask = numbered((3, 4))
    augmentation = segzoo.Augmentation(vflip=True)
    seen = [
        int(augmentation(image, mask, generator=keyed_generator(seed))[1][0, 0])
        for seed in range(400)
    ]
    assert set(seen) == {0, 3, 8, 11}
    assert all(seen.count(corner) > 60 for corner in set(seen))


def test_rare_classes_are_found():
    mask = torch.zeros(200, 200, dtype=torch.long)
    mask[150, 30] = 1
    mask[:, 199] = VOID
    image = mask[None].to(torch.uint8)

    def share(probability):
        augmentation = segzoo.Augmentation(crop=(16, 16), rare_class_crops=probability)
        found = [
            augmentation(image, mask, generator=keyed_generator(seed), ignore_index=VOID)
            for seed in range(200)
        ]
        assert all(labels.shape == (16, 16) for _, labels in found)
        return sum(bool((labels == 1).any()) for _, labels in found) / 200

    assert share(0) < 0.05
    assert 0.4 < share(1) < 0.6  # one of two classes, drawn evenly
    empty = torch.full((40, 40), VOID)
    augmentation = segzoo.Augmentation(crop=(16, 16), rare_class_crops=1)
    _, labels = augmentation(
        empty[None].to(torch.uint8), empty, generator=keyed_generator(0), ignore_index=VOID
    )
    assert (labels == VOID).all()


@pytest.mark.parametrize(("bands", "dtype"), KINDS, ids=str)
def test_colours_change_and_stay_in_range(bands, dtype):
    image = image_of(bands, dtype)
    changed = change_color(image, 0.5, keyed_generator(1))
    assert changed.dtype == dtype
    assert not torch.equal(changed, image)
    assert torch.equal(change_color(image, 0.0, keyed_generator(1)), image)
    # The same drawn numbers do the same to every kind of values.
    exact = change_color(image.double(), 0.5, keyed_generator(1))
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        exact = exact.round().clamp(limits.min, limits.max)
    assert (changed.double() - exact).abs().max() <= (1 if not dtype.is_floating_point else 2e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
def test_the_brightest_values_stay_the_brightest(dtype):
    largest = torch.iinfo(dtype).max
    image = torch.full((2, 4, 4), largest).to(dtype)
    changed = [change_color(image, 1.0, keyed_generator(seed)).long() for seed in range(8)]
    assert all((item >= 0).all() for item in changed)
    assert any((item == largest).all() for item in changed)


def test_resizing_is_torch_s_and_masks_are_exact():
    image = image_of(3, torch.uint8, (30, 40))
    small = torch.nn.functional.interpolate(
        image[None].double(), size=(13, 17), mode="bilinear", antialias=True
    )[0]
    assert (resize_image(image, (13, 17)).double() - small).abs().max() <= 1
    assert torch.equal(resize_image(image.to(torch.uint16), (13, 17)).double(), small.round())
    mask = torch.randint(0, 2**40, (30, 40))  # beyond what a float holds
    exact = torch.nn.functional.interpolate(
        torch.arange(1200.0, dtype=torch.float64).view(1, 1, 30, 40),
        size=(13, 17),
        mode="nearest-exact",
    )[0, 0].long()
    assert torch.equal(resize_mask(mask, (13, 17)), mask.flatten()[exact])
    assert torch.equal(resize_mask(resize_mask(mask, (60, 120)), (30, 40)), mask)


class Numbers:
    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return (
            torch.randint(0, 255, (3, 20, 24), dtype=torch.uint8, generator=generator),
            torch.randint(0, 3, (20, 24), generator=generator),
        )


def test_items_depend_on_seed_epoch_and_index_alone():
    augmentation = segzoo.Augmentation(scale=(0.5, 2), color=0.3, crop=(8, 8))
    data = segzoo.Augmented(Numbers(), augmentation, seed=3, ignore_index=VOID)
    keys = [(epoch, index) for epoch in range(2) for index in (5, 0, 3, 1, 2, 4)]
    state = torch.get_rng_state()
    expected = [data[key] for key in keys]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(data[0, 1][0], data[1, 1][0])
    other = segzoo.Augmented(Numbers(), augmentation, seed=4, ignore_index=VOID)
    assert not torch.equal(data[0, 1][0], other[0, 1][0])
    batches = [keys[start : start + 3] for start in range(0, len(keys), 3)]
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=2,
        collate_fn=segzoo.collate,
    )
    images = torch.cat([images for images, _ in loader])
    assert torch.equal(images, torch.stack([image for image, _ in expected]))


def test_batches_of_unequal_sizes_are_filled_up():
    items = [
        (image_of(3, torch.uint16, size), torch.zeros(size, dtype=torch.long))
        for size in [(4, 9), (7, 5)]
    ]
    images, masks = segzoo.collate(items, ignore_index=VOID)
    assert images.shape == (2, 3, 7, 9)
    assert torch.equal(images[1, :, :, :5], items[1][0])
    assert images[0, :, 4:].float().sum() == 0
    assert (masks[0, 4:] == VOID).all()
    assert (masks[1, :, 5:] == VOID).all()
    assert (masks == VOID).sum() == 2 * 63 - 36 - 35
    with pytest.raises(DataError, match="2 sizes \\(4x9, 7x5\\)"):
        segzoo.collate(items)
    with pytest.raises(DataError, match="must be alike, got 1 bands"):
        segzoo.collate([items[0], (image_of(1, size=(4, 9)), items[0][1])])
    with pytest.raises(DataError, match="at least one"):
        segzoo.collate([])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16, torch.bool], ids=str)
@pytest.mark.parametrize("void", [-100, 255, 1000])
def test_void_is_itself_whatever_holds_the_masks(dtype, void):
    sizes = [(4, 9), (7, 5)]
    items = [(image_of(3, torch.uint8, size), torch.ones(size).to(dtype)) for size in sizes]
    _, masks = segzoo.collate(items, ignore_index=void)
    assert masks.unique().tolist() == sorted([1, void])
    _, mask = segzoo.Augmentation(crop=(20, 20))(
        *items[0], generator=torch.Generator().manual_seed(0), ignore_index=void
    )
    assert mask.unique().tolist() == sorted([1, void])
    assert segzoo.collate(items[:1])[1].dtype == mask.dtype == masks.dtype == torch.int64


@pytest.mark.parametrize(
    "arguments",
    [
        {"hflip": 1},
        {"scale": (2, 1)},
        {"scale": (1,)},
        {"crop": (3,)},
        {"crop": (0, 3)},
        {"color": 2},
        {"rare_class_crops": "all"},
        {"size": 7},
    ],
    ids=str,
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        segzoo.Augmentation(**arguments)
