"""The maps that a frozen encoder gives, computed once for each image and kept.

An encoder that stands still gives the same maps for the same pixels. Images are told apart by
their pixels: whatever augmentation made of them, what is kept is right. Each image passes the
encoder by itself, so its maps depend on no other image, and it makes no difference to a training,
to the last bit, whether they were kept or are computed again: after a stop, or where there is no
room for all.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..architectures.base import SegmentationModel
from ..encoders import Encoder
from ..errors import ArgumentError, warn
from ..files.atomic import make_folder, replacing
from .identity import versions
from .recipe import Recipe

#: How much memory, or space on a disk, is taken where nobody says.
DEFAULT_BYTES = 4 << 30
#: Fields of a config that say how an encoder is built, and leave no trace in its weights.
_BUILT = ("encoder_options", "depth", "image_size", "output_stride", "dilation")


class FeatureCache:
    """Maps of images that were seen before: in memory, or in a folder.

    What comes first stays: where there is no room for all images, some are computed each time.

    Args:
        model: Its encoder stands still as long as this is used.
        limit: How many bytes are kept at most.
        folder: Where to keep them; None for the memory.
        setting: What else decides the maps' bits, such as the precision.

    Attributes:
        hits: How often maps were there.
        misses: How often they were computed.
        used: Bytes that are kept.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        limit: int = DEFAULT_BYTES,
        folder: Path | None = None,
        setting: str = "",
    ) -> None:
        self.encoder, self.limit = model.encoder, limit
        self.size_rule = model.encoder.size_rule
        self.hits = self.misses = self.used = 0
        self._kept: dict[str, list[Tensor]] = {}
        self._folder: Path | None = None
        if folder is not None:
            self._folder = make_folder(folder / _weights_key(model, setting))
            self.used = sum(file.stat().st_size for file in self._folder.glob("*.safetensors"))

    @torch.no_grad()
    def maps(self, raw: Tensor, image: Tensor, *, channels_last: bool) -> list[Tensor]:
        """The encoder's maps of a batch.

        Args:
            raw: ``(N, C, H, W)`` as the loader gives it, by which images are known again.
            image: The same, normalised and on the device.
            channels_last: How the maps are to lie in memory.
        """
        each = []
        for one, ready in zip(raw, image.split(1), strict=True):
            key = _pixels_key(one, image.device.type)
            found = self._get(key)
            if found is None:
                self.misses += 1
                found = list(self.encoder(self.size_rule.fit(ready)))
                self._keep(key, found)
            else:
                self.hits += 1
            each.append([item.to(image.device, non_blocking=True) for item in found])
        return [_laid(torch.cat(items), channels_last) for items in zip(*each, strict=True)]

    def _get(self, key: str) -> list[Tensor] | None:
        if self._folder is None:
            return self._kept.get(key)
        path = self._folder / f"{key}.safetensors"
        try:
            found = load_file(path) if path.exists() else {}
        except (OSError, SafetensorError):  # damaged: it is computed, and written, again
            return None
        return [found[str(i)] for i in range(len(found))] or None

    def _keep(self, key: str, maps: list[Tensor]) -> None:
        size = sum(item.numel() * item.element_size() for item in maps)
        if self.used + size > self.limit:
            return
        plain = [item.detach().to("cpu", copy=True) for item in maps]
        if self._folder is not None:
            named = {str(i): item.contiguous() for i, item in enumerate(plain)}
            try:
                with replacing(self._folder / f"{key}.safetensors") as temporary:
                    save_file(named, temporary)
            except (OSError, SafetensorError) as error:
                self.limit = 0
                warn(f"No more features are kept in {self._folder}: {error}.")
                return
        else:
            self._kept[key] = plain
        self.used += size


def _laid(item: Tensor, channels_last: bool) -> Tensor:
    """Maps as the training has them; tokens, which have no height, as they are."""
    last = channels_last and item.ndim == 4
    return item.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _pixels_key(image: Tensor, device: str) -> str:
    within = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""
    digest = hashlib.blake2b(f"{tuple(image.shape)}{image.dtype}{within}".encode(), digest_size=16)
    digest.update(image.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _weights_key(model: SegmentationModel, setting: str) -> str:
    """What the maps of an image follow from, beside its pixels."""
    config, encoder = model.config, model.encoder
    # The same weights give other maps with another stride, and other architectures ask for others.
    built = [getattr(config, name) for name in _BUILT]
    built += [model.architecture, encoder.features, encoder.prefix_tokens, encoder.size_rule]
    text = f"{encoder.name} {built} {model.normalization} {versions()} {setting} {_computer(model)}"
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in model.encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _computer(model: SegmentationModel) -> str:
    """What computes the maps: another kind of device rounds otherwise, and so does another GPU."""
    device = next(model.encoder.parameters(), torch.empty(0)).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def stands_still(encoder: Encoder) -> bool:
    """Whether all of an encoder is frozen: its maps follow from an image's pixels alone."""
    return not any(item.requires_grad for item in encoder.parameters()) and not any(
        part.training for part in encoder.backbone.modules()
    )


def check_kept(model: SegmentationModel, recipe: Recipe) -> None:
    """Raise where features are to be kept that would never be used again.

    Raises:
        ArgumentError: The encoder learns all the time, or each image is another one each time.
    """
    if not recipe.keep_features:
        return
    if not recipe.freeze_epochs and model.encoder.frozen_stages < len(model.encoder.features):
        raise ArgumentError(
            "keep_features=True is for an encoder that stands still, and this one learns. Freeze "
            "it (model.freeze_encoder(), segzoo train --freeze-encoder), or give freeze_epochs."
        )
    drawn = [
        f"{name}={getattr(recipe, name)}"
        for name, plain in (("scale", (1.0, 1.0)), ("crop", None), ("color", 0.0))
        if getattr(recipe, name) != plain
    ]
    if drawn:
        raise ArgumentError(
            f"keep_features=True, but with {', '.join(drawn)} an image is never the same again, so "
            "features would be kept and not used. Leave these out (size= and flips can stay), or "
            "keep_features."
        )
