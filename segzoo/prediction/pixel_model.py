"""A model as prediction needs it: pixels in, logits or averaged probabilities out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..devices import device_of
from ..errors import InputError
from ..nn.finite import first_infinite
from ..nn.sharing import in_eval_mode
from .inputs import normalized
from .masks import VOID, Segments, check_logits, unsure
from .views import AS_IT_IS, Views


class Predictor(Segments, Protocol):
    """What can be predicted with: a model, an optimised one, or anything with these."""

    @property
    def in_channels(self) -> int:
        """Bands of the picture."""


@dataclass(frozen=True)
class PixelModel:
    """A model that stands still in eval mode, and how its answers are made.

    Args:
        model: Normalised images -> logits.
        source: The model that it was made from, for names and options.
        device: Where it computes.
        dtype: Its precision.
        views: What is averaged.
    """

    model: Any
    source: Any
    device: torch.device
    dtype: torch.dtype
    views: Views = field(default=AS_IT_IS)

    @property
    def name(self) -> str:
        """Architecture and encoder, for messages."""
        kind = type(self.source).__name__
        encoder = getattr(getattr(self.source, "config", None), "encoder", None)
        return f"{kind} on {encoder}" if isinstance(encoder, str) else kind

    @property
    def channels(self) -> int:
        """Logits of each pixel."""
        return int(self.source.classes)

    @property
    def classes(self) -> int:
        """Classes that a mask may have: one logit tells two apart."""
        return max(self.channels, 2)

    @property
    def stride(self) -> int:
        """Pixels between the steps that all of the model's maps share, as far as it says so."""
        return int(getattr(self.source, "stride", 32))

    @property
    def minimum(self) -> int:
        """The smallest side that the model takes as it is."""
        return int(getattr(getattr(self.source, "size_rule", None), "minimum", 1))

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one size that the model takes, if it resizes others."""
        size: tuple[int, int] | None = getattr(
            getattr(self.source, "size_rule", None), "fixed", None
        )
        return size

    def normalized(self, pixels: Tensor) -> Tensor:
        """Pixels ``(..., C, H, W)`` on the model's device, as it expects them."""
        return normalized(self.source.normalization, pixels, self.device, self.dtype)

    def logits(self, image: Tensor) -> Tensor:
        """Normalised images -> logits, of one view."""
        found: Tensor = self.model(image)
        expected = (image.shape[0], self.channels, *image.shape[-2:])
        if tuple(found.shape) != expected:
            raise InputError(
                f"The model gave logits of the shape {tuple(found.shape)}; expected {expected}."
            )
        return found

    def probabilities(self, image: Tensor) -> Tensor:
        """Normalised images -> probabilities ``(N, classes, H, W)``, averaged.

        Raises:
            InputError: A logit is NaN.
        """
        total: Tensor | None = None
        for scale in self.views.scales:
            scaled = _scaled(image, scale)
            for symmetry in self.views.symmetries:
                logits = symmetry.undo(self.logits(symmetry.apply(scaled)))
                if scale != 1:
                    logits = F.interpolate(logits, image.shape[-2:], mode="bilinear")
                part = self.as_probabilities(logits)
                total = part if total is None else total + part
        assert total is not None  # there is one view at least
        check_logits(total.amax())
        return total / self.views.count

    def as_probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over classes; of one class the sigmoid of what exceeds the threshold."""
        if self.channels == 1:
            return torch.sigmoid(logits - self.source.threshold)
        return logits.softmax(dim=1)

    def answer(self, image: Tensor, kind: str) -> Tensor:
        """``logits`` or ``probabilities``; for ``classes`` what the winning class is largest in.

        Raises:
            InputError: A logit is NaN.
        """
        if kind == "probabilities" or self.views.count > 1:
            return self.probabilities(image)
        found = self.logits(image)
        check_logits(found.amax())
        return found

    def mask(self, answer: Tensor, kind: str, min_confidence: float | None = None) -> Tensor:
        """The class of each pixel ``(N, H, W)``, of what :meth:`answer` gave.

        With ``min_confidence`` :data:`~segzoo.prediction.masks.VOID` where no class is so probable.
        """
        averaged = kind == "probabilities" or self.views.count > 1
        if self.channels > 1:
            # As argmax gives, which takes four times as long on a CPU.
            found = answer.max(dim=1).indices
        else:
            found = (answer[:, 0] > (0.5 if averaged else self.source.threshold)).long()
        if min_confidence is None:
            return found
        sure = answer.float() if averaged else self.as_probabilities(answer.float())
        return found.masked_fill(unsure(sure, min_confidence), VOID)


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True)


@contextlib.contextmanager
def pixel_model(
    model: Any, views: Views = AS_IT_IS, *, weights_are_known: bool = False
) -> Iterator[PixelModel]:
    """A model for as long as it is predicted with: in eval mode, whatever mode it is in.

    Args:
        model: A model, an optimised one, or anything like them.
        views: What is averaged.
        weights_are_known: They were looked at before, which takes as long as a fifth of a small
            picture.

    Raises:
        InputError: It lacks something of :class:`Predictor`, or its weights are not finite.
    """
    for name in ("classes", "in_channels", "threshold", "normalization", "__call__"):
        if not hasattr(model, name):
            raise InputError(
                f"{type(model).__name__} cannot be predicted with: it has no {name}. Expected a "
                "segzoo model, an optimised one, or an object with the same attributes."
            )
    infinite = None
    if isinstance(model, nn.Module) and not weights_are_known:
        infinite = first_infinite(model.state_dict().items())
    if infinite is not None:
        raise InputError(
            f"The model's weights are not finite: NaN or infinity in {infinite}. Every answer "
            "would be wrong; take a model from before its training diverged."
        )
    still = in_eval_mode(model) if isinstance(model, nn.Module) else contextlib.nullcontext(model)
    with torch.no_grad(), still as ready:
        dtype = getattr(model, "dtype", None)
        if isinstance(model, nn.Module) and not isinstance(dtype, torch.dtype):
            dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        yield PixelModel(
            ready,
            model,
            device_of(model),
            dtype if isinstance(dtype, torch.dtype) else torch.float32,
            views,
        )


def fingerprint(model: PixelModel) -> str:
    """A hash of all that a model's answers depend on: weights, config, what it expects of pixels.

    A model that has an attribute ``fingerprint`` says it itself.
    """
    source = model.source
    own = getattr(source, "fingerprint", None)
    if isinstance(own, str):
        return own
    facts = [model.name, source.normalization, source.threshold, source.classes]
    config = getattr(source, "config", None)
    for name in config.saved() if isinstance(config, ModelConfig) else ():
        value = getattr(config, name)
        facts.append((name, type(value).__name__ if isinstance(value, nn.Module) else value))
    digest = hashlib.sha256(repr(facts).encode())
    state = source.state_dict() if isinstance(source, nn.Module) else {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            digest.update(name.encode())
            plain = tensor.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
