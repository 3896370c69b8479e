"""Files that compute in 8-bit integers, calibrated on pictures and held against the model.

Post-training quantisation as nncf does it: weights get a scale for each channel, maps one scale
from the values that they have on the calibration pictures, and biases make up for the mean that
rounding shifts (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, with pictures in place of assumptions).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import checks
from ...architectures.base import SegmentationModel
from ...data.pictures import find_pictures, read_for_bands
from ...data.resample import resize_image
from ...errors import ArgumentError, ExportError, InputError
from ...packages import load_package
from ...prediction.inputs import check_finite, describe, normalized
from .exported import ExportedModel, open_exported
from .formats import INPUT

#: Pictures: a file or a folder, or each one as a file or as a tensor ``(C, H, W)``.
Pictures = str | os.PathLike[str] | Iterable[str | os.PathLike[str] | Tensor]
Write = Callable[[Path, Mapping[str, str]], None]

#: Fewer pictures say too little of the values that a model meets.
LEAST_PICTURES = 16
#: Of so many pictures one is kept from calibration, to judge the file by.
_APART = 4
#: Steps that are told to a quantiser as a transformer's: their inputs keep more bits.
_ATTENTION = {"Softmax", "SoftMax", "ScaledDotProductAttention"}


def read_calibration(
    model: SegmentationModel, pictures: Pictures, size: tuple[int, int] | None
) -> list[Tensor]:
    """The pictures to calibrate with, as the model's ``predict`` takes them.

    Args:
        model: Gives the number of bands.
        pictures: At least :data:`LEAST_PICTURES`.
        size: Height and width of the file where it takes one size: pictures are resized. Else None.

    Raises:
        ArgumentError: Too few pictures, or something else.
        InputError: A picture that cannot be read, is too small, or has other bands than the model.
    """
    if isinstance(pictures, (str, os.PathLike)):
        pictures = find_pictures([pictures])
    if isinstance(pictures, Tensor) or not isinstance(pictures, Iterable):
        raise ArgumentError(
            "int8 takes a folder of pictures, or a list of files or of tensors (C, H, W), got "
            f"{describe(pictures) if isinstance(pictures, Tensor) else checks.shown(pictures)}."
        )
    found = [_picture(model, item, size) for item in pictures]
    if len(found) < LEAST_PICTURES:
        raise ArgumentError(
            f"int8 needs at least {LEAST_PICTURES} pictures like those that the model will see, "
            f"got {len(found)}. Their masks are not needed."
        )
    return found


def _picture(model: SegmentationModel, item: Any, size: tuple[int, int] | None) -> Tensor:
    bands = model.in_channels
    if isinstance(item, (str, os.PathLike)):
        name, picture = os.fspath(item), read_for_bands(item, bands)
    elif isinstance(item, Tensor) and item.ndim == 3:
        name, picture = "a picture", item.detach().cpu()
        picture = picture.float() if picture.dtype is torch.float64 else picture
    else:
        raise ArgumentError(
            "int8 takes pictures as files or as tensors (C, H, W), got "
            f"{describe(item) if isinstance(item, Tensor) else checks.shown(item)}."
        )
    if picture.shape[0] != bands:
        raise InputError(f"{name} has {picture.shape[0]} bands; the model takes {bands}.")
    check_finite(picture)
    # A wrong type is refused here rather than after minutes of calibration. Real numbers may leave
    # the range of 0 to 1, here as in predict: values beyond a --range do.
    model.normalization(picture[:, :1, :1])
    return picture if size is None else resize_image(picture, size)


def quantize_in_place(
    model: SegmentationModel, path: Path, pictures: Sequence[Tensor], least: float
) -> None:
    """Put a file's 8-bit form in its place, once that has been held against the model.

    The file says of itself, as ``int8``, with how many pictures it was calibrated and for which
    share of the pixels of others it gives the model's class.

    Args:
        model: In eval mode, in float32, on the CPU.
        path: A file in float32 that :func:`segzoo.export` wrote.
        pictures: As :func:`read_calibration` gives them.
        least: The smallest share of pixels that must get the model's class.

    Raises:
        ExportError: The share is below ``least``.
    """
    judged = pictures[::_APART]
    used = [picture for index, picture in enumerate(pictures) if index % _APART]
    plain = open_exported(path)
    as_taken = (
        normalized(model.normalization, batch, batch.device, torch.float32)
        for batch in _batches(plain, used)
    )
    images = [plain.size_rule.fit(batch) for batch in as_taken]
    write = (_onnx if path.suffix.lower() == ".onnx" else _openvino)(path, images)
    write(path, {})
    share = _agreement(model, open_exported(path), judged)
    if share < least:
        raise ExportError(
            f"In int8 the file gives the model's class for {share:.2%} of the pixels of "
            f"{len(judged)} pictures; {least:.2%} is the least, so it was not kept. Give more "
            "pictures, more like those that the model was trained on, or export without int8."
        )
    write(path, {"int8": json.dumps({"pictures": len(used), "agreement": round(share, 6)})})


def _batches(file: ExportedModel, pictures: Sequence[Tensor]) -> Iterator[Tensor]:
    """Pictures in batches as the file takes them; the first ones fill the last batch up."""
    count = 1 if file.size is None else file.size[0]
    for start in range(0, len(pictures), count):
        batch = [pictures[(start + index) % len(pictures)] for index in range(count)]
        yield torch.stack(batch)


def _agreement(model: SegmentationModel, file: ExportedModel, pictures: Sequence[Tensor]) -> float:
    same = total = 0
    with torch.no_grad():
        for batch in _batches(file, pictures):
            same += int((file.predict(batch) == model.predict(batch)).sum())
            total += batch.shape[0] * batch.shape[-2] * batch.shape[-1]
    return same / total


def _openvino(source: Path, images: Sequence[Tensor]) -> Write:
    openvino = load_package("openvino", extra="quantize")
    network = openvino.Core().read_model(source)
    attention = any(step.get_type_name() in _ATTENTION for step in network.get_ops())
    result = _quantized(network, images, attention)

    def write(target: Path, facts: Mapping[str, str]) -> None:
        for key, value in facts.items():
            result.set_rt_info(value, ["segzoo", key])
        # Its constants may still lie in the file that is to be replaced.
        beside = target.with_name(f"int8-{target.name}")
        openvino.save_model(result, beside, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            os.replace(beside.with_suffix(suffix), target.with_suffix(suffix))

    return write


def _onnx(source: Path, images: Sequence[Tensor]) -> Write:
    onnx = load_package("onnx", extra="quantize")
    network = onnx.load(source)
    stored = {item.key: item.value for item in network.metadata_props}
    attention = any(node.op_type in _ATTENTION for node in network.graph.node)
    result = _quantized(network, images, attention)

    def write(target: Path, facts: Mapping[str, str]) -> None:
        del result.metadata_props[:]
        for key, value in (stored | dict(facts)).items():
            result.metadata_props.add(key=key, value=value)
        onnx.save(result, target)

    return write


def _quantized(network: Any, images: Sequence[Tensor], attention: bool) -> Any:
    nncf = load_package("nncf", extra="quantize")
    logger = logging.getLogger("nncf")
    level, drawn = logger.level, random.getstate()
    logger.setLevel(logging.ERROR)
    try:
        # Its bar belongs to people, like every other one: what a program prints stays its own.
        with contextlib.redirect_stdout(sys.stderr):
            return nncf.quantize(
                network,
                nncf.Dataset([image.numpy() for image in images], lambda image: {INPUT: image}),
                # Maps that have negative values keep all of their 8 bits.
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if attention else None,
                subset_size=len(images),
            )
    finally:
        logger.setLevel(level)
        random.setstate(drawn)  # it draws from Python's, which is the program's
