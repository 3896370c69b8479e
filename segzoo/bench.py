"""A model here and the same model in segmentation_models_pytorch, run side by side.

What ``segzoo bench`` shows and what the benchmarks build on: both have the same weights, and every
output is compared with float64 before its producer is timed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .architectures.base import SegmentationModel, create_model
from .convert import from_smp
from .convert.smp.architecture import rival
from .convert.smp.encoders import is_here
from .devices import choose_device
from .errors import ArgumentError, ConversionError, SegzooError
from .features import ceil_div
from .nn.layers import BatchNorm
from .packages import why_broken
from .registry import ARCHITECTURES
from .timing import Measured, largest_difference, side_by_side

#: Classes of the models that are timed.
CLASSES = 3
#: Cells of the deepest map that a mean and a variance are taken from, at least.
_LEAST_CELLS = 64
#: Names of ``--dtype``.
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
#: So many times further from float64 than the plain model in the same dtype may an output be: other
#: algorithms round in another order, and a model that magnifies roundings magnifies their luck too.
_SLACK = 4.0
#: What float32 may always differ by; some convolution algorithms (Winograd's) lose as much.
_LEAST = 1e-4


@dataclass(frozen=True)
class Pair:
    """The same network with the same weights, here and in another library; both in eval mode.

    Attributes:
        ours: The model here.
        theirs: The other library's; None where there is none.
        reason: Why there is none.
    """

    ours: SegmentationModel
    theirs: nn.Module | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Reference:
    """What some images of a batch give in float64, and how far from it an output may be."""

    logits: Tensor
    rows: tuple[int, ...]
    allowed: float

    def difference(self, output: Tensor) -> float:
        """Of a batch of logits, relative to the largest; see :func:`largest_difference`."""
        return largest_difference(output[list(self.rows)], self.logits)


def make_pair(encoder: str, arch: str, size: tuple[int, int], *, classes: int = CLASSES) -> Pair:
    """A model on an encoder, and smp's where it is installed and has the same.

    The weights are random, and none is at its start value of zero or one: a branch that starts at
    zero would hide whatever is wrong in it.

    Raises:
        UnknownNameError: There is no such encoder or architecture.
    """
    checks.choice("arch", arch, ARCHITECTURES)
    # Enough for statistics of the deepest maps, which have 1/1024 of the image's cells.
    count = max(2, ceil_div(_LEAST_CELLS * 1024, size[0] * size[1]))
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))
    ours = create_model(arch, encoder, classes)
    kind, reason = rival(arch), f"smp has no architecture {arch}"
    if kind is not None:
        try:
            theirs = _smp_model(kind, encoder, images, classes)
            return Pair(from_smp(theirs).eval(), theirs)
        except ImportError as error:
            broken = why_broken("segmentation_models_pytorch", error)
            reason = broken or "not installed: pip install segmentation-models-pytorch"
        except (ConversionError, _NotBuiltError) as error:
            reason = str(error)
    settle(ours, images)
    return Pair(ours.eval(), None, reason)


class _NotBuiltError(Exception):
    """smp cannot build the encoder, or run it at this size."""


def _smp_model(kind: str, encoder: str, images: Tensor, classes: int) -> Any:
    """smp's model with settled weights, by the first of its names for the encoder that works.

    Some of smp's own encoders are called otherwise here, or like another network of timm's.
    """
    import segmentation_models_pytorch as smp

    size = (images.shape[-2], images.shape[-1])
    name = encoder.partition(".")[0]
    names = [own for own in smp.encoders.get_encoder_names() if is_here(own, name)]
    reason = ""
    for candidate, options in [(n, {}) for n in names] + [
        (f"tu-{name}", {}),
        (f"tu-{name}", {"img_size": size}),  # for backbones that are built for one size
    ]:
        try:
            model = getattr(smp, kind)(candidate, encoder_weights=None, classes=classes, **options)
            settle(model, images)
        except Exception as error:
            reason = reason or f"smp cannot: {type(error).__name__}: {error}"
        else:
            return model.eval()
    raise _NotBuiltError(reason)


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> None:
    """Move constant parameters off their value, and take BatchNorm's statistics from the images."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.min() == parameter.max():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, of which there is one
    model.train()(images)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.inference_mode()
def make_reference(model: nn.Module, image: Tensor, dtype: torch.dtype) -> Reference:
    """The first and the last image of a batch in float64, and in the plain model of a dtype."""
    rows = (0,) if image.shape[0] == 1 else (0, image.shape[0] - 1)
    images = image[list(rows)]
    exact = images.device if images.device.type == "cuda" else torch.device("cpu")
    logits = copied(model, exact, torch.float64)(images.to(exact, torch.float64))
    plain = copied(model, images.device, dtype)(images.to(dtype))
    return Reference(logits, rows, max(_SLACK * largest_difference(plain, logits), _LEAST))


