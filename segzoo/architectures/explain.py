"""What torch cannot compute, found out and said in words: precisions, and batches of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import InputError
from ..nn.layers import BatchNorm
from ..nn.sharing import copied_modules
from ..prediction.inputs import explain_precision
from ..storage.pretrained import StoredModel


def explained(model: StoredModel, image: Tensor, fitted: Tensor) -> AbstractContextManager[None]:
    """Where torch fails with a riddle on images that a model cannot use, an error in words.

    Args:
        model: What runs.
        image: As it came.
        fitted: As the encoder takes it.

    Raises:
        InputError: The precision is not the model's, or a batch of one leaves one value for each
            channel.
    """
    # Inside of these a compiler could not break its graph.
    return nullcontext() if torch.compiler.is_compiling() else _explained(model, image, fitted)


@contextmanager
def _explained(model: StoredModel, image: Tensor, fitted: Tensor) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        explain_precision(error, image, model)
        raise
    except ValueError as error:
        if not (model.training and image.shape[0] == 1):
            raise
        _explain_one(error, model, fitted)
        raise


def _explain_one(error: ValueError, model: StoredModel, image: Tensor) -> None:
    """Raise for a batch of one that leaves one value for each channel, if that is what failed.

    A single value has no variance, so torch refuses it in training mode, deep inside a model and
    without saying where. Which layers see how many cells is asked of the model itself, on the meta
    device: behind a global pool it is one for each image, whatever the image's size.
    """
    height, width = image.shape[-2:]
    name = _lonely(model, image.shape)
    if name is None:
        return
    larger = torch.Size((*image.shape[:-2], 4 * height, 4 * width))
    advice = "Use at least two images."
    if _lonely(model, larger) is None:
        advice = "Use more images, or larger ones."
    raise InputError(
        f"A batch of one image of {height}x{width} leaves one value for each channel at {name}, "
        f"too few for batch normalisation in training mode. {advice}"
    ) from error


@torch.no_grad()
def _lonely(model: StoredModel, shape: torch.Size) -> str | None:
    """The name of the first batch normalisation that would see one value for each channel."""
    model = copied_modules(model) or model  # the hooks are not for who runs it meanwhile
    found: list[str] = []

    def look(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs))
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.training
    ]
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    state = {name: tensor.to("meta") for name, tensor in tensors.items()}
    image = torch.empty(shape, device="meta", dtype=next(model.parameters()).dtype)
    fitted = model.encoder.size_rule.fit(image)
    whole = {f"model.{name}": item for name, item in state.items()}
    try:
        with suppress(ValueError):  # what torch raises there
            functional_call(_Whole(model), whole, (fitted,))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


class _Whole(nn.Module):
    """All of a model behind its size rule."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model.decode_fully(self.model.encoder(image), image)
        return logits
