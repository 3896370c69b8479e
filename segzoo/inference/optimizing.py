"""A model made fast for inference, with the same outputs.

The passes are exact algebra; each is tried on a copy, compared with the source model on two images
(the example and a small odd one), and left out where the outputs differ by more than roundings.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from timm.models import reparameterize_model
from torch import Tensor, fx, nn

from .. import checks
from ..errors import ArgumentError, InputError, OptimizationError
from ..models import SegmentationModel
from ..models.inputs import check_batch, classes_of, warn_if_resized
from ..preprocessing import Normalization
from .backends import BACKENDS, make_backend
from .choosing import choose
from .epilogues import fuse_epilogues
from .folding import fold_batchnorm
from .fused_conv import FusedConv
from .rewriting import DoubledConv, rewrite_decoder
from .timing import in_turn, largest_difference
from .tracing import Body, trace

#: Largest difference to the source, relative to its largest logit, where nothing else is asked for.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
#: In a lower precision: how much larger than the plainly cast model's the error may be. Both are
#: sums of the same roundings in another order.
_ERROR_RATIO = 1.1
#: What an optimised model is tuned for where no example is given.
_SIDE = 512


@dataclass(frozen=True)
class PassReport:
    """What became of one pass.

    Attributes:
        name: The pass.
        applied: Whether the optimised model has it.
        detail: What it did, or why it was left out.
    """

    name: str
    applied: bool
    detail: str


def optimize(
    model: SegmentationModel,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = True,
    backend: str = "auto",
    example: Tensor | None = None,
    tolerance: float | None = None,
) -> OptimizedModel:
    """A copy of a model that only does inference, and that as fast as it can; yours stays as it is.

    >>> model = segzoo.Unet("resnet18", classes=3).eval()
    >>> fast = segzoo.optimize(model, example=torch.rand(1, 3, 64, 96))
    >>> fast(torch.rand(1, 3, 64, 96)).shape
    torch.Size([1, 3, 64, 96])

    Args:
        model: In eval mode, on the device where it is to run.
        dtype: The precision to compute in, such as ``torch.bfloat16``; None for the model's own.
        channels_last: Keep maps in memory cell by cell rather than plane by plane.
        backend: ``eager``, ``compile`` (torch.compile) or ``cudagraph``; ``auto`` takes the
            fastest of those that need no compiler, and chooses the way to compute each step by a
            short timing. With a named backend nothing is timed, and two runs make the same model.
        example: A batch ``(N, C, H, W)`` of the shape that matters most: ways are compared on it,
            and a compiled or recorded backend is made for it. None for one image of 512x512.
            Other shapes work too.
        tolerance: Largest difference to the source model, relative to its largest logit; None for
            1e-5 in float32, and in a lower precision for an error no larger than that of the model
            merely cast.

    Raises:
        ArgumentError: No segzoo model, one in training mode or with hooks, or a precision or a
            backend that the device does not have.
        InputError: An example that the model does not take.
        OptimizationError: The outputs differ by more than ``tolerance``.
    """
    _check_model(model)
    source = next(model.parameters())
    device = source.device
    checks.choice("backend", backend, ("auto", *BACKENDS))
    checks.flag("channels_last", channels_last)
    if backend == "cudagraph" and device.type != "cuda":
        raise ArgumentError(f"backend='cudagraph' needs a CUDA device; the model is on {device}.")
    if tolerance is not None:
        tolerance = checks.number("tolerance", tolerance, minimum=0, maximum=1)
    dtype = _usable(source.dtype if dtype is None else dtype, device)
    if example is None:
        example = torch.rand(1, model.in_channels, _SIDE, _SIDE, device=device)
    check_batch(example, model.in_channels)
    if example.device != device:
        raise InputError(f"The example is on {example.device}, the model on {device}.")
    with torch.inference_mode():
        return _Optimizer(model, example, dtype, channels_last).run(backend, tolerance)


class OptimizedModel(nn.Module):
    """A model for inference, made by :func:`optimize`: images in, logits out.

    It takes images of any size on its device, computes in its own precision whatever floating
    point type comes, and cannot be trained, moved, copied or saved: those are for the model that
    it was made from.

    Attributes:
        passes: What was done to it, a tuple of :class:`PassReport`.
        device: Where it computes.
        dtype: Its precision, and that of its logits.
    """

    def __init__(
        self,
        model: SegmentationModel,
        body: Body,
        run: nn.Module,
        passes: tuple[PassReport, ...],
        example: Tensor,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.config = model.config
        self.threshold = model.threshold
        self.passes = passes
        self.device, self.dtype = example.device, example.dtype
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._encoder = body.encoder
        self._run = run
        self._ready = True
        super().train(False)

    @property
    def classes(self) -> int:
        """Number of logits for each pixel."""
        return self.config.classes

    @property
    def in_channels(self) -> int:
        """Bands of the image."""
        return self.config.in_channels

    @property
    def normalization(self) -> Normalization:
        """What the model expects of its pixels; call it on an image."""
        assert self.config.normalization is not None  # a model fills it in
        return self.config.normalization

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """Normalised images ``(N, in_channels, H, W)`` -> logits ``(N, classes, H, W)``.

        Raises:
            InputError: Another shape, integers, or an image on another device.
        """
        check_batch(image, self.in_channels)
        if image.device != self.device:
            raise InputError(
                f"The image is on {image.device}, the optimised model on {self.device}."
            )
        warn_if_resized(image, self._encoder)
        rule = self._encoder.size_rule
        fitted = rule.fit(image.to(self.dtype)).contiguous(memory_format=self._layout)
        return rule.restore(self._run(fitted), (image.shape[-2], image.shape[-1]))

    @torch.inference_mode()
    def predict(self, image: Tensor) -> Tensor:
        """Pictures -> the class of each pixel, as :meth:`segzoo.SegmentationModel.predict`."""
        return classes_of(self, image, torch.empty(0, device=self.device, dtype=self.dtype))

    def report(self) -> str:
        """What each pass did, or why it was left out, one line each."""
        width = max(len(item.name) for item in self.passes)
        return "\n".join(
            f"{'x' if item.applied else ' '} {item.name:{width}}  {item.detail}"
            for item in self.passes
        )

    def train(self, mode: bool = True) -> OptimizedModel:
        """Refused for True: batch norms are folded, so there is nothing left to train.

        Raises:
            ArgumentError: ``mode`` is True.
        """
        if mode:
            raise ArgumentError(
                "An optimised model cannot be trained. Train the model that it was made from, and "
                "optimise it again."
            )
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OptimizedModel:
        raise ArgumentError(
            f"An optimised model is made for its device and precision ({self.device}, "
            f"{self.dtype}). Move or cast the model that it was made from, and optimise it again."
        )

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        raise ArgumentError(
            "An optimised model cannot be copied or saved: its weights are packed for this "
            "machine. Save the model that it was made from (model.save_pretrained), or export it "
            "(segzoo.export)."
        )


class _Optimizer:
    """One run of :func:`optimize`: the body so far, and what was reported."""

    def __init__(
        self, model: SegmentationModel, example: Tensor, dtype: torch.dtype, channels_last: bool
    ) -> None:
        self.model = model
        self.channels_last = channels_last
        self.dtype = dtype
        rule, source = model.encoder.size_rule, next(model.parameters())
        small = torch.rand(1, model.in_channels, 65, 97, device=source.device)
        self.images = [rule.fit(image.to(source.dtype)) for image in (example, small)]
        with exactly():
            self.wanted = [plain(model, image) for image in self.images]
        self.reports: list[PassReport] = []

    def run(self, backend: str, tolerance: float | None) -> OptimizedModel:
        body = self._traced()
        body = self._tried(body, "fold batch norm", _fold)
        body = self._tried(body, "rewrite decoder", self._rewrite)
        body = self._tried(body, "fuse epilogues", _fuse)
        body = body.to(self.dtype)
        image = self.images[0].to(self.dtype)
        if self.channels_last:
            body = body.to(memory_format=torch.channels_last)
            image = image.contiguous(memory_format=torch.channels_last)
        self._note("channels last", self.channels_last, "maps are kept cell by cell")
        choose(body, image, timed=backend == "auto", compiled=backend == "compile")
        self._note_choices(body)
        run = self._backend(body, backend, image)
        self._judge(run, image, tolerance)
        reports = tuple(self.reports)
        return OptimizedModel(self.model, body, run, reports, image, self.channels_last)

    def _traced(self) -> Body:
        """The model as graphs, its branches merged where the backbone can do that itself."""
        merged = copy.deepcopy(self.model)
        count = len(list(merged.encoder.backbone.modules()))
        # In double precision, so that merging rounds once.
        backbone = reparameterize_model(merged.encoder.backbone.double())
        merged.encoder.backbone = backbone.to(next(self.model.parameters()).dtype)
        fewer = count - len(list(merged.encoder.backbone.modules()))
        body = trace(merged)
        gap = self._gap(body) if fewer else 0.0
        if fewer and gap > self._rounding:
            body = trace(self.model)
            self._note("merge branches", False, f"differs by {gap:.1e}")
        elif fewer:
            self._note("merge branches", True, f"{fewer} modules fewer: the backbone's own merging")
        traced = sum(isinstance(part, fx.GraphModule) for part in body.parts())
        kept = sum(
            1
            for graph in body.graphs()
            for node in graph.graph.nodes
            if node.op == "call_module" and list(graph.get_submodule(str(node.target)).children())
        )
        detail = f"{traced} of 2 parts are graphs; {kept} of their modules are kept whole"
        self._note("trace", traced > 0, detail)
        return body

    def _rewrite(self, body: Body) -> str:
        if not isinstance(body.decode, fx.GraphModule):
            return ""
        small = self.images[1]
        count = rewrite_decoder(body.decode, body.encoder(small), small)
        return f"{count} blocks without doubled maps and concatenations" if count else ""

    def _tried(self, body: Body, name: str, change: Callable[[Body], str]) -> Body:
        """The body with a pass, if its outputs stay what they were; else the body."""
        changed = copy.deepcopy(body)
        try:
            detail = change(changed)
            gap = self._gap(changed) if detail else 0.0
        except Exception as error:  # a pass is a convenience: it must not cost the model
            self._note(name, False, f"{type(error).__name__}: {error}".splitlines()[0][:160])
            return body
        if not detail:
            self._note(name, False, "nothing to do: the model has no such steps")
            return body
        if not gap <= self._rounding:
            self._note(name, False, f"left out: outputs differ by {gap:.1e}")
            return body
        self._note(name, True, f"{detail}; outputs differ by {gap:.1e}")
        return changed

    @property
    def _rounding(self) -> float:
        """How far a pass may move the outputs, in the source's own precision."""
        return TOLERANCE.get(self.images[0].dtype, 0.02)

    def _gap(self, body: Body) -> float:
        with exactly():
            return max(
                largest_difference(body(image), wanted)
                for image, wanted in zip(self.images, self.wanted, strict=True)
            )

    def _note_choices(self, body: Body) -> None:
        steps = [item for item in body.modules() if isinstance(item, (FusedConv, DoubledConv))]
        ways = [s.way if isinstance(s, DoubledConv) else s.kernel for s in steps]
        counts = {way: ways.count(way) for way in sorted(set(ways))}
        detail = ", ".join(f"{count} {way}" for way, count in counts.items())
        self._note("choose ways", bool(steps), detail or "nothing to choose")

    def _backend(self, body: Body, backend: str, image: Tensor) -> nn.Module:
        """The backend of that name, or the fastest of those that are quick to make."""
        names = [backend]
        if backend == "auto":
            names = ["eager", "cudagraph"] if image.device.type == "cuda" else ["eager"]
        candidates: dict[str, nn.Module] = {}
        for name in names:
            try:
                candidates[name] = make_backend(name, body, image)
            except Exception as error:
                if name == backend:
                    raise OptimizationError(f"backend={name!r} failed: {error}") from error
                self._note(f"backend {name}", False, str(error).splitlines()[0][:160])
        best = names[0]
        if len(candidates) > 1:
            calls = {name: _call(run, image) for name, run in candidates.items()}
            timings = in_turn(calls, device=image.device, rounds=7)
            best = min(timings, key=lambda name: timings[name].median)
        self._note(f"backend {best}", True, "runs it")
        return candidates[best]

    def _judge(self, run: nn.Module, image: Tensor, tolerance: float | None) -> None:
        """Raise unless the outputs are as near to the source's as was asked for."""
        wanted = self.wanted[0]
        with exactly():
            found = largest_difference(run(image), wanted)
            allowed = TOLERANCE.get(self.dtype) if tolerance is None else tolerance
            if allowed is None:
                cast = copy.deepcopy(self.model).to(self.dtype)
                allowed = _ERROR_RATIO * largest_difference(plain(cast, image), wanted)
        if not found <= allowed:
            raise OptimizationError(
                f"The optimised model's logits differ from the source's by {found:.1e} of the "
                f"largest, allowed are {allowed:.1e}. Allow more with tolerance=, or use another "
                "dtype."
            )
        self._note("outputs", True, f"differ by {found:.1e} of the largest logit ({self.dtype})")

    def _note(self, name: str, applied: bool, detail: str) -> None:
        self.reports.append(PassReport(name, applied, detail))


