"""The fastest of equal implementations of each step, found by a short timing on its real inputs.

Which one wins depends on the device, the shape and the precision, and no table knows them all. One
that fails, or whose output differs, is not taken. What was found is remembered for the process; on
other weights it is held against the plain one before it is taken again.
Without timing the last that works is taken: of convolutions the one that does most in one step, of
decoder blocks the one that moves the fewest bytes.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...nn.upsample_conv import doubles
from ...timing import largest_difference, side_by_side
from ..precision import rounds_float32
from .attention import Attention
from .cuda_graph import launched_at_once, memory_pool
from .dilated_conv import DilatedConv
from .doubled_conv import DoubledConv
from .fuse_head import HeadedConv
from .fused_conv import TRITON, FusedConv
from .fused_linear import FusedLinear
from .max_pool import PooledRelu

#: What has several implementations to compute the same.
Step: TypeAlias = (
    "FusedConv | FusedLinear | DoubledConv | DilatedConv | HeadedConv | PooledRelu | Attention"
)
#: Those that are no single convolution or linear layer, for ``isinstance``; they may hold some.
BLOCKS = (DoubledConv, DilatedConv, HeadedConv, PooledRelu, Attention)
#: How far two of them may be apart, relative to the largest value: a few roundings of a long sum.
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}
#: The same for float32 whose factors are rounded to TF32: to the latter's 2**-11, a few times.
_ROUNDED = 2e-3
#: Rounds of a step that takes long, and of one that takes next to nothing: the quicker a call, the
#: more of its time is chance. More than the first begin only within so many seconds.
_ROUNDS, _MOST_ROUNDS, _SECONDS = 5, 11, 0.1
#: On a GPU so many calls are one launch of a round.
_REPEATS = 10
#: What was found before, by everything that it may depend on; the latest used last.
_FOUND: dict[tuple[Any, ...], str] = {}
#: Of these no more are kept: a process may see images of ever new sizes.
_MOST = 1024
_FINDING = threading.Lock()


def choose(body: nn.Module, image: Tensor, *, timed: bool, compiled: bool = False) -> None:
    """Set the implementation of every step of ``body`` that has several, in place.

    Args:
        body: What holds the steps; run once on ``image``.
        image: ``(N, C, H, W)`` of the shape that matters most.
        timed: Compare by the clock.
        compiled: A compiler will see the steps; on CPUs it fuses convolutions itself.
    """
    _Chooser(timed, compiled).run(body, image)


class _Chooser:
    """Stops before each step's first run, compares its implementations on the inputs, goes on."""

    def __init__(self, timed: bool, compiled: bool) -> None:
        self.timed = timed
        self.compiled = compiled
        self.handles: dict[nn.Module, RemovableHandle] = {}
        #: Of the graphs that are timed: memory of their own would stay reserved for each of them.
        self.pool: Any = None

    def run(self, body: nn.Module, image: Tensor) -> None:
        self.pool = memory_pool(image.device)
        steps = [
            item for item in body.modules() if isinstance(item, (FusedConv, FusedLinear, *BLOCKS))
        ]
        # The inputs of a step, with their layouts, are there only while the body runs: each step is
        # stopped on its way in, settled, and then runs as it will later, so that the next step sees
        # what it will see later.
        for step in steps:
            self.handles[step] = step.register_forward_pre_hook(self._before)
        body(image)
        for handle in self.handles.values():  # of steps that did not run
            handle.remove()
        for step in steps:
            if isinstance(step, (DoubledConv, DilatedConv)):
                step.keep()

    def _before(self, step: Step, inputs: tuple[Any, ...]) -> None:
        self.handles.pop(step).remove()
        x = inputs[0]
        if isinstance(step, DoubledConv):
            if not doubles(x, inputs[2], step.mode):
                return
            # The plain one stays, for other sizes, and has a kernel of its own to choose: one run
            # makes it stop in this hook as well.
            step.implementation = "plain"
            step(*inputs)
        names = step.choices(x)
        if isinstance(step, DilatedConv):
            for name in names:  # each has a kernel of its own to choose
                step.use(name, x)
                step(*inputs)
        # The compiler fuses what follows a convolution by itself; oneDNN's operator would hide it.
        # It has implementations of its own for a lower precision.
        if self.compiled and x.device.type == "cpu":
            names = [name for name in names if name not in ("onednn", "float32")]
        # For large windows on few channels, as of a 7x7 stem, cuDNN's fused operator may have slow
        # kernels only (pytorch#68506). A timing sees that; without one it is not taken.
        if not self.timed and isinstance(step, FusedConv) and max(step.weight.shape[2:]) > 3:
            names = [name for name in names if name != "cudnn"]
        # Which tile is faster the clock alone knows; without it the second would be compiled for
        # nothing.
        if not self.timed:
            names = [name for name in names if TRITON.get(name, 0) == 0]
        best = self._best(step, inputs, {name: _using(name, x) for name in names})
        step.use(best, x)
        if isinstance(step, DoubledConv) and best != "plain":
            step.plain.release()  # what it was tuned for is not run now

    def _best(
        self,
        step: Step,
        inputs: tuple[Any, ...],
        setters: Mapping[str, Callable[[Step], None]],
    ) -> str:
        """The name of the fastest implementation, or untimed the last, among those that agree."""
        if len(setters) == 1:
            return next(iter(setters))
        # The names too: a machine without one of the libraries has fewer to choose from.
        key = (*self._circumstances(inputs), *setters, *step.signature())
        return _remembered(
            key,
            lambda: self._compare(step, inputs, setters),
            lambda name: self._agrees(step, inputs, setters, name),
        )

    def _agrees(
        self,
        step: Step,
        inputs: tuple[Any, ...],
        setters: Mapping[str, Callable[[Step], None]],
        name: str,
    ) -> bool:
        """Whether an implementation, found with other weights, gives the plain one's output."""
        plain = next(iter(setters))
        if name == plain:
            return True
        try:
            reference = _own(step, setters[plain])(*inputs).clone()
            output = _own(step, setters[name])(*inputs)
        except Exception:  # as where all are compared
            return False
        return largest_difference(output, reference) <= _allowed(reference)

    def _compare(
        self, step: Step, inputs: tuple[Any, ...], setters: Mapping[str, Callable[[Step], None]]
    ) -> str:
        plain, device = next(iter(setters)), inputs[0].device

        def build(set_implementation: Callable[[Step], None]) -> Callable[[], Tensor]:
            call = functools.partial(_own(step, set_implementation), *inputs)
            if device.type != "cuda" or not self.timed:
                return call
            return launched_at_once(call, inputs[0], _REPEATS, self.pool)

        reference = build(setters[plain])().clone()
        results = side_by_side(
            {
                name: functools.partial(build, set_implementation)
                for name, set_implementation in setters.items()
            },
            difference=lambda output: largest_difference(output, reference),
            allowed=_allowed(reference),
            device=device,
            rounds=_MOST_ROUNDS if self.timed else 1,
            limit=_SECONDS,
            fewest=_ROUNDS,
            memory=False,
            own_time=True,
        )
        times = {name: item.timing.undisturbed for name, item in results.items() if item.timing}
        if not times:
            return plain
        # Untimed, the order in which a step names them decides: the last one moves the least.
        return min(times, key=lambda name: times[name]) if self.timed else list(times)[-1]

    def _circumstances(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Where and on what: device, threads, and the shapes, types and layouts of the inputs."""
        device = inputs[0].device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        tensors = [item for item in inputs if isinstance(item, Tensor)]
        layouts = [(tuple(item.shape), item.stride(), item.dtype) for item in tensors]
        rounds = rounds_float32(device)
        return (name, torch.get_num_threads(), self.timed, self.compiled, rounds, *layouts)


def _own(step: Step, set_implementation: Callable[[Step], None]) -> Step:
    """A step to be tried, with the same weights.

    Setting the step itself would leave the one that was tried last, with its packed weights, where
    a later one fails.
    """
    own = copy.copy(step)
    if isinstance(own, FusedConv):
        own.overwrites = False  # it is run several times on the same inputs
    set_implementation(own)
    return own


def _allowed(output: Tensor) -> float:
    """How far another implementation's output may be from this one."""
    if output.dtype is torch.float32 and rounds_float32(output.device):
        return _ROUNDED
    return ROUNDING[output.dtype]


def _remembered(
    key: tuple[Any, ...], find: Callable[[], str], fits: Callable[[str], bool] = lambda name: True
) -> str:
    """What was found for a key, by ``find`` where it was not before, or does not fit now."""
    with _FINDING:
        known = _FOUND.pop(key, None)
        if known is not None:
            _FOUND[key] = known
    if known is not None and fits(known):
        return known
    found = find()  # takes its time: other threads do not wait for that
    with _FINDING:
        _FOUND[key] = known or found  # what does not fit here is the fastest elsewhere
        while len(_FOUND) > _MOST:
            del _FOUND[next(iter(_FOUND))]
    return found


def _using(name: str, x: Tensor) -> Callable[[Step], None]:
    return lambda step: step.use(name, x)
