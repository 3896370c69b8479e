"""The model that a server computes with: saved weights or an exported file, by torch or another."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .. import checks
from ..architectures.base import from_pretrained
from ..devices import choose_device
from ..errors import ArgumentError, warn
from ..inference.export.export import export
from ..inference.export.exported import open_as_told, open_exported
from ..inference.export.formats import FORMATS

#: What computes.
RUNTIMES = ("torch", *FORMATS)


def open_model(
    model: str,
    *,
    runtime: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    revision: str | None = None,
) -> Any:
    """Open a model for serving.

    Args:
        model: A folder, ``user/name`` on the Hub, or a file that :func:`segzoo.export` wrote.
        runtime: ``torch``, ``onnx`` or ``openvino``; None for that of the file, or torch. For
            another one than torch a saved model is exported and opened; the file does not stay.
        device: Where torch computes.
        threads: Threads that compute; None for what the runtime takes by itself. torch's are one
            number for the whole process.
        revision: Branch, tag or commit of the model on the Hub.

    Raises:
        ArgumentError: A runtime that is not known or not that of the file, or a device that is not
            there.
        StorageError: The model cannot be loaded.
        ExportError: The model cannot be exported for that runtime.
        MissingPackageError: The runtime is not installed.
    """
    if runtime is not None:
        checks.choice("runtime", runtime, RUNTIMES)
    suffix = Path(model).suffix.lower()
    own = next((name for name, kind in FORMATS.items() if kind.suffix == suffix), None)
    if own is not None and Path(model).is_file():
        if runtime not in (None, own):
            raise ArgumentError(
                f"{model} is a file for {own}, not for {runtime}. Give the model that it was "
                f"exported from, or --runtime {own}."
            )
        return open_as_told(model, device=device, revision=revision, threads=threads)
    saved = from_pretrained(model, revision=revision)
    if runtime in (None, "torch"):
        if threads is not None:
            import torch

            torch.set_num_threads(checks.integer("threads", threads, minimum=1, maximum=4096))
        return saved.to(choose_device(device))
    if device not in ("auto", "cpu"):
        raise ArgumentError(
            f"--runtime {runtime} computes on the CPU; leave --device {device} out."
        )
    fixed = saved.size_rule.fixed
    if fixed:
        warn(f"The model takes pictures of {fixed[0]}x{fixed[1]} only, so others are refused.")
    with tempfile.TemporaryDirectory(prefix="segzoo-serve-") as folder:
        path = Path(folder) / f"model{FORMATS[runtime].suffix}"
        export(saved, path, dynamic=not fixed, size=fixed)
        return open_exported(path, threads=threads)
