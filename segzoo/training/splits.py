"""What :func:`segzoo.train` and :func:`segzoo.evaluate` are given, made one."""

from __future__ import annotations

import os

import torch

from ..architectures.base import SegmentationModel
from ..data.dataset import SegmentationData
from ..data.open_data import open_data
from ..data.splits import DataSplits
from ..errors import ArgumentError, DataError
from ..losses import balanced_weights
from .evaluate import check_class_names, check_classes, names_of_classes, said_of

#: What to do where data has other names than the model.
_NAMES = "Build it with the class_names of the data."


def as_splits(
    data: DataSplits | str | os.PathLike[str] | tuple[SegmentationData, SegmentationData],
    model: SegmentationModel,
    ignore_index: int | None,
) -> DataSplits:
    """The data as splits that suit the model.

    Raises:
        ArgumentError: Other classes or bands than the model's, or nothing that is data.
        DataError: There is nothing in it.
    """
    classes = max(model.classes, 2)
    if isinstance(data, (str, os.PathLike)):
        data = open_data(data, classes=classes, ignore_index=ignore_index)
    elif isinstance(data, tuple) and len(data) == 2:
        data = _of_two(data, model, ignore_index)
    if not isinstance(data, DataSplits):
        raise ArgumentError(
            "data must be what segzoo.open_data gives, a folder, or two datasets (to train on, to "
            f"judge by); got {type(data).__name__}."
        )
    if ignore_index is not None and data.ignore_index != ignore_index:
        raise ArgumentError(
            f"ignore_index={ignore_index}, but the data was opened with {data.ignore_index}. Say "
            "it in segzoo.open_data only."
        )
    if data.classes != classes:
        raise ArgumentError(
            f"The data has {data.classes} classes, the model {model.classes}. Build it with "
            f"classes={data.classes}" + (", or 1." if data.classes == 2 else ".")
        )
    check_class_names(model, data.class_names, _NAMES)
    if data.in_channels != model.in_channels:
        raise ArgumentError(
            f"The images have {data.in_channels} bands, the model takes {model.in_channels}. Build "
            f"it with in_channels={data.in_channels}, or choose bands in segzoo.open_data."
        )
    for name, part in (("train on", data.train), ("judge by", data.val)):
        if len(part) == 0:
            raise DataError(f"There are no images to {name}.")
    return data


def _of_two(
    data: tuple[SegmentationData, SegmentationData],
    model: SegmentationModel,
    ignore_index: int | None,
) -> DataSplits:
    """Two datasets as splits, held to what they say of themselves."""
    said = [said_of(part) for part in data]
    for each in said:
        check_classes(model, each, _NAMES)
        void = each.coding.ignore_index
        if ignore_index is None:
            ignore_index = void
        if void not in (None, ignore_index):
            raise ArgumentError(f"ignore_index={ignore_index}, but the void of the data is {void}.")
    names = names_of_classes(model) or said[0].names or said[1].names
    classes = names or max(model.classes, 2)
    return DataSplits.of(*data, classes=classes, ignore_index=ignore_index)


def balanced(splits: DataSplits) -> tuple[float, ...]:
    """ENet's class weights, from the pixels of all training masks."""
    counts = torch.zeros(splits.classes, dtype=torch.int64)
    for index in range(len(splits.train)):
        mask = splits.train[index][1].flatten().long()
        if splits.ignore_index is not None:
            mask = mask[mask != splits.ignore_index]
        counts += mask.bincount(minlength=splits.classes)
    return balanced_weights(counts.tolist())
