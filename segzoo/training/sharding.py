"""A model of which each process holds a part: fully sharded data parallel (FSDP).

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020,
section 5; Zhao et al., "PyTorch FSDP", 2023. Weights, gradients and the optimiser's two moments are
cut into as many parts as there are processes. A group of layers is put together when it is
computed, and let go again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._compat import is_view
from ..architectures.base import SegmentationModel
from ..errors import ArgumentError
from .objective import Objective, called
from .processes import Processes
from .separable import separable_groups
from .sync_norm import SyncedNorms


class Shards:
    """This process's part of a model, and the way to the whole of it.

    The model that is given stays as it is: it is copied, and the copy is cut. All methods but
    :meth:`follow` and :meth:`take_over` are for all processes at once.

    Args:
        model: The whole model, the same one in all processes.
        processes: Who share it, two or more.
        sync_batch_norm: Whether the copy normalises over the images of all processes.

    Attributes:
        model: The copy; its parameters are this process's parts.
        called: It, as it is called in training.

    Raises:
        ArgumentError: A parameter is a single number, which cannot be cut.
    """

    model: SegmentationModel
    called: Objective

    def __init__(
        self, model: SegmentationModel, processes: Processes, *, sync_batch_norm: bool = False
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        single = [name for name, item in model.named_parameters() if item.ndim == 0]
        if single:
            raise ArgumentError(
                f"sharding='full' cannot cut parameters of a single number: {', '.join(single)}. "
                "Leave sharding out: each process then has the whole model."
            )
        self._processes = processes
        self._mesh = init_device_mesh(processes.device.type, (processes.count,))
        # torch cuts weights that lie contiguously only.
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        if sync_batch_norm:
            SyncedNorms(self.model)
        self.called = called(self.model)
        self.called.register_forward_hook(lambda module, args, output: owned(output))
        for group in separable_groups(self.called):
            fully_shard(group, mesh=self._mesh)
        fully_shard(self.called, mesh=self._mesh)
        # Processes may have begun with other weights: those of the first count, as in DDP.
        self.load_state(model.state_dict())

    def follow(self, model: SegmentationModel) -> None:
        """Train what another model of the same kind trains, in its modes."""
        modes = {name: part.training for name, part in model.named_modules()}
        for name, part in self.model.named_modules():
            part.training = modes[name]
        trained = {name: item.requires_grad for name, item in model.named_parameters()}
        for name, item in self.model.named_parameters():
            item.requires_grad_(trained[name])

    def take_over(self, optimizer: torch.optim.Optimizer, model: SegmentationModel) -> None:
        """Let an optimiser that was made for another model of the same kind step this one."""
        places = {id(item): name for name, item in model.named_parameters()}
        mine = dict(self.model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [mine[places[id(item)]] for item in group["params"]]

    @torch.no_grad()
    def blend(self, other: Shards, share: float) -> None:
        """Come nearer to another one by a share of the way; what is no fraction is taken over."""
        values = other.model.state_dict()
        for name, value in self.model.state_dict().items():
            here, there = _part(value), _part(values[name])
            if here.is_floating_point():
                here.lerp_(there, share)
            else:
                here.copy_(there)

    def state(self) -> dict[str, Tensor]:
        """The whole state, on the CPU of the first process; others get shapes without values.

        Running statistics are those of the first.
        """
        return {name: self._kept(value) for name, value in self.model.state_dict().items()}

    def _kept(self, value: Tensor) -> Tensor:
        """A tensor put together, where it is kept."""
        return whole(value).to("cpu" if self._processes.first else "meta")

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take this process's part of a whole state, which the first process has to have."""
        mine = self.model.state_dict()
        with torch.no_grad():
            for name, value in mine.items():
                cut = cut_like(state[name], value)
                if not cut.is_meta:
                    _part(value).copy_(_part(cut))
        self._processes.copy_buffers(self.model)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole state of an optimiser, as :meth:`state` gives that of the model."""
        state = optimizer.state_dict()
        moments = {
            index: {name: self._kept(value) for name, value in entry.items()}
            for index, entry in state["state"].items()
        }
        return {**state, "state": moments}

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
    ) -> None:
        """Take this process's part of a whole state of an optimiser."""
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        moments = {
            index: {
                name: cut_like(value, parameters[index])
                if value.shape == parameters[index].shape
                else value
                for name, value in entry.items()
            }
            for index, entry in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": moments})

    @torch.no_grad()
    def gather_into(self, model: SegmentationModel) -> None:
        """Give a whole model of the same kind what has been learned."""
        mine = self.model.state_dict()
        for name, value in model.state_dict().items():
            value.copy_(whole(mine[name]))


def whole(value: Tensor) -> Tensor:
    """A tensor put together from the parts of all processes; one that is whole as it is."""
    from torch.distributed.tensor import DTensor

    if not isinstance(value, DTensor):
        return value
    found: Tensor = value.full_tensor()
    return found


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as another one is; its values are those that the first process has."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    moved = (
        torch.empty(value.shape, dtype=like.dtype, device=like.device)
        if value.is_meta
        else value.to(like.device, like.dtype)
    )
    return distribute_tensor(moved, like.device_mesh, like.placements)


def owned(value: Any) -> Any:
    """What a model gives, with copies for views: torch loses its hooks on those."""
    if isinstance(value, Tensor):
        return value.clone() if is_view(value) else value
    if isinstance(value, dict):
        return {name: owned(item) for name, item in value.items()}
    if isinstance(value, tuple):
        items = [owned(item) for item in value]
        return tuple(items) if type(value) is tuple else type(value)(*items)  # with names
    return value


def _part(value: Tensor) -> Tensor:
    """What of a tensor this process has."""
    from torch.distributed.tensor import DTensor

    return value.to_local() if isinstance(value, DTensor) else value
