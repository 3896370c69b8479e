"""Values of a wrong type, at doors where a person gives numbers: refused by name, never computed with."""

import functools

import numpy as np
import pytest
import torch

import segzoo
from segzoo import losses
from segzoo.errors import ArgumentError, InputError, SegzooError
from tests.helpers import tiny_unet

MODEL = functools.cache(tiny_unet)
LOGITS = torch.randn(1, 3, 8, 8)
TARGET = torch.zeros(1, 8, 8, dtype=torch.long)
ITEM = (torch.zeros(3, 8, 8, dtype=torch.uint8), TARGET[0])
OUTPUTS = segzoo.Outputs(LOGITS, {"fine": LOGITS}, LOGITS[..., 0, 0])

#: What takes a value of void.
WITH_VOID = {
    "cross_entropy": lambda void: losses.cross_entropy(LOGITS, TARGET, ignore_index=void),
    "distillation": lambda void: losses.distillation_loss(
        LOGITS, LOGITS, TARGET, ignore_index=void
    ),
    "SegmentationLoss": lambda void: losses.SegmentationLoss(ignore_index=void),
    "QueryLoss": lambda void: losses.QueryLoss(ignore_index=void),
    "mask_targets": lambda void: losses.mask_targets(TARGET, 3, ignore_index=void),
    "ScoreMeter": lambda void: segzoo.ScoreMeter(3, ignore_index=void),
    "evaluate": lambda void: segzoo.evaluate(MODEL(), [ITEM], ignore_index=void),
    "collate": lambda void: segzoo.collate([ITEM], ignore_index=void),
    "Augmented": lambda void: segzoo.Augmented([ITEM], segzoo.Augmentation(), ignore_index=void),
    "Augmentation": lambda void: segzoo.Augmentation()(
        *ITEM, generator=torch.Generator(), ignore_index=void
    ),
    "DataSplits": lambda void: segzoo.DataSplits.of([ITEM], [ITEM], classes=2, ignore_index=void),
    "RowsDataset": lambda void: segzoo.RowsDataset([], ignore_index=void),
}


@pytest.mark.parametrize("door", WITH_VOID)
def test_void_is_a_whole_number(door):
    for wrong in ("255", 2.5, True, [255], torch.tensor(255), 2**40):
        with pytest.raises(ArgumentError, match="ignore_index must be"):
            WITH_VOID[door](wrong)
    for right in (None, 255, -1, np.int64(255)):
        WITH_VOID[door](right)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda wrong: MODEL().parameter_groups(wrong), "lr"),
        (lambda wrong: MODEL().parameter_groups(1e-3, encoder_scale=wrong), "encoder_scale"),
        (lambda wrong: losses.mask_targets(TARGET, wrong), "classes"),
        (lambda wrong: losses.balanced_weights(wrong), "pixels"),
        (
            lambda wrong: losses.outputs_loss(
                losses.SegmentationLoss(), OUTPUTS, TARGET, auxiliary=wrong
            ),
            "auxiliary",
        ),
        (
            lambda wrong: losses.outputs_loss(
                losses.SegmentationLoss(), OUTPUTS, TARGET, image=wrong
            ),
            "image",
        ),
        (lambda wrong: segzoo.ScoreMeter(3, boundaries=wrong), "boundaries"),
        (lambda wrong: segzoo.ScoreMeter(3).compute(wrong), "class_names"),
        (lambda wrong: segzoo.DataSplits.of([ITEM], seed=wrong), "seed"),
        (lambda wrong: segzoo.Augmented([ITEM], segzoo.Augmentation(), seed=wrong), "seed"),
        (lambda wrong: segzoo.create_encoder("resnet10t", in_channels=wrong), "in_channels"),
        (lambda wrong: segzoo.create_encoder("resnet10t", depth=wrong), "depth"),
        (lambda wrong: segzoo.create_encoder("resnet10t", image_size=wrong), "image_size"),
        (lambda wrong: segzoo.create_encoder("resnet10t", options=wrong), "options"),
        (lambda wrong: segzoo.check_data(wrong), "data"),
        (lambda wrong: segzoo.RowsDataset([], image=wrong), "image"),
        (lambda wrong: segzoo.evaluate(wrong, [ITEM]), "evaluate takes a model"),
    ],
)
def test_numbers_and_names_are_what_they_are(call, name):
    for wrong in (object(), -1, 2.5j, ["a"]):
        with pytest.raises(ArgumentError, match=rf"^{name}\b"):
            call(wrong)


def test_tensors_are_tensors():
    for wrong in ("a", None, 1.5, [1]):
        for call in (
            lambda wrong: losses.dice_loss(wrong, TARGET),
            lambda wrong: losses.dice_loss(LOGITS, wrong),
            lambda wrong: losses.distillation_loss(LOGITS, wrong, TARGET),
            lambda wrong: losses.mask_targets(wrong, 3),
            lambda wrong: segzoo.postprocess.instances(wrong, size=(8, 8)),
            lambda wrong: segzoo.evaluate(MODEL(), [wrong]),
            lambda wrong: segzoo.RowsDataset([wrong])[0],
        ):
            with pytest.raises(InputError):
                call(wrong)
    with pytest.raises(SegzooError, match="labels must be"):
        losses.outputs_loss(losses.SegmentationLoss(), OUTPUTS, TARGET, labels="a")
