"""A small model with the names of a U-Net's layers, and what people save of it."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import pathlib
import pickle
import struct
import sys
import warnings
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

TYPICAL = ("decoder.blocks.0.conv1.0.weight",)


class Colour(enum.Enum):
    RED = "red"


class Settings:
    """A class of somebody's own, which is not there where the file is opened."""

    def __init__(self) -> None:
        self.lr, self.folder = 0.1, pathlib.PurePosixPath("runs/best")


class Model(nn.Module):
    """An encoder with batch normalisation, a decoder and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(
            [nn.ModuleDict({"conv1": nn.Sequential(nn.Linear(4, 2))})]
        )
        self.head = nn.Linear(2, 2)
        self.register_buffer("table", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x


torch.manual_seed(0)
MODEL = Model()
nn.init.normal_(MODEL.encoder[1].running_mean)
STATE: dict[str, Tensor] = dict(MODEL.state_dict())
#: Other values under the same names.
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


def below(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    """The state dict of a module that holds the model by that name."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def optimiser() -> dict[str, Any]:
    """The state of an optimiser after a step."""
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}
    return {
        "state": {i: dict(moments) for i in range(len(STATE))},
        "param_groups": [{"lr": 0.1, "params": list(range(len(STATE)))}],
    }


def averaged() -> dict[str, Tensor]:
    """What torch's averaged model saves."""
    return dict(AveragedModel(MODEL).state_dict())


def extras() -> dict[str, Any]:
    """Harmless objects as they come along in checkpoints."""
    return {
        "args": argparse.Namespace(lr=0.1, data=pathlib.Path("data")),
        "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        "metric": numpy.float64(0.5),
        "curve": numpy.arange(3.0),
        "colour": Colour.RED,
        "counts": collections.Counter("abca"),
        "groups": collections.defaultdict(list, a=[1]),
        "order": collections.OrderedDict(a={1, 2}, b=frozenset((3,)), c=b"bytes", d=1 + 2j),
        "settings": Settings(),
        "device": torch.device("cpu"),
        "size": torch.Size((1, 2)),
        "dtype": torch.float16,
        "schedule": slice(1, 2),
    }


class _Legacy(pickle.Pickler):
    """Keeps values aside, as torch did before version 1.6."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 2)
        self.storages: dict[str, Any] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return None
        key = str(value.data_ptr())
        self.storages[key] = value
        kind = getattr(torch, value.pickle_storage_type())
        return ("storage", kind, key, "cpu", value.size(), None)


def save_legacy(value: Any, path: pathlib.Path) -> pathlib.Path:
    """Write a file as torch wrote them before version 1.6."""
    file = io.BytesIO()
    facts = {"protocol_version": 1001, "little_endian": sys.byteorder == "little"}
    for part in (0x1950A86A20F9469CFC6C, 1001, facts):
        pickle.dump(part, file, 2)
    pickler = _Legacy(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # storages of one type are old
        pickler.dump(value)
        pickle.dump(sorted(pickler.storages), file, 2)
        for _, storage in sorted(pickler.storages.items()):
            file.write(struct.pack("<q", storage.size()) + bytes(storage.untyped()))
    path.write_bytes(file.getvalue())
    return path
