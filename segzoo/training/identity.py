"""What makes a training the one that it is: compared before one goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import timm
import torch

from .._version import __version__
from ..architectures.base import SegmentationModel
from ..data.splits import DataSplits
from ..errors import warn
from .lora import lora_key
from .processes import Processes
from .recipe import Recipe

#: Where things lie: a copy of the data, or of the teacher, is told by its fingerprint.
PLACES = ("data.source", "data.notes", "recipe.teacher")


def description(
    model: SegmentationModel,
    recipe: Recipe,
    splits: DataSplits,
    processes: Processes,
    precision: str,
    *,
    teacher: str | None = None,
) -> dict[str, Any]:
    """What makes a training the one that it is, in plain values.

    Args:
        model: What is trained.
        recipe: How.
        splits: On what.
        processes: By how many.
        precision: In which.
        teacher: The key of the weights of who teaches, if somebody does.
    """
    config = model.config
    saved = config.saved()
    value: dict[str, Any] = {
        "recipe": asdict(recipe),
        "model": {
            "architecture": model.architecture,
            "began_with": model.base_model,
            **config.arguments(),
        },
        "computing": {
            item.name: getattr(config, item.name)
            for item in fields(config)
            if item.name not in saved and item.name != "pretrained"
        },
        "data": {
            "images": [len(splits.train), len(splits.val)],
            "ignore_index": splits.ignore_index,
            **splits.description,
        },
        "processes": processes.count,
        "device": processes.device.type,
        "precision": precision,
    }
    if model.encoder.frozen_stages:
        value["frozen_stages"] = model.encoder.frozen_stages
    lora = lora_key(model)
    if lora is not None:
        value["lora"] = lora
    if teacher is not None:
        value["teacher"] = teacher
    plain: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return plain


def versions() -> dict[str, str]:
    """Of what computes: another one may come to other bits."""
    return {"segzoo": __version__, "torch": str(torch.__version__), "timm": timm.__version__}


def warn_of_versions(then: Mapping[str, str]) -> None:
    """Say where a training goes on with other versions than it was begun with."""
    now = versions()
    changed = [
        f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]
    ]
    if changed:
        warn(
            f"The training goes on with other versions ({', '.join(changed)}): its last bits may "
            "differ from those of a training that was never stopped."
        )
