"""Models scored on pictures: at full resolution, of any size, in any mode, each error by its name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import segzoo
from segzoo.errors import ArgumentError, InputError
from segzoo.training.evaluate import measure
from tests.helpers import randomise, tiny_unet

VOID = 255


def samples(sizes=((20, 31), (20, 31), (17, 40)), classes=3, bands=3):
    generator = torch.Generator().manual_seed(0)
    items = []
    for size in sizes:
        image = torch.randint(0, 256, (bands, *size), dtype=torch.uint8, generator=generator)
        mask = torch.randint(0, classes, size, generator=generator)
        mask[:3] = VOID
        items.append((image, mask))
    return items


def model(**options):
    torch.manual_seed(0)
    made = tiny_unet(**options)
    randomise(made)
    return made


def confusion(masks, items, classes=3):
    found = torch.zeros(classes, classes, dtype=torch.int64)
    for mask, (_, target) in zip(masks, items, strict=True):
        counted = target != VOID
        cells = target[counted] * classes + mask[counted]
        found += cells.bincount(minlength=classes**2).view(classes, classes)
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("training", [True, False])
def test_it_scores_what_predict_gives(batch_size, training):
    network, items = model().train(training), samples()
    scores = segzoo.evaluate(network, items, ignore_index=VOID, batch_size=batch_size)
    assert network.training is training
    assert scores.images == 3
    expected = confusion([network.predict(image) for image, _ in items], items)
    assert torch.equal(scores.confusion, expected)
    assert scores.boundary_f1 is not None
    assert scores.ece is not None


def test_nothing_of_a_model_in_training_changes():
    network = model().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    segzoo.evaluate(network, samples(), ignore_index=VOID)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_size_resizes_pictures_and_masks_keep_theirs():
    network, items = model().eval(), samples()
    scores = segzoo.evaluate(network, items, ignore_index=VOID, size=(16, 24), batch_size=2)
    masks = []
    for image, mask in items:
        small = F.interpolate(image[None], size=(16, 24), mode="bilinear", antialias=True)
        with torch.no_grad():
            logits = network(network.normalization(small))
        masks.append(F.interpolate(logits, size=mask.shape, mode="bilinear").argmax(dim=1)[0])
    assert torch.equal(scores.confusion, confusion(masks, items))
    assert scores.pixels == sum(int((mask != VOID).sum()) for _, mask in items)


def test_one_logit_and_names():
    network = model(classes=1, class_names=("coin",)).eval()
    items = samples(classes=2)
    scores = segzoo.evaluate(network, items, ignore_index=VOID)
    assert torch.equal(
        scores.confusion, confusion([network.predict(i) for i, _ in items], items, 2)
    )
    assert scores.class_names == ("background", "coin")
    named = model(class_names=("a", "b", "c"))
    assert segzoo.evaluate(named, samples(), ignore_index=VOID).class_names == ("a", "b", "c")


def test_outputs_that_are_no_logits():
    network = segzoo.DynamicUnet("test_resnet", 1, y_range=(0.0, 1.0)).eval()
    assert network.threshold == 0.5
    items = samples(((64, 64),), classes=2)
    scores = segzoo.evaluate(network, items, ignore_index=VOID)
    assert torch.equal(
        scores.confusion, confusion([network.predict(i) for i, _ in items], items, 2)
    )
    assert scores.ece is None


def test_an_optimised_model():
    network = model().eval()
    fast = segzoo.optimize(network, example=torch.rand(1, 3, 32, 32))
    items = samples()
    scores = segzoo.evaluate(fast, items, ignore_index=VOID)
    assert torch.equal(scores.confusion, confusion([fast.predict(i) for i, _ in items], items))


def test_files_are_brought_to_the_models_bands(tmp_path):
    images, masks = write(tmp_path, samples())
    for path in images.iterdir():
        Image.open(path).convert("L").save(path)
    assert segzoo.evaluate(model(), (images, masks), ignore_index=VOID).images == 3


def test_another_device_gets_a_copy():
    network = model()
    with pytest.raises(ArgumentError, match="cannot be used"):
        segzoo.evaluate(network, samples(), device="cuda:99")
    assert segzoo.evaluate(network, samples(), ignore_index=VOID, device="cpu").images == 3


def write(folder: Path, items, suffix=".png"):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i, (image, mask) in enumerate(items):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"p{i}{suffix}")
        Image.fromarray(mask.numpy().astype(np.uint8)).save(folder / "masks" / f"p{i}.png")
    return folder / "images", folder / "masks"


def test_folders_splits_and_workers_have_the_same_scores(tmp_path):
    network, items = model().eval(), samples()
    expected = segzoo.evaluate(network, items, ignore_index=VOID)
    images, masks = write(tmp_path, items)
    assert segzoo.evaluate(network, (images, masks), ignore_index=VOID) == expected
    assert segzoo.evaluate(network, tmp_path, ignore_index=VOID, workers=2) == expected
    splits = segzoo.DataSplits.of(items[:1], items[:2], test=items, classes=3, ignore_index=VOID)
    assert segzoo.evaluate(network, splits).counts == expected.counts
    splits = segzoo.DataSplits.of(items[:1], items, classes=["a", "b", "c"], ignore_index=VOID)
    assert segzoo.evaluate(network, splits).class_names == ("a", "b", "c")


def test_names_in_another_order_are_refused():
    splits = segzoo.DataSplits.of(samples(), samples(), classes=["a", "c", "b"], ignore_index=VOID)
    with pytest.raises(segzoo.errors.ArgumentError) as refused:
        segzoo.evaluate(model(class_names=("a", "b", "c")), splits)
    said = "Class 1 is 'c' in the data and 'b' in the model, and 1 more have two names"
    assert said in str(refused.value)


def test_of_a_folder_with_splits_the_test_images_are_scored(tmp_path):
    items = samples()
    for split, some in (("train", items), ("val", items[:2]), ("test", items[2:])):
        write(tmp_path / split, some)
    assert segzoo.evaluate(model(), tmp_path, ignore_index=VOID).images == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_names_the_picture(tmp_path, workers):
    images, masks = write(tmp_path, samples())
    (images / "p1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^(p1: )?\S*p1\S* cannot be read as a picture"):
        segzoo.evaluate(model(), (images, masks), ignore_index=VOID, workers=workers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image, mask: (image, mask[1:]), "1: the image has 20x31 pixels, its mask 19x31"),
        (lambda image, mask: (image[0], mask), r"1: expected an image \(C, H, W\)"),
        (lambda image, mask: (image, mask.float()), "1: expected an image"),
        (lambda image, mask: (image[:2], mask), "1: the image has 2 bands, the model takes 3"),
        (lambda image, mask: (image.long(), mask), "1: Expected uint8, uint16 or floating point"),
        (lambda image, mask: (image, mask + 3), "^The target of 1 holds"),
    ],
    ids=["size", "bands", "float", "two bands", "integers", "classes"],
)  # fmt: skip
def test_a_sample_that_cannot_be_used_is_named(change, message):
    items = samples()
    items[1] = change(*items[1])
    with pytest.raises(InputError, match=message):
        segzoo.evaluate(model(), items, ignore_index=VOID)


def test_wrong_arguments():
    items = samples()
    for arguments, message in (
        ({"batch_size": 0}, "batch_size must be between 1"),
        ({"size": (3,)}, r"size must be \(height, width\)"),
        ({"size": (0, 3)}, r"size\[0\] must be between 1"),
        ({"workers": -1}, "workers must be between 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            segzoo.evaluate(model(), items, **arguments)
    with pytest.raises(ArgumentError, match="data must have a length"):
        segzoo.evaluate(model(), 3)
    splits = segzoo.DataSplits.of(items, items, classes=4, ignore_index=VOID)
    with pytest.raises(ArgumentError, match="has 4 classes, the model 3"):
        segzoo.evaluate(model(), splits)
    splits = segzoo.DataSplits.of(items, items, classes=3, ignore_index=VOID)
    with pytest.raises(ArgumentError, match="ignore_index=7, but the void of the data is 255"):
        segzoo.evaluate(model(), splits, ignore_index=7)


def test_a_meter_of_ones_own():
    meter = segzoo.ScoreMeter(3, ignore_index=VOID, boundaries=False, calibration=False)
    measure(model(), samples(), meter)
    measure(model(), samples(), meter)  # the same names: counted already
    assert len(meter) == 3
    assert sorted(meter.image_miou()) == ["0", "1", "2"]


@pytest.mark.skipif("SEGZOO_CAMVID" not in os.environ, reason="SEGZOO_CAMVID is not set")
def test_camvids_masks_score_one(tmp_path):
    root = Path(os.environ["SEGZOO_CAMVID"]) / "val"
    splits = segzoo.open_data(root.parent, classes=11, ignore_index=11)

    class Knows(torch.nn.Module):
        """Gives the mask that it was shown, at half the size."""

        classes, in_channels, class_names, threshold = 11, 3, None, 0.0

        def normalization(self, image):
            return image.float()

        def forward(self, image):
            mask = next(masks)
            logits = F.one_hot(mask.clamp(max=10), 11).permute(2, 0, 1)[None].float()
            return F.interpolate(logits, scale_factor=0.5, mode="nearest")

    some = [splits.val[i] for i in range(3)]
    masks = iter([mask for _, mask in some])
    scores = segzoo.evaluate(Knows(), some, ignore_index=11)
    assert scores.pixel_accuracy > 0.97
    assert scores.boundary_f1 > 0.97


@pytest.mark.parametrize("value", [9, float("inf")])
def test_the_name_of_an_image_comes_once(value):
    class Items:
        names = ("north", "south")

        def __len__(self):
            return 2

        def __getitem__(self, index):
            mask = torch.zeros(20, 20, dtype=torch.long)
            mask[0, 0] = 9 if value == 9 and index else 0
            return torch.zeros(3, 20, 20, dtype=torch.uint8), mask

    network = model()
    with torch.no_grad():
        network.head.conv.bias += 0 if value == 9 else value
    with pytest.raises(InputError) as error:
        segzoo.evaluate(network, Items(), batch_size=2)
    assert str(error.value).count("south" if value == 9 else "north") == 1
