"""What a server takes at most, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from .. import checks
from ..errors import ArgumentError


@dataclass(frozen=True)
class Limits:
    """What a server takes at most: each is checked before any work is done for it.

    A picture has a place from the first byte of its upload to its answer. There are ``seats`` of
    them in work, and ``queue`` that are uploaded or wait; with none free a request is refused at
    once. So the memory for pictures is bounded: ``(seats + queue) * max_bytes`` for files, and
    ``seats`` decoded pictures, of which the model computes one (or ``batch``) at a time.

    Args:
        max_bytes: Size of a picture's file.
        max_pixels: Width times height, looked up in the file's header. The model's memory and time
            grow with it.
        seats: Pictures that are decoded, computed and encoded at once.
        queue: Pictures that are uploaded or wait for a seat meanwhile.
        timeout: Seconds from the end of the upload to the answer.
        upload_timeout: Seconds that an upload may take.
        batch: Waiting pictures of equal size that the model computes together, of those that have
            a seat. More than one is for GPUs and for small pictures; on a CPU it costs memory for
            little.

    Raises:
        ArgumentError: A value that cannot work.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 1 << 22
    seats: int = 2
    queue: int = 16
    timeout: float = 60.0
    upload_timeout: float = 60.0
    batch: int = 1

    def __post_init__(self) -> None:
        checks.integer("max_bytes", self.max_bytes, minimum=1, maximum=1 << 40)
        checks.integer("max_pixels", self.max_pixels, minimum=1, maximum=1 << 40)
        checks.integer("seats", self.seats, minimum=1, maximum=1024)
        checks.integer("queue", self.queue, minimum=0, maximum=100_000)
        checks.number("timeout", self.timeout, minimum=0.001, maximum=86_400)
        checks.number("upload_timeout", self.upload_timeout, minimum=0.001, maximum=86_400)
        checks.integer("batch", self.batch, minimum=1, maximum=1024)
        if self.batch > self.seats:
            raise ArgumentError(
                f"batch={self.batch} needs as many seats: pictures in work go together; "
                f"got seats={self.seats}."
            )

    @property
    def places(self) -> int:
        """Requests that are there at once."""
        return self.seats + self.queue
