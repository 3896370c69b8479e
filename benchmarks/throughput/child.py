"""The process that measures for ``benchmarks.throughput.run``; its parent survives what kills it.

Settings come on stdin, results go into a file, a line of JSON as each setting begins and ends.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import segzoo
from segzoo.bench import CLASSES, DTYPES, ModelCall, Pair, make_pair, make_reference, settle
from segzoo.inference.optimize.optimized_model import OptimizedModel
from segzoo.timing import Measured, in_turn, largest_difference, side_by_side

from .beside import best_of_each, measure_beside
from .candidates import Call, Candidate, Load, candidates, plain, training
from .card import state
from .ceilings import ceilings
from .roofline import work
from .settings import PRECISIONS, Setting, from_json

#: Seconds that building takes until one of its kind was seen to take more.
_EXPECTED = {"plain": 2.0, "optimized": 30.0, "exported": 20.0, "compiled": 30.0, "tuned": 60.0}
#: Least seconds of a turn: a card needs some time to reach the clock that it then keeps.
_TURN = {"cpu": 0.05, "cuda": 0.3}
#: Seconds in which latencies are taken.
_LATENCIES = 4.0
#: Doubling the batch must gain as much, or it stops; no batch is larger.
_GAIN, _LARGEST = 1.03, {"cuda": 512, "cpu": 16}
#: How much further than the plain model's own error a gradient may be; see segzoo.bench.
_SLACK, _LEAST = 2.0, 1e-3


class Budget:
    """Whether there is time to build one more."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.expected = dict(_EXPECTED)

    def part(self, seconds: float | None) -> Budget:
        """Of so many seconds at most, with what is known of building."""
        part = Budget(self.left if seconds is None else min(seconds, self.left))
        part.expected = self.expected
        return part

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def refusal(self, candidate: Candidate, reserve: float) -> str | None:
        """Why a candidate is not begun, or None."""
        if self.left < self.expected[candidate.kind] + reserve:
            return "left out: the time was used up"
        return None

    def saw(self, candidate: Candidate, seconds: float | None) -> None:
        """What building took."""
        self.expected[candidate.kind] = max(self.expected[candidate.kind], seconds or 0)


def measure(
    setting: Setting,
    budget: Budget,
    *,
    device: str,
    rounds: int,
    limit: float,
    only: str | Sequence[str],
) -> dict[str, Any]:
    """A setting: its record. ``only`` are patterns of the implementations' names."""
    budget = budget.part(setting.seconds)
    before = state()
    tf32 = PRECISIONS[setting.precision][1]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # the fastest of its algorithms, for everyone
    torch.compiler.reset()
    pair, library = pair_of(setting.arch, setting.encoder, setting.size)
    batch = setting.batch or best_batch(pair, setting, device)
    image = random_images(batch, setting.size).to(device)
    sides = {"ours": pair.ours, "theirs": pair.theirs}
    loads = {side: Load(model, image, setting) for side, model in sides.items() if model}
    difference, allowed = reference(loads.get("theirs", loads["ours"]))
    patterns = [only] if isinstance(only, str) else only
    chosen = {
        name: (candidate, loads[side])
        for name, side, candidate in in_order(setting, list(loads), library, device)
        if any(fnmatch(name, pattern) for pattern in patterns)
    }
    calls: dict[str, Call] = {}
    results = side_by_side(
        {name: _builder(name, *entry, budget, calls) for name, entry in chosen.items()},
        difference=difference,
        allowed=allowed,
        device=device,
        rounds=rounds,
        turn=_TURN[device],
        limit=limit,
        before=lambda name: budget.refusal(chosen[name][0], reserve=limit),
    )
    dtype = DTYPES[PRECISIONS[setting.precision][0]]
    record = {
        "setting": {**setting.as_json(), "batch": batch, "batch_searched": setting.batch is None},
        "library": library,
        "no_rival": pair.reason,
        "allowed_difference": allowed,
        "work_per_image": work(pair.ours, batch, setting.size, setting.task, dtype.itemsize),
        "ceilings": ceilings(device, dtype, tf32),
    }
    found = evaluated(results, record, batch)
    if setting.task == "inference":
        normalization = pair.ours.normalization
        for name in best_of_each(found["ways"], library):
            if budget.left > limit:
                found["ways"][name] |= measure_beside(
                    calls[name], normalization, torch.device(device), min(limit, _LATENCIES)
                )
    for name, call in calls.items():
        if isinstance(call, ModelCall) and isinstance(call.model, OptimizedModel):
            found["ways"][name]["passes"] = call.model.report().splitlines()
    card = {"card": {"before": before, "after": state()}} if before else {}
    return {**record, **card, **found}


