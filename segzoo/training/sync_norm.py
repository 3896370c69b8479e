"""Batch normalisation over the images of all processes, for as long as they train together.

Peng et al., "MegDet: A Large Mini-Batch Object Detector", 2018, section 3.2 (cross-GPU batch
normalisation).
"""

from __future__ import annotations

from typing import Any

from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

#: What torch and timm have a synchronised kind of; what is derived from them may compute otherwise.
_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


class SyncedNorms:
    """Puts synchronised layers in the place of a model's batch normalisations, and takes them away.

    Both have the very same parameters and statistics, so that nothing is lost between them, and an
    optimiser or a state dict does not notice.

    Args:
        model: Changed in place, until :meth:`undo`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._plain: list[tuple[nn.Module, str, nn.Module]] = []
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) in _KINDS:
                    self._plain.append((parent, name, child))
                    convert: Any = convert_sync_batchnorm
                    setattr(parent, name, convert(child))

    def __len__(self) -> int:
        return len(self._plain)

    def undo(self) -> None:
        """Give the model its own layers back, in the mode that the others are in."""
        for parent, name, child in self._plain:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)
        self._plain.clear()
