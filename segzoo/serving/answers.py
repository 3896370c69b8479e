"""What a picture's request gets: a map of classes, or the segments of the Hub's schema."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks
from ..data.drawing import encode_mask
from ..data.png import encode_png
from ..errors import nearest
from .computing import Segmented
from .refused import RefusedError

#: By the name in the address.
FORMATS = ("json", "mask")


@dataclass(frozen=True)
class Answer:
    """The body of an answer, and its media type."""

    content: bytes
    media_type: str


def chosen_format(query: Mapping[str, str]) -> str:
    """The format that an address asks for.

    Raises:
        RefusedError: 422 for another one, or another parameter.
    """
    for name in query:
        if name != "format":
            raise RefusedError(
                422,
                f"There is no parameter {checks.shown(name)}.{nearest(name, ['format'])}",
            )
    form = query.get("format", "json")
    if form not in FORMATS:
        raise RefusedError(
            422,
            f"format must be {' or '.join(FORMATS)}; got {checks.shown(form)}."
            f"{nearest(form, FORMATS)}",
        )
    return form


def answer(found: Segmented, form: str, *, names: Sequence[str], threshold: float) -> Answer:
    """A mask as it is sent.

    Args:
        found: With scores for ``json``.
        form: ``mask``: a PNG whose values are the numbers of the classes, as ``segzoo predict``
            writes it. ``json``: the segments, ``[{"label", "score", "mask"}, ...]``.
        names: Of all classes.
        threshold: Segments of a lower score are left out.
    """
    if form == "mask":
        return Answer(encode_mask(found.mask, classes=len(names)), "image/png")
    segments = segments_of(found, names=names, threshold=threshold)
    return Answer(json.dumps(segments, allow_nan=False).encode(), "application/json")


def segments_of(
    found: Segmented, *, names: Sequence[str], threshold: float = 0.0
) -> list[dict[str, Any]]:
    """A segment for each class that the mask has, in the order of the classes.

    Its score is the mean of the class's probability over the pixels of the segment. Its mask is a
    PNG of the picture's size in base64, white where the class is and black elsewhere.
    """
    scores = found.scores
    assert scores is not None  # asked for
    return [
        {
            "label": names[index],
            "score": scores[index],
            "mask": base64.b64encode(
                encode_png((found.mask == index).astype(np.uint8) * np.uint8(255))
            ).decode(),
        }
        for index in np.flatnonzero(np.bincount(found.mask.ravel())).tolist()
        if scores[index] >= threshold
    ]