def in_order(
    setting: Setting, sides: Sequence[str], library: str, device: str
) -> Iterator[tuple[str, str, Candidate]]:
    """Name, side and candidate, what takes long to build last, and both sides alike.

    Where the time runs out, it does for both.
    """
    costs = list(_EXPECTED)
    every = [
        (f"{'segzoo' if side == 'ours' else library} {candidate.name}", side, candidate)
        for side in sides
        for candidate in candidates(setting, side, device)
    ]
    for kind in costs:
        of_kind = {side: [e for e in every if e[1] == side and e[2].kind == kind] for side in sides}
        for turn in itertools.zip_longest(*of_kind.values()):
            yield from (entry for entry in turn if entry is not None)


def _builder(
    name: str, candidate: Candidate, load: Load, budget: Budget, calls: dict[str, Call]
) -> Callable[[], Call]:
    """Builds a candidate, keeps its call, and remembers how long that took."""

    def build() -> Call:
        began = time.monotonic()
        try:
            calls[name] = candidate.build(load)
        finally:
            budget.saw(candidate, time.monotonic() - began)
        return calls[name]

    return build


@functools.lru_cache(maxsize=1)
def pair_of(arch: str, encoder: str, size: tuple[int, int]) -> tuple[Pair, str]:
    """The models of a setting, and the rival's name."""
    torch.manual_seed(0)
    if arch == "dynamic_unet":
        return fastai_pair(encoder, size), "fastai"
    return make_pair(encoder, arch, size), "smp"


def fastai_pair(encoder: str, size: tuple[int, int]) -> Pair:
    """fastai's DynamicUnet and ours, with the same settled weights."""
    try:
        from ..parity.fastai_models import Case, fastai_unet
    except ImportError:
        ours = segzoo.DynamicUnet(encoder, CLASSES)
        settle(ours, random_images(2, size))
        return Pair(ours.eval(), None, "not installed: pip install fastai")
    theirs = fastai_unet(Case(encoder), classes=CLASSES, fresh=True)
    settle(theirs, random_images(2, size))
    return Pair(segzoo.convert.from_fastai(theirs.state_dict()).eval(), theirs)


