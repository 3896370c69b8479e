"""Steps that several processes take together, for :mod:`tests.training.test_ranks`."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import segzoo
from segzoo.training import separable, spreading
from segzoo.training.learner import Learner, Settled
from segzoo.training.processes import Processes, cpus_share
from segzoo.training.sharded_learner import learner_of
from segzoo.training.spreading import from_first

from .. import forking
from .killing import finish
from .toys import Blobs, toy_model

RANKS, STEPS, PARTS, EACH = 3, 2, 2, 2
VOID = 255

#: What is tried: name -> values of the recipe.
TRIED: dict[str, dict[str, Any]] = {
    "whole models": {"dice": 0.0},
    "class weights": {"dice": 0.0, "class_weights": (0.5, 1.0, 4.0)},
}
if cpus_share():
    TRIED["parts"] = {"dice": 0.0, "sharding": "full", "ema": 0.5}


def recipe(**values: Any) -> segzoo.Recipe:
    """In full precision, and clipped."""
    return segzoo.Recipe(precision="float32", channels_last=True, clip_norm=0.5, **values)


def images_and_masks() -> tuple[Tensor, Tensor]:
    """All pictures of a step, in float64: more and more void, and two of nothing else."""
    data = Blobs(RANKS * PARTS * EACH)
    images, masks = zip(*(data[i] for i in range(len(data))), strict=True)
    target = torch.stack(masks)
    for index in range(len(data)):
        target[index, : 2 * index] = VOID
    target[:EACH] = VOID  # one batch of one process
    return torch.stack(images).double() / 255, target


def learner(values: dict[str, Any], processes: Processes, *, shift: float = 0.0) -> Learner:
    """Normalisation and dropout as in prediction: what they do depends on a batch."""
    model = toy_model().double().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for item in model.parameters():
            item += shift
    more = {name: value for name, value in values.items() if name != "class_weights"}
    weights = values.get("class_weights")
    settled = Settled(EACH, 1e-2, "float32", weights)
    made = learner_of(model, recipe(**more), settled, processes, ignore_index=VOID)
    made.begin(frozen=False)
    model.eval()
    if hasattr(made, "shards"):
        made.shards.follow(model)
    return made


def step(made: Learner, batches: list[tuple[Tensor, Tensor]], number: int) -> float:
    """One step of all; its loss."""
    loss = made.update(batches, 1.0, 0.9)
    made.averaged(number)
    return float(loss)


def things(rank: int) -> dict[str, Any]:
    """Tensors of several kinds and layouts, and plain values; each process has others."""
    wide = (torch.arange(96.0) + rank).view(2, 4, 3, 4)
    return {
        "tensors": [
            wide.to(torch.bfloat16).to(memory_format=torch.channels_last),
            wide.transpose(1, 3)[:, ::2],
            wide > 40 + rank,
            torch.tensor([rank]),
        ],
        "plain": ("a", {"rank": rank}, None),
    }


def run(folder: str, rank: int, port: int) -> None:
    """One of the processes."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_WORLD_SIZE=str(RANKS),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    torch.set_num_threads(1)
    separable.LEAST = 300
    spreading.LARGE = 30
    processes = Processes("cpu")
    images, target = images_and_masks()
    mine = [slice(EACH * (RANKS * part + rank), EACH * (RANKS * part + rank + 1)) for part in range(PARTS)]  # fmt: skip
    batches = [(images[part], target[part]) for part in mine]
    found: dict[str, Any] = {}
    for name, values in TRIED.items():
        made = learner({**values, "accumulate": PARTS}, processes, shift=rank)
        losses = [step(made, batches, number) for number in range(1, STEPS + 1)]
        state = copy.deepcopy(made.state())
        # Another one goes on from what the first process has of it, after a detour.
        whole = "sharding" not in values
        there = from_first(processes, functools.partial(copy.deepcopy, state), whole=whole)
        other = learner({**values, "accumulate": PARTS}, processes)
        step(other, batches, 1)
        other.load_state(there)
        after = [step(each, batches, STEPS + 1) for each in (made, other)]
        states = [made.state(), other.state()]
        if not whole and rank:  # one process has room for all of it
            assert all(item.is_meta for item in states[0]["model"].values())
        with made.judged() as model:
            judged = {key: value.clone() for key, value in model.state_dict().items()}
        found[name] = {
            "losses": losses,
            "state": state if whole or rank == 0 else None,
            "after": after,
            "states": states if whole or rank == 0 else None,
            "judged": judged,
        }
    found["spread"] = from_first(processes, lambda: things(rank))
    hollow = from_first(processes, lambda: things(rank), whole=False)
    found["hollow"] = [item.device.type for item in hollow["tensors"]]
    try:
        from_first(processes, lambda: 1 // rank)
    except ZeroDivisionError as error:
        found["error"] = str(error)
    torch.save(found, Path(folder) / f"{rank}.pt")


def take_steps(folder: Path) -> list[dict[str, Any]]:
    """What each of the processes found."""
    port, context = forking.free_port(), forking.context()
    processes = [
        context.Process(target=run, args=(str(folder), rank, port)) for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    finish(processes)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
