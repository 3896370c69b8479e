"""Whether an optimised model gives what its source gives."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...architectures.base import SegmentationModel
from ...timing import largest_difference
from ..precision import exactly, rounds_float32

Run = Callable[[Tensor], Tensor]

#: Largest difference to the source, relative to its largest logit, that is only rounding.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
#: How much larger than the plain model's its error may be, where that is the measure. Both are sums
#: of the same roundings in another order; a model that magnifies them magnifies their luck, too.
_RATIO_CAST, _RATIO_SAME = 1.2, 4.0


class Judge:
    """Compares what runs on a few images with the source model.

    In the source's own precision outputs must agree to :data:`TOLERANCE`. In a lower one, and for
    the rare model that magnifies roundings beyond that, the measure is float64: the error must not
    be larger than that of the source, cast to the same precision, by more than chance.

    Args:
        model: The source.
        images: Batches of a size that its encoder takes, in its precision.
        rows: Images of each batch that are compared. All are given to what runs: it may be made for
            the batch. In float64, and for the source, the rest would only take time and memory.
        as_it_runs: Compute in the precision that the process allows, which on a GPU is TF32 unless
            it says otherwise; else with all bits of float32. A rewritten model is judged with all
            of them. What was compiled or recorded was so in the former, and can be judged there
            only; where that rounds, it is judged like a lower precision.
    """

    def __init__(
        self,
        model: SegmentationModel,
        images: Sequence[Tensor],
        *,
        rows: int | None = None,
        as_it_runs: bool = False,
    ) -> None:
        self.model = model
        self.images = images
        self.rows = [image[:rows] for image in images]
        self.as_it_runs = as_it_runs
        with exactly():
            self.wanted = [source_logits(model, image) for image in self.rows]

    def verdict(self, run: Run, dtype: torch.dtype, tolerance: float | None) -> tuple[bool, str]:
        """Whether ``run``, which computes in ``dtype``, may stand for the source; and why."""
        with self._precision():
            outputs = [
                run(image.to(dtype))[: len(rows)]
                for image, rows in zip(self.images, self.rows, strict=True)
            ]
        gap = max(map(largest_difference, outputs, self.wanted))
        detail = f"outputs differ by {gap:.1e}"
        same = dtype is self.images[0].dtype
        if tolerance is None and same:
            tolerance = TOLERANCE.get(dtype)
            if tolerance is not None and gap <= tolerance:
                return True, detail
        elif tolerance is not None:
            return gap <= tolerance, f"{detail}, allowed are {tolerance:.1e}"
        ours, theirs = self._error(outputs), self._plain_error(dtype)
        near = ours <= theirs * (_RATIO_SAME if same and not self._rounds(dtype) else _RATIO_CAST)
        return near, f"{detail}; error in float64 {ours:.1e}, the plain model's {theirs:.1e}"

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.as_it_runs else exactly()

    def _rounds(self, dtype: torch.dtype) -> bool:
        device = self.images[0].device
        return self.as_it_runs and dtype is torch.float32 and rounds_float32(device)

    def _error(self, outputs: Sequence[Tensor]) -> float:
        """Root mean square of the difference to float64."""
        gaps = [
            (output.double() - exact).flatten()
            for output, exact in zip(outputs, self._exact, strict=True)
        ]
        return float(torch.cat(gaps).square().mean().sqrt())

    @functools.cached_property
    def _exact(self) -> list[Tensor]:
        model = copy.deepcopy(self.model).double()
        # Image by image: a large batch in float64 may not fit where the model itself does.
        return [
            torch.cat([source_logits(model, one.double()) for one in image[:, None]])
            for image in self.rows
        ]

    def _plain_error(self, dtype: torch.dtype) -> float:
        if dtype is self.images[0].dtype and not self._rounds(dtype):
            return self._error(self.wanted)
        model = copy.deepcopy(self.model).to(dtype)
        with self._precision():
            return self._error([source_logits(model, image.to(dtype)) for image in self.rows])


def source_logits(model: SegmentationModel, image: Tensor) -> Tensor:
    """What a model gives for an image that fits its encoder already."""
    return model.decode_fully(model.encoder(image), image)
