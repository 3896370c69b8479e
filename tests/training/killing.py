"""Trainings in processes of their own that are killed and started again; for tests and benchmarks.

The processes are forked from a server that has imported torch already, so that starting one costs
tens of milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import segzoo
from segzoo.training import run as run_module
from segzoo.training import separable, spreading

from .. import forking
from .toys import Blobs, toy_model

RECIPE: dict[str, Any] = {"epochs": 3, "batch_size": 2, "ema": 0.9, "freeze_epochs": 1}
PAIRS, JUDGED = 12, 5
#: Seconds that a training may take from start to end: hundreds of times what it needs.
_LONGEST = 120


def run(
    out: str, workers: int, device: str, rank: int, ranks: int, port: int, more: dict[str, Any]
) -> None:
    """One process of a training, saving after each step."""
    os.setpgrp()  # its workers die with it, whatever they wait for
    multiprocessing.set_start_method("fork", force=True)  # workers that start at once
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            OMP_NUM_THREADS="1",
        )  # fmt: skip
    spreading.LARGE = 30  # tensors that go by themselves, too
    separable.LEAST = 300  # several groups in a model of a few thousand numbers
    run_module.write_results = lambda *_, **__: None  # drawing takes longer than the training
    segzoo.train(
        toy_model(),
        (Blobs(PAIRS, ignore_index=255), Blobs(JUDGED, seed=1, ignore_index=255)),
        out=out,
        recipe=segzoo.Recipe(**{**RECIPE, **more}),
        ignore_index=255,
        workers=workers,
        device=device,
        save_seconds=0,
    )


def start(out: Path, workers: int, ranks: int, **more: Any) -> list[BaseProcess]:
    """The processes of one training, with more of the recipe than :data:`RECIPE`."""
    port = forking.free_port()
    made = forking.context()
    processes = [
        made.Process(target=run, args=(str(out), workers, "cpu", rank, ranks, port, more))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess]) -> None:
    """Wait for the end of a training that nobody kills.

    Raises:
        RuntimeError: It failed.
    """
    for process in processes:
        process.join(_LONGEST)
    codes = [process.exitcode for process in processes]
    kill(processes)
    if any(codes):
        raise RuntimeError(f"A training ended with the exit codes {codes}.")


def kill(processes: list[BaseProcess]) -> None:
    """What cannot be caught, to all of them and to their workers."""
    for process in processes:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def killed_often(
    out: Path,
    workers: int,
    ranks: int,
    kills: int,
    chance: random.Random,
    longest: float,
    **more: Any,
) -> int:
    """Train to the end, killed a number of times on the way; how often it was killed in fact.

    Args:
        longest: Seconds within which a kill comes.
    """
    done = 0
    while done < kills:
        processes = start(out, workers, ranks, **more)
        processes[0].join(chance.uniform(0, longest))
        ended = processes[0].exitcode is not None
        kill(processes)
        if ended:
            break
        done += 1
    finish(start(out, workers, ranks, **more))
    return done


def outcome(out: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and history of a training, without its times."""
    lines = (out / "training" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row.pop("seconds")
    return load_file(out / "model.safetensors"), rows


def same(one: Path, other: Path) -> bool:
    """Whether two trainings ended with the same bits."""
    (weights, rows), (others, other_rows) = outcome(one), outcome(other)
    return (
        rows == other_rows
        and weights.keys() == others.keys()
        and all(torch.equal(weights[name], others[name]) for name in weights)
    )
