"""A model made fast for inference, with the same outputs.

The passes are exact algebra; each is tried on a copy, compared with the source model on two images
(the example and a small odd one), and left out where the outputs differ by more than roundings.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, fx, nn

from ... import checks
from ...architectures.base import SegmentationModel
from ...errors import ArgumentError, InputError, OptimizationError
from ...nn.full_precision import full_precision
from ...prediction.inputs import check_batch, check_finite
from ...prediction.masks import VOID
from ...timing import in_turn
from ..kernels import usable
from ..precision import trying_algorithms
from .answers import Answers, decided
from .arguments import check_model
from .autotune import BLOCKS, choose
from .backends import (
    BACKENDS,
    RecordedFor,
    Rounded,
    compiles,
    make_backend,
    ordinary,
    to_be_compared,
)
from .doubled_conv import DoubledConv
from .dtypes import as_dtype, check_supported, computed_in, fastest, warn_if_slower
from .fuse_head import HeadedConv
from .fused_conv import FusedConv
from .fused_linear import FusedLinear
from .graph_passes import FUSING, fold, join
from .join_laterals import join_laterals
from .optimized_model import OptimizedModel, PassReport
from .overwrite import overwrite_addends
from .pointwise_first import pointwise_first
from .rewrite_decoder import rewrite_decoder
from .trace import Body, is_opaque, trace
from .trace_parts import trace_parts
from .verify import Judge, Run

#: What an optimised model is tuned for where no example is given.
_SIDE = 512
#: The other image that passes are checked on: odd sides, where no map is twice another.
_ODD = (65, 97)
#: Of another image's pixels so many must get the class of their logits where they get one at once.
_AGREEMENT = 0.99
#: Of a batch so many images are compared: the others are computed alike.
_ROWS = 2


def optimize(
    model: SegmentationModel,
    *,
    dtype: torch.dtype | str | None = None,
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
        dtype: The precision to compute in, such as ``torch.bfloat16``, or its name; None for the
            model's own. On a CPU that is slower in one of 16 bits than in float32, all between
            image and logits is float32. ``"auto"`` makes the model in each that the device has, and
            takes the fastest which gives 99 % of the example's pixels the class that they get in
            the model's own; ``report()`` says what was found. Give a real picture as example:
            classes of noise are decided by roundings.
        channels_last: Keep maps in memory cell by cell rather than plane by plane.
        backend: ``auto`` takes the fastest of what is made in seconds: ``eager`` and, on a GPU,
            ``cudagraph``. ``fastest`` tries ``compile`` and ``max-autotune`` (torch.compile) as
            well, for minutes. Both choose the implementation of each step by a short timing. With
            one of the four names nothing is timed, ``dtype`` is taken at its word, and two runs
            make the same model.
        example: A batch ``(N, C, H, W)`` of the shape that matters most: implementations are
            compared on it, and a compiled or recorded backend is made for it. None for one image
            of 512x512. Other shapes work too.
        tolerance: Largest difference to the source model, relative to its largest logit; None for
            1e-5 in float32, and in a lower precision for an error no larger than that of the model
            merely cast.

    Raises:
        ArgumentError: No segzoo model, one in training mode or with hooks, or a precision or a
            backend that the device does not have.
        InputError: An example that the model does not take.
        OptimizationError: The outputs differ by more than ``tolerance``, or weights are not finite.
    """
    check_model(model)
    source = next(model.parameters())
    device = source.device
    checks.choice("backend", backend, ("auto", "fastest", *BACKENDS))
    checks.flag("channels_last", channels_last)
    if backend == "cudagraph" and device.type != "cuda":
        raise ArgumentError(f"backend='cudagraph' needs a CUDA device; the model is on {device}.")
    if tolerance is not None:
        tolerance = checks.number("tolerance", tolerance, minimum=0, maximum=1)
    auto = dtype == "auto"
    dtype = as_dtype(None if auto else dtype, source.dtype)
    check_supported(dtype, device)
    timed = backend not in BACKENDS
    if not timed or device.type != "cpu":
        warn_if_slower(dtype, source.dtype, device)
    if example is None:
        example = torch.rand(1, model.in_channels, _SIDE, _SIDE, device=device)
    check_batch(example, model.in_channels)
    check_finite(example, "example")
    if example.device != device:
        raise InputError(f"The example is on {example.device}, the model on {device}.")
    # Tensors of inference mode could be used in no training; outputs are compared in one precision.
    with torch.inference_mode(False), torch.no_grad(), full_precision(device):
        image = ordinary(example)

        def build(dtype: torch.dtype) -> OptimizedModel:
            inner, why = computed_in(dtype, device) if timed else (dtype, "")
            # In a finer precision from the beginning: what passes compute is rounded to the source.
            finer = torch.finfo(inner).eps < torch.finfo(source.dtype).eps
            own = copy.deepcopy(model).to(inner) if finer else model
            run = _Optimizer(own, image, inner, channels_last)
            return run.run(backend, tolerance, rounded=(dtype, why) if why else None)

        return fastest(model, image, build) if auto else build(dtype)