def copied(
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> nn.Module:
    """A copy in eval mode elsewhere, in another dtype or memory format."""
    # .to() takes the format for 4-dimensional weights only where it is channels_last.
    return copy.deepcopy(model).to(device, dtype).to(memory_format=memory_format).eval()


@dataclass(frozen=True)
class ModelCall:
    """The call that is timed.

    Attributes:
        model: Images to logits.
        image: Where and what the model wants it to be.
    """

    model: Callable[[Tensor], Tensor]
    image: Tensor

    def __call__(self) -> Tensor:
        """The logits of its image."""
        with torch.inference_mode():
            return self.model(self.image)


def as_called(model: Callable[[Tensor], Tensor], image: Tensor) -> ModelCall:
    """A model and an image as the call that is timed."""
    return ModelCall(model, image)


def eager(
    model: nn.Module, image: Tensor, dtype: torch.dtype, *, channels_last: bool = False
) -> ModelCall:
    """The model as it is, in one of the two memory formats."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    return as_called(
        copied(model, image.device, dtype, form), image.to(dtype).contiguous(memory_format=form)
    )


def optimized(
    model: SegmentationModel, image: Tensor, dtype: torch.dtype, *, backend: str = "auto"
) -> ModelCall:
    """What :func:`segzoo.optimize` makes of the model."""
    from .inference.optimize.optimize import optimize

    image = image.to(dtype).contiguous(memory_format=torch.channels_last)
    source = copy.deepcopy(model).to(image.device)
    fast = optimize(source, dtype=dtype, backend=backend, example=image)
    return as_called(fast, image)


@dataclass(frozen=True)
class Comparison:
    """What :func:`run_bench` found.

    Attributes:
        results: By name of the implementation, ``segzoo optimized`` for one.
        baseline: What ratios are to: the fastest of smp's, or our own eager model without one.
        reason: Why smp's model is not there; None where it is.
    """

    results: Mapping[str, Measured]
    baseline: str | None
    reason: str | None


def run_bench(
    encoder: str,
    *,
    arch: str = "unet",
    size: tuple[int, int] = (256, 256),
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: str = "float32",
    rounds: int = 20,
    limit: float = 15.0,
) -> Comparison:
    """Time a model on random images: eager, optimized, and smp's with the same weights.

    Args:
        encoder: A name of :func:`~segzoo.list_encoders`.
        arch: A name in :data:`~segzoo.ARCHITECTURES`.
        size: Height and width of the images.
        batch: Images at a time.
        device: Where to compute; ``auto`` is a CUDA GPU where there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``, for weights and images.
        rounds: How often each is timed, in turn; at least once.
        limit: Seconds after which no round begins, once there were three; above 0.

    Raises:
        ArgumentError: A name that is not known, or a value that cannot work.
    """
    kind = DTYPES[checks.choice("dtype", dtype, DTYPES)]
    checks.integer("batch", batch, minimum=1, maximum=4096)
    height, width = _sides(size)
    checks.integer("rounds", rounds, minimum=1, maximum=1_000_000)
    limit = checks.positive("limit", limit)
    device = choose_device(str(device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what both libraries build on
        try:
            pair = make_pair(encoder, arch, (height, width))
            seeded = torch.Generator().manual_seed(2)
            image = torch.randn(batch, 3, height, width, generator=seeded).to(device)
            reference = make_reference(pair.theirs or pair.ours, image, kind)
        except RuntimeError as error:  # how torch says that a type or the memory is lacking
            if isinstance(error, SegzooError):
                raise
            first = str(error).partition("\n")[0]
            raise ArgumentError(
                f"The plain model cannot be run so on {device} in {dtype}: {first}"
            ) from error
        results = side_by_side(
            _builders(pair, image, kind),
            difference=reference.difference,
            allowed=reference.allowed,
            device=device,
            rounds=rounds,
            turn=0.02,
            limit=limit,
        )
    timed = {name: found.timing.median for name, found in results.items() if found.timing}
    rivals = {name: value for name, value in timed.items() if name.startswith("smp")} or timed
    baseline = min(rivals, key=rivals.__getitem__, default=None)
    if rivals is timed and "segzoo eager" in timed:
        baseline = "segzoo eager"
    return Comparison(results, baseline, pair.reason)


def _sides(size: tuple[int, int]) -> tuple[int, int]:
    sides = checks.sequence(
        "size", size, lambda _, side: checks.integer("size", side, minimum=1, maximum=16384)
    )
    if len(sides) != 2:
        raise ArgumentError(f"size must be (height, width), got {checks.shown(size)}.")
    return sides[0], sides[1]


def _builders(
    pair: Pair, image: Tensor, dtype: torch.dtype
) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    ours, theirs = pair.ours, pair.theirs
    builders: dict[str, Callable[[], Callable[[], Tensor]]] = {
        "segzoo eager": lambda: eager(ours, image, dtype),
        "segzoo optimized": lambda: optimized(ours, image, dtype),
    }
    if theirs is not None:
        builders["smp eager"] = lambda: eager(theirs, image, dtype)
        builders["smp channels_last"] = lambda: eager(theirs, image, dtype, channels_last=True)
    return builders
