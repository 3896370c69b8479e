"""The application: a model, its limits and its page, put together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from .. import checks
from ..errors import ArgumentError, InputError
from ..folders.task import Reading
from ..packages import load_package
from ..pages.site import PAGE_JSON, assets, legend, page_json
from ..prediction.pixel_model import Predictor, pixel_model
from .body import form_parser
from .limits import Limits
from .metrics import Metrics

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Side of the picture that shows, before anybody waits, that a model answers at all.
_TRIAL_SIDE = 64


def create_app(
    model: Predictor,
    *,
    limits: Limits | None = None,
    title: str = "Segmentation",
    bands: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
) -> FastAPI:
    """An ASGI application that segments pictures: for uvicorn, or mounted into one of your own.

    ::

        app = segzoo.serving.create_app(segzoo.from_pretrained("my-model"))

    ``POST /v1/segment`` answers with segments in the schema of the Hub's image segmentation, or
    with ``?format=mask`` with a PNG of the classes. ``GET /`` is a page to try it with, and
    ``/health``, ``/ready``, ``/metrics`` and ``/openapi.json`` are for machines. The masks are
    those of ``model.predict``. See the page on serving.

    Args:
        model: A model, an optimised or an exported one. It is used as it is, on its device; call
            ``eval()`` first, or each picture costs a copy of its modules.
        limits: What is taken at most; None for the defaults.
        title: What the page and the description of the addresses are called.
        bands: The bands of each picture that the model gets, counted from 1; None for those that
            it takes.
        value_range: The values that become 0 and 1, for types that do not tell.

    Returns:
        The application. It begins no thread before the first picture comes.

    Raises:
        MissingPackageError: ``pip install "segzoo[serve]"`` brings what is missing.
        ArgumentError: An argument that cannot work, or a model that takes several images at once
            only.
        InputError: The model cannot be predicted with.
    """
    need_packages()
    from .pipeline import Pipeline
    from .routes import make_app

    checks.text("title", title, longest=200)
    limits = limits or Limits()
    if not isinstance(limits, Limits):
        raise ArgumentError(f"limits must be segzoo.serving.Limits, got {checks.shown(limits)}.")
    reading = _reading(model, bands, value_range, limits)
    try_out(model)
    pipeline = Pipeline(
        model,
        [entry["name"] for entry in legend(_with_names(model))],
        limits=limits,
        reading=reading,
        metrics=Metrics(limits),
    )
    return make_app(pipeline, title=title, files=_page(model, title, limits))


def need_packages() -> None:
    """Import what an application is made of.

    Raises:
        MissingPackageError: Something is not installed.
    """
    load_package("fastapi", extra="serve")
    load_package("prometheus_client", extra="serve", package="prometheus-client")
    form_parser()


def try_out(model: Predictor) -> None:
    """One forward pass: a model that cannot answer says so before anybody waits for it.

    Raises:
        ArgumentError: It takes several images at once only.
        InputError: It cannot be predicted with.
    """
    fixed = getattr(model, "size", None)
    if fixed is not None and fixed[0] != 1:
        raise ArgumentError(
            f"The model was exported for {fixed[0]} images at once, and a server gets one after "
            "the other. Export it with batch=1, or for any size."
        )
    with pixel_model(model) as ready:
        side = max(_TRIAL_SIDE, ready.minimum)
        height, width = fixed[1:] if fixed else ready.fixed_size or (side, side)
        picture = torch.zeros(1, model.in_channels, height, width, dtype=torch.uint8)
        ready.logits(ready.normalized(picture))


def _reading(
    model: Predictor,
    bands: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
    limits: Limits,
) -> Reading:
    reading = Reading(bands, value_range, limits.max_pixels)
    if reading.bands is not None and len(reading.bands) != model.in_channels:
        raise ArgumentError(
            f"{len(reading.bands)} bands were chosen, and the model takes {model.in_channels}."
        )
    return reading


def _with_names(model: Any) -> Any:
    """The model, if it has what its labels are made from."""
    if not hasattr(model, "class_names"):
        raise InputError(f"{type(model).__name__} has no class_names; they may be None.")
    return model


def _page(model: Any, title: str, limits: Limits) -> dict[str, bytes] | str:
    """The files of the page, or why there is none."""
    try:
        facts = page_json(
            model,
            engine="server",
            title=title,
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
        )
    except ArgumentError as error:  # pictures that no browser shows
        return str(error)
    return {**assets(), PAGE_JSON: json.dumps(facts).encode()}