class _Optimizer:
    """One run of :func:`optimize`: the body so far, and what was reported."""

    def __init__(
        self, model: SegmentationModel, example: Tensor, dtype: torch.dtype, channels_last: bool
    ) -> None:
        self.model = model
        self.channels_last = channels_last
        self.dtype = dtype
        rule, source = model.encoder.size_rule, next(model.parameters())
        seeded = torch.Generator().manual_seed(0)
        small = torch.rand(1, model.in_channels, *_ODD, generator=seeded).to(source.device)
        self.images = [rule.fit(image.to(source.dtype)) for image in (example, small)]
        self.judge = Judge(model, [image[:_ROWS] for image in self.images])
        self.reports: list[PassReport] = []

    def run(
        self, backend: str, tolerance: float | None, *, rounded: tuple[torch.dtype, str] | None
    ) -> OptimizedModel:
        body = self._traced()
        body = self._tried(body, "trace parts", self._parts)
        body = self._tried(body, "fold batch norm", fold)
        body = self._tried(body, "pointwise first", self._pointwise)
        body = self._tried(body, "join laterals", self._laterals)
        body = self._tried(body, "rewrite decoder", self._rewrite)
        for name, change in FUSING.items():
            body = self._tried(body, name, change)
        unusable = usable(self.images[0].device, self.dtype)
        if unusable is None:
            body = self._tried(body, "join head", join)
        else:
            self._note("join head", False, unusable)
        body = body.to(self.dtype)
        image = self._laid_out(self.images[0].to(self.dtype))
        if self.channels_last:
            body = body.to(memory_format=torch.channels_last)
        order = "cell by cell" if self.channels_last else "plane by plane, as was asked for"
        self._note("channels last", self.channels_last, f"maps are kept {order}")
        with trying_algorithms(image.device):
            body, run = self._backend(body, backend, image)
            answers = self._answers(run, image)
        if rounded is not None:
            outer, why = rounded
            run, image = Rounded(run, inner=self.dtype, outer=outer), image.to(outer)
            self._note("precision", True, f"{self.dtype} inside: {why}")
        # In the layout that it is made for: another one would be compiled once more.
        self._check_outputs(lambda x: run(self._laid_out(x)), image.dtype, tolerance)
        reports = tuple(self.reports)
        return OptimizedModel(self.model, body, run, reports, image, self.channels_last, answers)

    def _traced(self) -> Body:
        """The model as graphs, its branches merged where the backbone can do that itself."""
        merged = copy.deepcopy(self.model)
        count = len(list(merged.encoder.backbone.modules()))
        # In double precision, so that merging rounds once.
        backbone = reparameterize_model(merged.encoder.backbone.double())
        merged.encoder.backbone = backbone.to(next(self.model.parameters()).dtype)
        fewer = count - len(list(merged.encoder.backbone.modules()))
        body = trace(merged, self.images[1])
        if fewer:
            good, detail = self._verdict(body)
            self._note("merge branches", good, f"{fewer} modules fewer; {detail}")
            body = body if good else trace(self.model, self.images[1])
        traced = sum(isinstance(part, fx.GraphModule) for part in body.parts())
        kept = sum(
            1
            for graph in body.graphs()
            for node in graph.graph.nodes
            if node.op == "call_module" and is_opaque(graph.get_submodule(str(node.target)))
        )
        detail = f"{traced} of 2 parts are graphs; {kept} of their modules are kept whole"
        self._note("trace", traced > 0, detail)
        return body

    def _pointwise(self, body: Body) -> str:
        if not isinstance(body.decode, fx.GraphModule):
            return ""
        image = self.images[0][:1]  # what is enlarged depends on the size: pooled maps are not
        count = pointwise_first(body.decode, body.encoder(image), image)
        return f"{count} 1x1 convolutions of maps before they are enlarged" if count else ""

    def _laterals(self, body: Body) -> str:
        if not isinstance(body.decode, fx.GraphModule):
            return ""
        small = self.images[1]
        count = join_laterals(body.decode, body.encoder(small), small)
        return f"{count} levels of a pyramid without a map of their own" if count else ""

    def _parts(self, body: Body) -> str:
        # Two of another size first: neither number nor size may pass for a constant of the model.
        other = body.encoder.size_rule.fit(self.images[1][..., :33, :33].repeat(2, 1, 1, 1))
        count = trace_parts(body, [other, *(image[:1] for image in self.images)])
        return f"{count} modules inside of the others are graphs" if count else ""

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
            good, outcome = self._verdict(changed) if detail else (False, "no such steps")
        except Exception as error:  # a pass is a convenience: it must not cost the model
            good, outcome, detail = False, _said(error), ""
        self._note(name, good, "; ".join(filter(None, (detail, outcome))))
        return changed if good else body

    def _verdict(self, body: Body) -> tuple[bool, str]:
        return self.judge.verdict(body, self.images[0].dtype, None)

    def _note_choices(self, body: Body) -> None:
        blocks = [item for item in body.modules() if isinstance(item, BLOCKS)]
        inside = {conv for block in blocks for conv in block.modules()}
        single = (FusedConv, FusedLinear)
        steps = [item for item in body.modules() if isinstance(item, single) and item not in inside]
        joins = [block for block in blocks if isinstance(block, (DoubledConv, HeadedConv))]
        steps += [conv for block in joins for conv in block.used()]
        chosen = [block.implementation for block in blocks] + [conv.kernel for conv in steps]
        counts = sorted(Counter(chosen).items())
        detail = ", ".join(f"{count} {name}" for name, count in counts)
        self._note("autotune", bool(chosen), detail or "nothing to choose")

    def _backend(self, body: Body, backend: str, image: Tensor) -> tuple[Body, nn.Module]:
        """The fastest backend of those that a name stands for, and the body that it runs."""
        names = to_be_compared(backend, image.device)
        timed = backend not in BACKENDS
        # On a CPU a compiler wants other steps than it is best without.
        apart = image.device.type == "cpu" and 0 < sum(map(compiles, names)) < len(names)
        bodies = {False: body, True: copy.deepcopy(body) if apart else body}
        #: Additions in place, by the body.
        settled: dict[int, int] = {}
        candidates: dict[str, nn.Module] = {}
        for name in names:
            own = bodies[compiles(name)]
            if id(own) not in settled:
                choose(own, image, timed=timed, compiled=compiles(name))
                on_cpu = image.device.type == "cpu"
                settled[id(own)] = sum(map(overwrite_addends, own.graphs())) if on_cpu else 0
            try:
                candidates[name] = make_backend(name, own, image)
            except Exception as error:
                if name == backend:
                    raise OptimizationError(f"backend={name!r} failed: {error}") from error
                self._note(f"backend {name}", False, _said(error))
        best = names[0]  # step by step: that is not made, and cannot fail
        if len(candidates) > 1:
            calls = {name: _call(run, image) for name, run in candidates.items()}
            timings = in_turn(calls, device=image.device, rounds=7, own_time=True)
            best = min(timings, key=lambda name: timings[name].undisturbed)
        self._note_choices(bodies[compiles(best)])
        count = settled[id(bodies[compiles(best)])]
        if count:
            self._note("overwrite addends", True, f"{count} additions in place of what they add")
        self._note(f"backend {best}", True, "runs it")
        return bodies[compiles(best)], candidates[best]

    def _answers(self, run: nn.Module, image: Tensor) -> RecordedFor | None:
        """What gives classes instead of logits, recorded beside what gives logits."""
        if not isinstance(run, RecordedFor) or self.model.classes > VOID:
            return None
        threshold = self.model.threshold
        try:
            answering = Answers(run.body, threshold)
            answers = RecordedFor(answering, image, beside=run)
            other = self._laid_out(self._other().to(self.dtype))
            wanted = decided(run(other), threshold)
            share = float((answers(other) == wanted).double().mean())
        except Exception as error:  # classes can be had from logits
            self._note("masks", False, _said(error))
            return None
        where = "with the head, in one kernel" if answering.fused else "in the recorded graph"
        good = share >= _AGREEMENT
        self._note("masks", good, f"decided {where}; {share:.2%} of the pixels as by the logits")
        return answers if good else None

    def _other(self) -> Tensor:
        """Another image of the example's shape.

        What is recorded may give the logits of the image that it was recorded with for every other
        one, and would pass on that.
        """
        seeded = torch.Generator().manual_seed(1)
        return torch.rand(self.images[0].shape, generator=seeded).to(self.images[0])

    def _laid_out(self, image: Tensor) -> Tensor:
        form = torch.channels_last if self.channels_last else torch.contiguous_format
        return image.contiguous(memory_format=form)

    def _check_outputs(self, run: Run, dtype: torch.dtype, tolerance: float | None) -> None:
        """Raise unless the outputs are as near to the source's as was asked for."""
        judge = Judge(self.model, [self._other(), self.images[1]], rows=_ROWS, as_it_runs=True)
        good, detail = judge.verdict(run, dtype, tolerance)
        if not good:
            raise OptimizationError(
                f"The optimised model is too far from its source: {detail}. Allow more with "
                "tolerance=, or use another dtype."
            )
        self._note("outputs", True, f"{detail} ({dtype})")

    def _note(self, name: str, applied: bool, detail: str) -> None:
        self.reports.append(PassReport(name, applied, detail))


def _said(error: Exception) -> str:
    """An error in a line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def _call(run: nn.Module, image: Tensor) -> Callable[[], object]:
    return lambda: run(image)
