"""Timing several implementations of the same thing, side by side.

What is compared takes turns, round by round and in an order that changes, so that drift of the
clock speed and other processes hit all alike. An output is compared with a reference before its
producer is timed: the time of a wrong output says nothing.
"""

from __future__ import annotations

import gc
import math
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: Values that are compared in float64 at once.
_AT_ONCE = 2**24
#: Below this there is no median to speak of.
FEWEST_ROUNDS = 3
#: Calls before the first that counts. CUDA graphs are recorded in the second.
_WARMUP = {"cpu": 2, "cuda": 3}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call, one value for each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)

    @property
    def undisturbed(self) -> float:
        """The median of the faster half: without what is in the way, and without luck.

        What a choice is made by. Other programs only add to the time of a call, but the very least
        is luck: of caches that hold all of its inputs, as they do not within a model.
        """
        faster = sorted(self.rounds)[: -(-len(self.rounds) // 2)]
        return statistics.median(faster)

    def speed_up_over(self, other: Timing) -> float:
        """How many times faster than ``other``: the median of the ratios within each round."""
        return statistics.median(
            theirs / ours for ours, theirs in zip(self.rounds, other.rounds, strict=True)
        )

    def summary(self) -> dict[str, float]:
        """Median, least and greatest, rounded to what the clock can tell."""
        return {
            "median": round(self.median, 3),
            "min": round(min(self.rounds), 3),
            "max": round(max(self.rounds), 3),
        }


@dataclass(frozen=True)
class Measured:
    """What came of one candidate.

    Attributes:
        reason: Why it was not timed; None where it was.
        timing: None where it was not timed.
        difference: Difference of its output to the reference; None where there was no output.
        build_seconds: From the start of building to the end of the warm-up, compilation included.
        memory: Bytes of the device's memory that it took, weights and workspace included; None
            where the device does not tell (CPU).
    """

    reason: str | None = None
    timing: Timing | None = None
    difference: float | None = None
    build_seconds: float | None = None
    memory: int | None = None


def largest_difference(output: Tensor, reference: Tensor) -> float:
    """The largest absolute difference, relative to the reference's largest value.

    Both of one shape; compared in float64. NaN where either has one.
    """
    tiny = torch.finfo(torch.float32).tiny
    if output.shape != reference.shape:
        raise ValueError(f"{tuple(output.shape)} cannot be compared with {tuple(reference.shape)}")
    gaps, largest = [], []
    # Piece by piece: in float64 a whole batch takes several times the memory that it has itself.
    pieces = (
        item.detach().reshape(-1, *item.shape[1:]).split(_rows_at_once(item))
        for item in (output, reference)
    )
    for ours, theirs in zip(*pieces, strict=True):
        wide = theirs.to(torch.float64)
        gaps.append((ours.to(wide) - wide).abs().max())
        largest.append(wide.abs().max())
    return float(torch.stack(gaps).max() / torch.stack(largest).max().clamp_min(tiny))


def _rows_at_once(batch: Tensor) -> int:
    """So many have :data:`_AT_ONCE` values, or it is one that has more."""
    return max(1, _AT_ONCE * max(len(batch) if batch.ndim else 1, 1) // max(batch.numel(), 1))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | str = "cpu",
    rounds: int = 10,
    warmup: int = 1,
    turn: float = 0.0,
    limit: float = math.inf,
    fewest: int = FEWEST_ROUNDS,
    own_time: bool = False,
) -> dict[str, Timing]:
    """Time the calls one after the other, round by round.

    Args:
        calls: What to time, by name.
        device: Where they compute; it is waited for before and after each turn.
        rounds: How often each has its turn.
        warmup: Calls of each before the first round.
        turn: Least seconds of a turn: a call that takes less is repeated, and the mean counts.
        limit: No round begins after this many seconds, once there were ``fewest``.
        fewest: So many rounds there are whatever they take, if no more than ``rounds``.
        own_time: Count the time of this thread on the processor, where it is the only one that
            computes: on a busy machine that is what a call takes. Else it is the clock's.
    """
    device = torch.device(device)
    alone = own_time and device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    repeats = {}
    for name, call in calls.items():
        for _ in range(warmup):
            call()
        repeats[name] = math.ceil(turn / _seconds(call, 1, device, clock)) if turn else 1
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    began = time.perf_counter()
    for i in range(rounds):
        if i >= fewest and time.perf_counter() - began > limit:
            break
        shuffle(order)
        for name in order:
            seconds = _seconds(calls[name], repeats[name], device, clock)
            times[name].append(seconds * 1e3 / repeats[name])
    return {name: Timing(tuple(values)) for name, values in times.items()}


def side_by_side(
    builders: Mapping[str, Callable[[], Callable[[], Tensor]]],
    *,
    difference: Callable[[Tensor], float],
    allowed: float,
    device: torch.device | str = "cpu",
    rounds: int = 10,
    turn: float = 0.0,
    limit: float = math.inf,
    fewest: int = FEWEST_ROUNDS,
    before: Callable[[str], str | None] = lambda name: None,
    memory: bool = True,
    own_time: bool = False,
) -> dict[str, Measured]:
    """Build candidates, compare what they give, and time those that are right.

    One that cannot be built, fails or is wrong is recorded with the reason and does not stop the
    others.

    Args:
        builders: By name, what builds a candidate; the candidate gives its output when called.
        difference: Difference of an output to the reference, such as by :func:`largest_difference`.
        allowed: The greatest difference at which an output is right.
        device: Where the candidates compute.
        rounds: See :func:`in_turn`, as for ``turn``, ``limit`` and ``fewest``.
        before: Asked before each is built; gives a reason to leave it out, or None.
        memory: Find what each takes of a GPU's memory. That empties the allocator's cache
            several times, which takes longer than the candidates do.
        own_time: See :func:`in_turn`.
    """
    device = torch.device(device)
    results: dict[str, Measured] = {}
    right: dict[str, Callable[[], Tensor]] = {}
    for name, build in builders.items():
        reason = before(name)
        if reason is not None:
            results[name] = Measured(reason)
            continue
        call, results[name] = _prepare(build, difference, allowed, device, memory)
        if call is not None:
            right[name] = call
    timings = in_turn(
        right,
        device=device,
        rounds=rounds,
        warmup=0,
        turn=turn,
        limit=limit,
        fewest=fewest,
        own_time=own_time,
    )
    return {
        name: Measured(
            measured.reason,
            timings.get(name),
            measured.difference,
            measured.build_seconds,
            measured.memory,
        )
        for name, measured in results.items()
    }


def _prepare(
    build: Callable[[], Callable[[], Tensor]],
    difference: Callable[[Tensor], float],
    allowed: float,
    device: torch.device,
    with_memory: bool,
) -> tuple[Callable[[], Tensor] | None, Measured]:
    """A candidate that is built, warm and right, or None with the reason."""
    memory = _Memory(device) if with_memory else None
    began = time.perf_counter()
    try:
        call = build()
        for _ in range(_WARMUP.get(device.type, 2)):
            output = call()
        synchronise(device)
        seconds = time.perf_counter() - began
        found = difference(output)
        del output
        taken = memory.taken(call) if memory is not None else None
    except Exception as error:  # whatever another library raises is the record, not our end
        return None, Measured(_first_line(error), build_seconds=time.perf_counter() - began)
    reason = None
    if not found <= allowed:  # NaN is wrong, too
        reason = f"wrong output: differs by {found:.1e}, allowed are {allowed:.1e}"
    return (
        None if reason else call,
        Measured(reason, difference=found, build_seconds=seconds, memory=taken),
    )


class _Memory:
    """What a candidate takes from a CUDA device: by what the allocator's reservation grows."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = self._reserved() if device.type == "cuda" else 0

    def _reserved(self) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(self.device)

    def taken(self, call: Callable[[], Tensor]) -> int | None:
        """Bytes at the peak of one call, above what was there before the candidate was."""
        if self.device.type != "cuda":
            return None
        self._reserved()  # what building left behind goes
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        synchronise(self.device)
        return torch.cuda.max_memory_reserved(self.device) - self.base


def _seconds(
    call: Callable[[], object], repeats: int, device: torch.device, clock: Callable[[], float]
) -> float:
    """Of so many calls."""
    synchronise(device)
    start = clock()
    for _ in range(repeats):
        call()
    synchronise(device)
    return clock() - start


def _first_line(error: Exception) -> str:
    """An error in a line of readable length, without the colours that some put into their text."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
