"""One process or many: what a loop needs to know of the others, and what it says to them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..devices import choose_device
from ..errors import ArgumentError
from ..packages import load_package
from .recipe import Recipe

#: What launchers set (torchrun and accelerate launch, then mpirun of several makes): how many
#: processes there are, which of them this is, and how many are on this machine.
_LAUNCHERS = (
    ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
)


class Processes:
    """The processes that train one model together; for most a single one.

    Where there are several, accelerate joins them, finds the device of each and wraps the model.
    A single process does without: accelerate's settings are for the whole program, and belong to
    whoever else uses it there.

    Args:
        device: A name for :func:`segzoo.devices.choose_device`.

    Attributes:
        count: How many there are.
        index: Which of them this is.
        device: Where this one computes.

    Raises:
        MissingPackageError: There are several, and accelerate is not installed.
        ArgumentError: The device cannot be used, or they were launched for FSDP or DeepSpeed.
    """

    def __init__(self, device: str = "auto") -> None:
        self._accelerator: Any = None
        self.count, self.index = 1, 0
        if launched() == 1:
            self.device = choose_device(device)
            return
        name = device.partition(":")[0]
        on_cpu = name == "cpu" or (name == "auto" and not torch.accelerator.is_available())
        if name not in ("auto", "cpu") and ":" in device:
            raise ArgumentError(
                f"device={device!r} names one device for {launched()} processes; each takes its "
                "own. Leave it out."
            )
        accelerate = load_package("accelerate", extra="train")
        # Precision stays with us: accelerate would set it for everything in this program.
        self._accelerator = accelerate.Accelerator(cpu=on_cpu, mixed_precision="no")
        kind = self._accelerator.distributed_type.value
        if kind not in ("NO", "MULTI_CPU") and not kind.startswith("MULTI_"):
            raise ArgumentError(
                f"The processes were launched for {kind}. Launch segzoo.train with torchrun, or "
                "accelerate launch --multi_gpu. For a model that is too large for one device give "
                "sharding='full' (--set sharding=full), which is FSDP."
            )
        self.count = int(self._accelerator.num_processes)
        self.index = int(self._accelerator.process_index)
        self.device = self._accelerator.device

    def check(self, recipe: Recipe) -> None:
        """Raise where a recipe asks for what these processes cannot do.

        Raises:
            ArgumentError: Parts of a model for one process, or on CPUs with an old torch, or
                synchronised normalisation on CPUs.
        """
        if recipe.sharding is not None and self.count == 1:
            raise ArgumentError(
                f"sharding={recipe.sharding!r} cuts the model into a part for each process, and "
                "there is one. Start several (torchrun --nproc_per_node=8 ...), or leave it out."
            )
        if recipe.sharding is not None and self.device.type == "cpu" and not cpus_share():
            raise ArgumentError(
                f"sharding={recipe.sharding!r}: torch {torch.__version__} cuts models on GPUs "
                "only. These processes are on CPUs: use a newer torch, or leave it out."
            )
        if recipe.sync_batch_norm and self.count > 1 and self.device.type == "cpu":
            raise ArgumentError(
                "sync_batch_norm=True: torch synchronises batch normalisation between GPUs only, "
                "and these processes are on CPUs. Leave it out."
            )

    def alone(self) -> Processes:
        """This one by itself, on its device: what it does then, the others need not do."""
        single = copy.copy(self)
        single.count, single.index = 1, 0
        return single

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.index == 0

    def wrap(self, model: nn.Module, *, unused: bool) -> nn.Module:
        """The model as it is called in training: gradients are means over all processes.

        Args:
            model: On this process's device.
            unused: Whether parameters that get no gradient are to be expected.
        """
        if self.count == 1:
            return model
        ids = None if self.device.type == "cpu" else [self.device.index]
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)

    def largest(self, value: float) -> float:
        """The largest value of all processes."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order, on every one of them."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, on all of them; an error of it is raised on all of them."""
        if self.count == 1:
            return make()
        held: list[Any] = [None, None]
        if self.first:
            try:
                held[0] = make()
            except Exception as error:
                held[1] = error
        dist.broadcast_object_list(held, src=0)
        if held[1] is not None:
            raise held[1]
        return held[0]

    @torch.no_grad()
    def copy_buffers(self, model: nn.Module) -> None:
        """Give all of them the buffers of the first: running statistics go apart in a step."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def cpus_share() -> bool:
    """Whether torch's FSDP works on CPUs: it waits for events of streams, which they lacked."""
    return hasattr(torch.cpu.Stream, "record_event")


def is_first() -> bool:
    """Whether this is the one of several processes that talks, before they have met."""
    return _said()[1] in (None, 0)


def launched() -> int:
    """How many processes a launcher started."""
    return _said()[0] or 1


def launched_here() -> int:
    """How many of them are on this machine, as far as the launcher says it."""
    return _said()[2] or 1


def _said() -> tuple[int | None, ...]:
    """Count, place and count on this machine, of the launcher that started this process."""
    for names in _LAUNCHERS:
        values = [os.environ.get(name, "") for name in names]
        if values[0].isdecimal():
            return tuple(int(value) if value.isdecimal() else None for value in values)
    return None, None, None
