"""A trained model as a file for runtimes that need neither torch nor segzoo.

The file is written under another name, run by its own runtime and compared with the model; only one
that gives the model's logits takes its place.
"""

from __future__ import annotations

import copy
import json
import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from ... import checks
from ..._compat import hooks_of
from ..._version import __version__
from ...architectures.base import SegmentationModel
from ...config import MAX_SIDE
from ...encoders import SizeRule
from ...errors import (
    ArgumentError,
    ExportError,
    MissingPackageError,
    SegzooError,
    StorageError,
    warn,
)
from ...files.atomic import check_file
from ...files.local import path_of
from ...nn.finite import first_infinite
from ...packages import load_package
from ..optimize.doubled_conv import DoubledConv
from ..optimize.fold_batchnorm import fold_batchnorm
from ..optimize.rewrite_decoder import rewrite_decoder
from ..optimize.trace import RECORDING, Body, collects_maps, trace
from .formats import AXES, FORMATS, INPUT, Format
from .quantize import Pictures, quantize_in_place, read_calibration

#: Largest difference of a file's logits from the model's, as a part of the largest logit.
TOLERANCE = 1e-4


def export(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    dynamic: bool = True,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    optimized: bool = True,
    int8: Pictures | None = None,
    agreement: float = 0.99,
) -> Path:
    """Write a model as a file that other runtimes run: images in, logits out, in float32.

    Your model stays as it is; a copy in eval mode is exported. Where the runtime of the format is
    installed, the file's logits are compared with the model's before the file takes its place; one
    for every size is compared at an odd size too. The file says what has to be known to use it:
    see the page on deployment.

    Args:
        model: Of any architecture, in any mode, on any device.
        path: The file, in a folder that exists; one that is there is replaced. ``.onnx`` is ONNX;
            ``.xml`` is OpenVINO, which puts the weights beside it into ``.bin``.
        format: ``onnx`` or ``openvino``, for a path without a suffix: it is added.
        dynamic: The file takes any number of images of any size. Else it takes ``batch`` images of
            ``size`` only, and its decoder can be rewritten, which is faster.
        size: ``(height, width)`` of the images; of a dynamic file only those that it is recorded
            and compared with. None for the size that the encoder was built for.
        batch: Number of images that a file which is not dynamic takes.
        optimized: Fold batch normalisation into the convolutions in double precision, and rewrite
            the decoder where sizes are known: exact algebra that runtimes do not do themselves. A
            model with hooks is exported as it is.
        int8: Pictures to calibrate with, 16 or more: the file computes in 8-bit integers where that
            can be, a quarter of the size and several times as fast on processors made for it. A
            folder, or a list of files or tensors ``(C, H, W)`` as ``predict`` takes them, like
            those that the model will see. Every fourth is kept apart to judge the file by.
        agreement: The smallest share of their pixels that must get the model's class in int8.

    Returns:
        The path of the file.

    Raises:
        ArgumentError: The model is none of segzoo's, the format is not known, a dynamic file is
            asked of an encoder that takes one size only, or the size of a file that is not dynamic
            is nowhere said.
        InputError: A picture of ``int8`` that the model does not take.
        MissingPackageError: The packages of the format are not installed: ``pip install
            "segzoo[export]"`` brings them, and ``"segzoo[quantize]"`` those of int8.
        ExportError: torch or the runtime cannot do it, the file's logits are not the model's, or in
            int8 too few of its classes are.
        StorageError: The file cannot be written.
    """
    if not isinstance(model, SegmentationModel):
        raise ArgumentError(
            f"export takes a segzoo model, got {type(model).__name__}. segzoo.convert brings over "
            "models of other libraries."
        )
    checks.flag("dynamic", dynamic)
    checks.flag("optimized", optimized)
    checks.integer("batch", batch, minimum=1, maximum=MAX_SIDE)
    agreement = checks.number("agreement", agreement, minimum=0, maximum=1)
    target, kind = _target(path, format)
    sides = _sides(model, dynamic, size)
    for package in kind.needs:
        load_package(package, extra="export")
    infinite = first_infinite(model.state_dict().items())
    if infinite is not None:
        raise ExportError(
            f"The model's weights are not finite: NaN or infinity in {infinite}. Its logits would "
            "be useless; export a model from before its training diverged."
        )
    pictures = None
    if int8 is not None:
        for package in (kind.runtime, "nncf"):
            load_package(package, extra="quantize")
        pictures = read_calibration(model, int8, None if dynamic else (sides[0], sides[1]))
    plain = _plain(model)
    # torch makes a batch of one a part of the graph that it records.
    example = _images(plain, 2 if dynamic else batch, sides)
    with RECORDING, _explained("record the model's graph"):
        # What hooks do to a step they would do to one that does more, or to none.
        rewritten = optimized and not _has_hooks(plain)
        graph = _Static(plain, example, dynamic) if rewritten else plain
        program = _record(graph, example, dynamic)
    with _in_place(target, kind.suffix) as temporary:
        with RECORDING, _explained(f"write the graph as {target.suffix}"):
            kind.write(program, temporary, describe(plain, None if dynamic else example))
        _compare(plain, temporary, kind, example, dynamic)
        if pictures is not None:
            with _explained("quantize the file"):
                quantize_in_place(plain, temporary, pictures, agreement)
    return target


