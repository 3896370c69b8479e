"""The files of the page, and what it is told of a model: ``page.json`` beside it.

One page serves two engines: ``browser`` computes where the page is looked at, ``server`` sends each
picture to an address. The page itself is plain HTML, CSS and JavaScript, in ``assets/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Protocol

from .. import checks
from .._version import __version__
from ..data.drawing import class_colors
from ..errors import ArgumentError
from ..prediction.masks import Described
from ..preprocessing import Normalization

#: Where the page finds what it is told.
PAGE_JSON = "page.json"
#: How the answer is computed.
ENGINES = ("browser", "server")
#: Pixels that a model in the browser sees at once; a larger picture is scaled down for it.
BROWSER_PIXELS = 1 << 20
#: Bands of the pictures that a browser can show.
_SHOWN_BANDS = (1, 3)


class PageModel(Described, Protocol):
    """What the page has to know of a model; an exported and an optimised one have it too."""

    @property
    def normalization(self) -> Normalization:
        """What the model expects of its pixels."""

    @property
    def threshold(self) -> float:
        """With one class: the output above which a pixel belongs to it."""


def assets() -> dict[str, bytes]:
    """The files of the page by name, without ``page.json``; ``index.html`` is one of them."""
    folder = files(__package__) / "assets"
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


def page_json(
    model: PageModel,
    *,
    engine: str,
    title: str | None = None,
    about: str = "",
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    segment: str = "v1/segment",
    examples: Sequence[str] = (),
) -> dict[str, Any]:
    """What the page reads from ``page.json``, as values that JSON has.

    Args:
        model: Of which classes, bands and normalisation are told.
        engine: ``browser``: the site adds the files of model and runtime. ``server``: the page
            posts the bytes of a picture to ``segment`` with ``?format=mask`` added, and expects a
            PNG of class numbers of the upright picture's size: 8 bits, grey or with a palette, 16
            bits grey above 256 classes. An error is JSON, ``{"error": "a sentence"}``.
        title: Stands above the page; None for ``Segmentation``.
        about: A sentence under the title.
        max_pixels: The largest picture that the model or the server takes: larger ones are scaled
            down for it, and the page says so. None for 2**20 in the browser, and for no limit of
            the page's own with a server.
        max_bytes: The largest file that a server takes, likewise, or None.
        segment: Address of the server's answer, relative to the page.
        examples: Addresses of pictures to try, relative to the page.

    Raises:
        ArgumentError: An unknown engine, a title that is none, or a model of other bands than
            browsers show.
    """
    checks.choice("engine", engine, ENGINES)
    in_browser = engine == "browser"
    if model.in_channels not in _SHOWN_BANDS:
        raise ArgumentError(
            f"The model takes pictures of {model.in_channels} bands, and browsers show those of 1 "
            "(grey) and 3 (colour) only. Use segzoo predict, or POST to segzoo serve."
        )
    if max_pixels is None and in_browser:
        max_pixels = BROWSER_PIXELS
    return {
        "segzoo": __version__,
        "engine": engine,
        "title": "Segmentation" if title is None else checks.text("title", title, longest=200),
        "about": about,
        "classes": legend(model),
        "logits": model.classes,
        "threshold": model.threshold if model.classes == 1 else None,
        "in_channels": model.in_channels,
        "mean": list(model.normalization.mean),
        "std": list(model.normalization.std),
        "max_pixels": max_pixels,
        "max_bytes": max_bytes,
        "examples": list(examples),
        "segment": None if in_browser else segment,
        # What only a site has; it fills these in.
        "model": None,
        "runtime": None,
        "size": None,
        "smallest_side": None,
    }


def legend(model: PageModel) -> list[dict[str, str]]:
    """Name and colour ``#rrggbb`` of each class that a mask may have.

    One logit tells two classes apart, of which the second has the name.
    """
    count = max(model.classes, 2)
    names = list(model.class_names or ())
    if names and model.classes == 1:
        names = ["background", *names]
    names = names or [f"class {index}" for index in range(count)]
    colors = ["#" + bytes(color).hex() for color in class_colors(count)]
    return [{"name": name, "color": color} for name, color in zip(names, colors, strict=True)]
