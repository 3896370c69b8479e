"""An exported file as a model: what it says of itself, and the runtime that computes it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import checks
from ...config import MAX_CLASSES
from ...encoders import SizeRule
from ...errors import ArgumentError, InputError, StorageError
from ...files.local import path_of
from ...prediction.inputs import check_batch
from ...prediction.masks import classes_of
from ...preprocessing import Normalization
from .formats import FORMATS


class ExportedModel:
    """A file that :func:`segzoo.export` wrote, behind the face of a model for inference.

    Attributes:
        path: The file.
        classes: Number of logits for each pixel.
        in_channels: Bands of the image.
        class_names: One name for each class, or None.
        normalization: What it expects of its pixels.
        threshold: With one class: the output above which a pixel belongs to it.
        size: The one ``(batch, height, width)`` that it takes, or None where any goes.
        stride: Pixels between the steps that all maps share.
        size_rule: Which image sizes it takes as they are.
        int8: Of a file in 8-bit integers: the number of ``pictures`` that it was calibrated with,
            and the share of the pixels of others, ``agreement``, for which it gives the model's
            class. Else None.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], run: Any) -> None:
        self.path, self._run = path, run
        self.classes: int = facts["classes"]
        self.in_channels: int = facts["bands"]
        names = facts["class_names"]
        self.class_names: tuple[str, ...] | None = (
            checks.sequence("class_names", names, checks.text, longest=MAX_CLASSES)
            if names
            else None
        )
        self.normalization = Normalization(facts["mean"], facts["std"])
        self.threshold: float = facts["threshold"] or 0.0
        self.int8: Mapping[str, float] | None = facts.get("int8")
        fixed = facts["size"]
        self.size = (facts["batch"], *fixed) if fixed else None
        self.stride: int = facts.get("stride", 32)
        self.size_rule = SizeRule(minimum=facts["smallest_side"] or 1)

    def __call__(self, image: Tensor) -> Tensor:
        """Normalised images ``(N, in_channels, H, W)`` -> logits, float32 on the CPU.

        Raises:
            InputError: No batch of such images, or a size that the file was not made for.
        """
        check_batch(image, self.in_channels)
        given = (image.shape[0], *image.shape[2:])
        if self.size is not None and given != self.size:
            batch, height, width = self.size
            raise InputError(
                f"{self.path} takes {batch} image{'s' if batch > 1 else ''} of {height}x{width} "
                f"only, not {given[0]} of {given[1]}x{given[2]}. Export the model without a fixed "
                "size."
            )
        plain = self.size_rule.fit(image.detach().cpu().float()).contiguous()
        return self.size_rule.restore(self._run(plain), (image.shape[-2], image.shape[-1]))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the file, and of the weights beside it."""
        digest = hashlib.sha256()
        for path in (self.path, self.path.with_suffix(".bin")):
            if path == self.path or (path.is_file() and self.path.suffix.lower() == ".xml"):
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return digest.hexdigest()[:32]

    def predict(self, image: Tensor, *, min_confidence: float | None = None) -> Tensor:
        """Pictures -> the class of each pixel, as :meth:`segzoo.SegmentationModel.predict`."""
        return classes_of(self, image, torch.empty(0), min_confidence)


def open_as_told(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    revision: str | None = None,
    threads: int | None = None,
) -> ExportedModel:
    """:func:`open_exported`, where the options of a saved model may have been given as well.

    Raises:
        ArgumentError: A device that is not the CPU, or a revision.
    """
    if device.partition(":")[0] not in ("auto", "cpu"):
        raise ArgumentError(
            f"{path} is an exported file, which computes on the CPU here, not on {device!r}. Leave "
            "the device out, or give the model that it was exported from."
        )
    if revision is not None:
        raise ArgumentError(
            f"{path} is a file here, which has no revision {checks.shown(revision)}. Leave the "
            "revision out, or give the model's user/name on the Hub."
        )
    return open_exported(path, threads=threads)


def open_exported(path: str | os.PathLike[str], *, threads: int | None = None) -> ExportedModel:
    """Open a file that :func:`segzoo.export` wrote, with the runtime of its format.

    It can be predicted with as with the model itself: ``predict``, :func:`segzoo.predict_tiled` and
    :func:`segzoo.predict_probabilities`.

    Args:
        path: A ``.onnx`` file, or the ``.xml`` file of OpenVINO with its ``.bin`` beside it.
        threads: Threads that the runtime computes in; None for what it takes by itself.

    Raises:
        ArgumentError: ``threads`` is no number of threads.
        StorageError: It is missing, damaged, or none of ours.
        MissingPackageError: Its runtime is not installed.
    """
    path = path_of("path", path)
    if threads is not None:
        checks.integer("threads", threads, minimum=1, maximum=4096)
    kind = next((item for item in FORMATS.values() if item.suffix == path.suffix.lower()), None)
    if kind is None or not path.is_file():
        endings = " or ".join(item.suffix for item in FORMATS.values())
        raise StorageError(f"There is no exported file {path}; it ends in {endings}.")
    try:
        run, stored = kind.open(path, threads), kind.facts(path)
        facts = {name: json.loads(value) for name, value in stored.items()}
        return ExportedModel(path, facts, run)
    except (KeyError, ValueError, TypeError) as error:
        raise StorageError(
            f"{path} does not say of itself what segzoo needs ({error}). Write it by segzoo.export."
        ) from error
    except ImportError:
        raise
    except Exception as error:  # runtimes fail in ways of their own on a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise StorageError(f"{path} cannot be opened: {reason}.") from error
