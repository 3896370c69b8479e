"""What can be saved: a model that its config rebuilds, with values of its own in every tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import ConfiguredModel
from ..encoders import build_on_meta
from ..errors import ArgumentError, ConfigError, EncoderError, StorageError
from ..nn.unsaved import built_for_buffers, convert_like, unsaved_buffers
from ..registry import build
from .config_json import Description
from .safetensors_file import FLOATS, may_be_stored


def on_meta(description: Description) -> ConfiguredModel:
    """The model with shapes but without values, which costs no memory however large it is."""
    try:
        return build_on_meta(lambda: build(description.architecture, description.config))
    except (ArgumentError, EncoderError) as error:
        raise ConfigError(f"The config describes a model that cannot be built: {error}") from error


def with_buffers(description: Description, weights: Mapping[str, Tensor]) -> ConfiguredModel:
    """The model with the values of the buffers that are not saved, in the types of its weights.

    Args:
        description: What it is.
        weights: What its state dict is going to have. The weights that are in it until then are
            anything.
    """
    model = built_for_buffers(lambda: build(description.architecture, description.config))
    convert_like(model, weights)
    return model


def check_rebuilds(description: Description, model: nn.Module) -> None:
    """Refuse to save what could not be loaded as it is: a model that was changed by hand.

    Raises:
        StorageError: Its layers, or the types of its tensors, are none that loading gives.
    """
    built = on_meta(description)
    expected = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
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
    _check_types(model, built)


def _check_types(model: nn.Module, built: nn.Module) -> None:
    expected, tensors = built.state_dict(), model.state_dict()
    for name, tensor in tensors.items():
        wanted = expected[name].dtype
        if not may_be_stored(tensor.dtype, wanted):
            fits = FLOATS if wanted.is_floating_point else wanted
            raise StorageError(
                f"{name} is of type {tensor.dtype}, so a saved model could not be loaded again: "
                f"what can is {fits}. load_state_dict without assign=True keeps a model's types."
            )
    convert_like(built, tensors)
    buffers = unsaved_buffers(model)
    for name, loaded in unsaved_buffers(built).items():
        if name in buffers and buffers[name].dtype != loaded.dtype:
            raise StorageError(
                f"{name}, which is computed and not saved, is of type {buffers[name].dtype}, and "
                f"a loaded model would have it in {loaded.dtype}, by the weights around it. "
                "Convert the model as a whole first, model.to(dtype), then the parts that are to "
                "be of another type."
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
