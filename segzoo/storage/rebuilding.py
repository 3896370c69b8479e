"""What can be saved: a model that its config rebuilds, with values of its own in every tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import ConfiguredModel
from ..encoders import build_on_meta
from ..errors import ArgumentError, ConfigError, EncoderError, StorageError
from ..registry import build
from .config_json import Description


def on_meta(description: Description) -> ConfiguredModel:
    """The model with shapes but without values, which costs no memory however large it is."""
    try:
        return build_on_meta(lambda: build(description.architecture, description.config))
    except (ArgumentError, EncoderError) as error:
        raise ConfigError(f"The config describes a model that cannot be built: {error}") from error


def check_rebuilds(description: Description, tensors: Mapping[str, Tensor]) -> None:
    """Refuse to save what could not be loaded: a model whose layers were changed by hand."""
    expected = {
        name: tuple(tensor.shape) for name, tensor in on_meta(description).state_dict().items()
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    different = sorted(dict(expected.items() ^ found.items()))
    if any(".lora_" in name for name in different):
        raise StorageError(
            "The model has LoRA beside its layers, so a saved model could not be loaded again. "
            "Save a plain one: segzoo.merge_lora(model)."
        )
    if different:
        raise StorageError(
            f"The model's layers are not those that its config describes ({different[0]}, "
            f"{len(different)} in all), so a saved model could not be loaded again. Build it with "
            "the arguments that give these layers, or keep the change in an architecture of your "
            "own (segzoo.register_architecture)."
        )


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as safetensors wants it: dense, and no two names for one storage.

    Raises:
        StorageError: A tensor without values of its own: on the meta device, sparse, quantised.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        value = value.detach()
        if type(value) is not Tensor or value.layout is not torch.strided or value.is_quantized:
            kind = type(value).__name__ if type(value) is not Tensor else f"{value.dtype}"
            raise StorageError(
                f"{name} is a tensor of another kind ({kind}, {value.layout}), which cannot be "
                "saved. Save the model from before it was quantised, made sparse or distributed."
            )
        if value.is_meta:
            raise StorageError(
                f"{name} is on the meta device and has no values: load or initialise the model's "
                "weights before it is saved."
            )
        tensor = value.contiguous()
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors
