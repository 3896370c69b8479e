"""Whether an optimised model gives what its source gives."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ...architectures.base import SegmentationModel
from ...timing import largest_difference

Run = Callable[[Tensor], Tensor]

#: Largest difference to the source, relative to its largest logit, that is only rounding.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
#: How much larger than the plain model's its error may be, where that is the measure. Both are sums
#: of the same roundings in another order; a model that magnifies them magnifies their luck, too.
_RATIO_CAST, _RATIO_SAME = 1.2, 4.0
#: What :func:`exactly` sets is the process's: the second of two would put back the first one's.
_EXACT = threading.RLock()


class Judge:
    """Compares what runs on a few images with the source model.

    In the source's own precision outputs must agree to :data:`TOLERANCE`. In a lower one, and for
    the rare model that magnifies roundings beyond that, the measure is float64: the error must not
    be larger than that of the source, cast to the same precision, by more than chance.

    Args:
        model: The source.
        images: Batches of a size that its encoder takes, in its precision.
    """

    def __init__(self, model: SegmentationModel, images: Sequence[Tensor]) -> None:
        self.model = model
        self.images = images
        with exactly():
            self.wanted = [source_logits(model, image) for image in images]

    def verdict(self, run: Run, dtype: torch.dtype, tolerance: float | None) -> tuple[bool, str]:
        """Whether ``run``, which computes in ``dtype``, may stand for the source; and why."""
        with exactly():
            outputs = [run(image.to(dtype)) for image in self.images]
        gap = max(map(largest_difference, outputs, self.wanted))
        detail = f"outputs differ by {gap:.1e}"
        if tolerance is None and dtype is self.images[0].dtype:
            tolerance = TOLERANCE.get(dtype)
            if tolerance is not None and gap <= tolerance:
                return True, detail
        elif tolerance is not None:
            return gap <= tolerance, f"{detail}, allowed are {tolerance:.1e}"
        ours, theirs = self._error(outputs), self._plain_error(dtype)
        near = ours <= theirs * (_RATIO_SAME if dtype is self.images[0].dtype else _RATIO_CAST)
        return near, f"{detail}; error in float64 {ours:.1e}, the plain model's {theirs:.1e}"

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
            for image in self.images
        ]

    def _plain_error(self, dtype: torch.dtype) -> float:
        if dtype is self.images[0].dtype:
            return self._error(self.wanted)
        model = copy.deepcopy(self.model).to(dtype)
        with exactly():
            return self._error([source_logits(model, image.to(dtype)) for image in self.images])


def source_logits(model: SegmentationModel, image: Tensor) -> Tensor:
    """What a model gives for an image that fits its encoder already."""
    return model.decode_fully(model.encoder(image), image)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Without TF32, which would hide an error behind its own."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    with _EXACT:
        before = matmul.allow_tf32, convolution.allow_tf32
        matmul.allow_tf32 = convolution.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, convolution.allow_tf32 = before