def random_images(batch: int, size: tuple[int, int]) -> Tensor:
    """Not zeros: those are multiplied with less power, and a fast card does not slow down."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def reference(load: Load) -> tuple[Callable[[Any], float], float]:
    """How an output differs from float64, and how much of that is allowed."""
    if load.setting.task == "inference":
        exact = make_reference(load.model, load.image, load.dtype)
        return lambda output: exact.difference(plain(output)), exact.allowed
    wide = Load(load.model, load.image.double(), load.setting)
    found = fingerprint(training(wide, how="eager")())
    rounding = largest_difference(fingerprint(training(load, how="eager")()), found)
    return (
        lambda output: largest_difference(fingerprint(output), found),
        max(_SLACK * rounding, _LEAST),
    )


def fingerprint(step: tuple[Tensor, list[nn.Parameter]]) -> Tensor:
    """The loss and the norms of all gradients, sorted: models name and order theirs differently."""
    loss, parameters = step
    norms = [p.grad.double().norm() for p in parameters if p.grad is not None]
    return torch.cat([loss.double().reshape(1), torch.stack(norms).sort().values])


def best_batch(pair: Pair, setting: Setting, device: str) -> int:
    """Doubled until images per second gain no more, or it fails; by the plain model."""
    batch, rate = 1, 0.0
    every = candidates(setting, "ours", device)
    plain = next(candidate for candidate in every if candidate.name == "channels_last")
    while batch <= _LARGEST[device]:
        image = random_images(batch, setting.size).to(device)
        try:
            call = plain.build(Load(pair.ours, image, setting))
            timing = in_turn({"": call}, device=device, rounds=3, warmup=2, turn=0.1)[""]
        # Also where a map has more values than torch's operations can count (2**31).
        except RuntimeError:
            if batch == 1:
                raise
            break
        if batch * 1e3 / timing.median < _GAIN * rate:
            break
        batch, rate = batch * 2, batch * 1e3 / timing.median
    return max(batch // 2, 1)


def evaluated(
    results: Mapping[str, Measured], record: Mapping[str, Any], batch: int
) -> dict[str, Any]:
    """Figures from times: rates, and ratios to the best of the rival's."""
    rivals = {
        name: found.timing
        for name, found in results.items()
        if found.timing and name.startswith(record["library"])
    }
    best = min(rivals, key=lambda name: rivals[name].median, default=None)
    rows: dict[str, dict[str, Any]] = {}
    for name, found in results.items():
        row: dict[str, Any] = {}
        if found.build_seconds is not None:
            row["build_s"] = round(found.build_seconds, 1)
        if found.difference is not None:
            row["difference"] = float(f"{found.difference:.3g}")
        if found.timing is None:
            rows[name] = {**row, "not_timed": found.reason}
            continue
        per_second = batch * 1e3 / found.timing.median
        row |= {"ms": found.timing.summary(), "images_per_second": round(per_second, 2)}
        row |= {"rounds_ms": [round(value, 4) for value in found.timing.rounds]}
        row |= rates(per_second, record)
        if found.memory is not None:
            row["memory_gib"] = round(found.memory / 2**30, 3)
        if best is not None:
            row["to_best_rival"] = round(found.timing.speed_up_over(rivals[best]), 3)
        rows[name] = row
    return {"best_rival": best, "ways": rows}


def rates(per_second: float, record: Mapping[str, Any]) -> dict[str, float]:
    """TFLOP/s of the plain model's work, GB/s of the least that is moved, and their shares."""
    per_image, ceiling = record["work_per_image"], record["ceilings"]
    tflops = per_image["gflops"] * per_second / 1e3
    found = {
        "tflop_s": round(tflops, 3),
        "of_ceiling": round(tflops / ceiling["tflop_s"], 3),
    }
    if "least_mb" in per_image:
        gbs = per_image["least_mb"] * per_second / 1e3
        found |= {"gb_s": round(gbs, 1), "of_copy": round(gbs / ceiling["copy_gb_s"], 3)}
    return found


def main() -> None:
    """Measure what the parent asks for."""
    warnings.simplefilter("ignore")  # of the libraries that are compared
    job = json.load(sys.stdin)
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    budget = Budget(job["seconds"])
    with Path(job["events"]).open("a") as file:

        def say(**event: Any) -> None:
            file.write(json.dumps(event) + "\n")
            file.flush()

        for index, values in job["settings"]:
            if budget.left < job["options"]["limit"]:
                break
            say(begins=index)
            setting = from_json(values)
            try:
                result = measure(setting, budget, **job["options"])
            except Exception as error:  # the record says why; the next setting may do better
                say(fails=index, reason=f"{type(error).__name__}: {error}"[:400])
                traceback.print_exc()
            else:
                say(ends=index, result=result)


if __name__ == "__main__":
    main()
