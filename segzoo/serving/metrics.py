"""What a server tells Prometheus of itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .._version import __version__
from ..packages import load_package
from .limits import Limits

#: Upper bounds of the histograms of seconds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters, gauges and histograms of one application, in a registry of its own.

    Args:
        limits: Of the application.
    """

    def __init__(self, limits: Limits) -> None:
        prometheus = load_package("prometheus_client", extra="serve", package="prometheus-client")
        self._render = prometheus.generate_latest
        self.media_type: str = prometheus.CONTENT_TYPE_LATEST
        registry = self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        about = prometheus.Info("segzoo", "The version of segzoo.", registry=registry)
        about.info({"version": __version__})
        self._answers = prometheus.Counter(
            "segzoo_answers",
            "Answers to requests for masks by status; 499 where the client had gone.",
            ["status"],
            registry=registry,
        )
        self._stages = prometheus.Histogram(
            "segzoo_stage_seconds",
            "Seconds by stage: upload, wait (for a seat), decode, compute (in turn), encode.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._pixels = prometheus.Counter(
            "segzoo_pixels", "Pixels of the pictures that were segmented.", registry=registry
        )
        self._batches = prometheus.Histogram(
            "segzoo_batch_pictures",
            "Pictures in each forward pass of the model.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self._places = prometheus.Gauge(
            "segzoo_places_taken",
            "Requests that are uploaded, wait or are in work.",
            registry=registry,
        )
        self._seats = prometheus.Gauge(
            "segzoo_seats_taken", "Pictures that are in work.", registry=registry
        )
        for name, text, value in (
            ("segzoo_places", "Requests that may be there at once.", limits.places),
            ("segzoo_seats", "Pictures that may be in work at once.", limits.seats),
        ):
            prometheus.Gauge(name, text, registry=registry).set(value)

    def answered(self, status: int) -> None:
        """Count an answer."""
        self._answers.labels(str(status)).inc()

    def segmented(self, pixels: int) -> None:
        """Count a picture's pixels."""
        self._pixels.inc(pixels)

    def computed(self, pictures: int) -> None:
        """Count a forward pass."""
        self._batches.observe(pictures)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, however it ends."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - began)

    def taken(self, places: int, seats: int) -> None:
        """Show how many are there, and in work."""
        self._places.set(places)
        self._seats.set(seats)

    def text(self) -> bytes:
        """All of it, in the format of Prometheus."""
        rendered: bytes = self._render(self._registry)
        return rendered