def plain(model: SegmentationModel, image: Tensor) -> Tensor:
    """What a model gives for an image that fits its encoder already."""
    return model.decode(model.pyramid(model.encoder(image)), image)


def _fold(body: Body) -> str:
    count = sum(fold_batchnorm(graph) for graph in body.graphs())
    return f"{count} folded in float64" if count else ""


def _fuse(body: Body) -> str:
    count = sum(fuse_epilogues(graph) for graph in body.graphs())
    return f"{count} convolutions with what follows them" if count else ""


def _call(run: nn.Module, image: Tensor) -> Callable[[], object]:
    return lambda: run(image)


def _check_model(model: object) -> None:
    if not isinstance(model, SegmentationModel):
        raise ArgumentError(
            f"optimize takes a segzoo model, got {type(model).__name__}. "
            "segzoo.convert brings over models of other libraries."
        )
    if model.training:
        raise ArgumentError("The model is in training mode; call model.eval() first.")
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any(hooks):
            raise ArgumentError(
                f"{name or 'The model'} has hooks, which would be lost. Remove them first."
            )


def _usable(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype, if it is a floating point type that the device can convolve."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ArgumentError(f"dtype must be a floating point torch.dtype, got {dtype!r}.")
    lacking = ArgumentError(f"The device {device} cannot compute in {dtype}; try torch.float32.")
    if device.type == "cuda" and dtype is torch.bfloat16:
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise lacking
        return dtype
    try:
        x = torch.zeros(1, 1, 3, 3, dtype=dtype, device=device)
        torch.nn.functional.conv2d(x, x)
    except Exception as error:
        raise lacking from error
    return dtype


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Without TF32, which would hide an error behind its own."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before