def describe(model: SegmentationModel, example: Tensor | None) -> dict[str, str]:
    """What a file says of itself, each value as JSON; ``example`` is None where it is dynamic."""
    config = model.config
    facts = {
        "segzoo_version": __version__,
        "architecture": model.architecture,
        "encoder": config.encoder,
        "bands": config.in_channels,
        "value_range": (0, 1),
        "mean": model.normalization.mean,
        "std": model.normalization.std,
        "classes": config.classes,
        "class_names": config.class_names,
        "threshold": model.threshold if config.classes == 1 else None,
        "batch": None if example is None else example.shape[0],
        "size": None if example is None else tuple(example.shape[-2:]),
        "stride": model.stride,
        "smallest_side": model.encoder.size_rule.minimum if example is None else None,
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


class _Static(nn.Module):
    """A model in eval mode with the exact algebra done that a runtime does not do itself."""

    def __init__(self, model: SegmentationModel, example: Tensor, dynamic: bool) -> None:
        super().__init__()
        self.rule: SizeRule = model.encoder.size_rule
        image = self.rule.fit(example[:1])
        self.body: Body = trace(model, image)
        for graph in self.body.graphs():
            fold_batchnorm(graph)
        # Which steps double their map is known where sizes are.
        if not dynamic and isinstance(self.body.decode, fx.GraphModule):
            rewrite_decoder(self.body.decode, self.body.encoder(image), image)
            for step in self.body.modules():
                if isinstance(step, DoubledConv):
                    step.keep()

    def forward(self, image: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> logits ``(N, classes, H, W)``."""
        logits: Tensor = self.body(self.rule.fit(image))
        return self.rule.restore(logits, (image.shape[-2], image.shape[-1]))


def _plain(model: SegmentationModel) -> SegmentationModel:
    """A copy in eval mode, in float32, on the CPU."""
    try:
        return copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    except Exception as error:  # of modules that others put in, and of the meta device
        raise ExportError(
            f"The model cannot be copied to the CPU in float32: {_first_line(error)}"
        ) from error


def _has_hooks(model: nn.Module) -> bool:
    """Whether there are hooks, other than those by which backbones collect their maps."""
    return any(
        not collects_maps(hook)
        for module in model.modules()
        for hooks in hooks_of(module)
        for hook in hooks.values()
    )


def _record(model: nn.Module, example: Tensor, dynamic: bool) -> ExportedProgram:
    # Without bounds torch reasons about a transformer's sizes for many minutes.
    free = Dim.DYNAMIC(min=2, max=MAX_SIDE)
    sizes = {INPUT: dict.fromkeys(AXES, free)} if dynamic else None
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=sizes, strict=False)


def _target(path: str | os.PathLike[str], format: str | None) -> tuple[Path, Format]:
    """The file to write, and its format."""
    target = path_of("path", path)
    kinds = list(FORMATS.values())
    if format is not None:
        kinds = [FORMATS[checks.choice("format", format, FORMATS)]]
        if not target.suffix:
            target = target.with_name(target.name + kinds[0].suffix)
    kind = next((kind for kind in kinds if kind.suffix == target.suffix.lower()), None)
    shown = checks.shown(str(target))
    if kind is None:
        raise ArgumentError(
            f"The file must end in {' or '.join(kind.suffix for kind in kinds)}, got {shown}."
        )
    try:
        ordinary = stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        ordinary = True
    except (OSError, ValueError) as error:  # too long, a zero character, a file as a folder
        raise StorageError(f"{shown} cannot be written: {error}.") from error
    if not ordinary:
        raise StorageError(f"{shown} is a folder, or no ordinary file; give another name.")
    check_file(target)
    return target, kind


def _sides(
    model: SegmentationModel, dynamic: bool, size: tuple[int, int] | None
) -> tuple[int, ...]:
    """Height and width to record the graph with."""
    rule = model.encoder.size_rule
    if dynamic and rule.fixed:
        raise ArgumentError(
            f"{model.config.encoder} takes images of {rule.fixed[0]}x{rule.fixed[1]} only, so no "
            "graph of it serves every size. Export with dynamic=False (segzoo export --fixed), or "
            "choose another encoder."
        )
    if size is None:
        size = model.config.image_size or rule.fixed or ((256, 256) if dynamic else None)
    if size is None:
        raise ArgumentError(
            "dynamic=False (--fixed) needs size=(height, width) (--size): this model takes images "
            "of any size, the file will take one."
        )
    least = max(rule.minimum, 2) if dynamic else 1
    sides = checks.sequence(
        "size", size, lambda name, side: checks.integer(name, side, minimum=least, maximum=MAX_SIDE)
    )
    if len(sides) != 2:
        raise ArgumentError(f"size must be (height, width), got {checks.shown(size)}.")
    return sides


def _images(model: SegmentationModel, count: int, sides: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, model.in_channels, *sides, generator=generator)


def _compare(
    model: SegmentationModel, path: Path, kind: Format, example: Tensor, dynamic: bool
) -> None:
    """Raise where a file's logits are not the model's."""
    try:
        load_package(kind.runtime, extra="export")
    except MissingPackageError as error:
        warn(f"The file was not compared with the model: {error}")
        return
    images = [example]
    if dynamic:
        least = model.encoder.size_rule.minimum
        odd = tuple(max(side // 2, least) | 1 for side in example.shape[-2:])
        images.append(_images(model, 1, odd))
    with _explained("open the file"):
        run = kind.open(path, None)
    for image in images:
        with _explained(f"run the file on images {tuple(image.shape)}"), torch.no_grad():
            expected, found = model(image), run(image)
        if found.shape != expected.shape:
            problem = f"have the shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        else:
            gap, largest = float((found - expected).abs().max()), float(expected.abs().max())
            if gap <= TOLERANCE * largest:
                continue
            problem = f"differ from the model's by {gap:.2g}, of {largest:.2g}"
        raise ExportError(
            f"The file's logits for images {tuple(image.shape)} {problem}, so it was not kept. "
            "Try dynamic=False, optimized=False, or the other format."
        )


@contextmanager
def _in_place(target: Path, suffix: str) -> Iterator[Path]:
    """A path of the same name in a folder of its own; what is in it moves beside ``target``.

    With the suffix in small letters: OpenVINO writes no ``.XML``.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".segzoo-export-") as folder:
            temporary = Path(folder) / target.with_suffix(suffix).name
            yield temporary
            beside = sorted(set(Path(folder).iterdir()) - {temporary})
            if beside:  # weights in a file of their own: an old graph never gets new ones
                target.unlink(missing_ok=True)
            for file in beside:
                os.replace(file, target.with_name(file.name))
            os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{target} cannot be written: {error}.") from error


@contextmanager
def _explained(action: str) -> Iterator[None]:
    """What converters and runtimes raise becomes one error; their warnings are not the user's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (SegzooError, OSError):
        raise
    except Exception as error:
        raise ExportError(
            f"Could not {action}: {_first_line(error)} Try dynamic=False, optimized=False, or the "
            "other format."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
