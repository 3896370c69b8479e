"""The body of a request: what its headers say, and how it is received within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from .. import checks
from ..packages import load_package
from .refused import ClientGoneError, RefusedError

#: ASGI's messages to an application.
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: What a body may have beside its picture: boundaries, headers of parts, parameters.
_BESIDE = 1 << 16
#: What is thrown away of a refused body: so many times what would have been taken.
_THROWN_AWAY = 4


@dataclass(frozen=True)
class BodyKind:
    """What the headers say of a body.

    Args:
        name: ``raw``, ``multipart`` or ``json``.
        boundary: Between the parts of a ``multipart`` body.
    """

    name: str
    boundary: bytes = b""

    def most(self, max_bytes: int) -> int:
        """Bytes of a body with a picture of ``max_bytes``."""
        if self.name == "json":  # base64: four characters for three bytes
            return max_bytes * 4 // 3 + _BESIDE
        return max_bytes + (_BESIDE if self.name == "multipart" else 0)


def body_kind(headers: Mapping[str, str]) -> BodyKind:
    """What a body is, by its headers.

    Raises:
        RefusedError: 415, for what is no picture, or is packed.
    """
    packed = headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise RefusedError(
            415,
            f"The body is packed ({checks.shown(packed)}). Send the picture's file as it is.",
        )
    given = headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind in ("", "application/octet-stream") or kind.startswith("image/"):
        return BodyKind("raw")
    if kind == "application/json":
        return BodyKind("json")
    if kind == "multipart/form-data":
        parser = form_parser()
        _, options = parser.parse_options_header(given)
        boundary: bytes = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 256:
            raise RefusedError(
                415, "The body is multipart/form-data, and its header has no boundary."
            )
        return BodyKind("multipart", boundary)
    more = ""
    if kind == "application/x-www-form-urlencoded":
        more = " curl says so for --data-binary; add -H 'Content-Type: image/jpeg'."
    raise RefusedError(
        415,
        f"The body is {checks.shown(kind)}. Send the bytes of a picture as image/png, image/jpeg "
        f"or the like, or a form (multipart/form-data) with one file.{more}",
    )


@lru_cache(maxsize=1)
def form_parser() -> ModuleType:
    """The package that reads forms, which FastAPI has them read by too.

    Raises:
        MissingPackageError: It is not installed.
    """
    return load_package("python_multipart.multipart", extra="serve", package="python-multipart")


def check_length(headers: Mapping[str, str], most: int) -> None:
    """Look at the length that a body is said to have.

    Raises:
        RefusedError: 413.
    """
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise too_large(most)


async def receive_body(receive: Receive, *, most: int, seconds: float) -> bytes:
    """The whole body, unless it is too large or too slow.

    Raises:
        RefusedError: 413 or 408.
        ClientGoneError: The client hung up.
    """
    end = asyncio.get_running_loop().time() + seconds
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        chunk, more = await _receive_part(receive, end, seconds)
        size += len(chunk)
        if size > most:
            raise too_large(most, unread=more)
        chunks.append(chunk)
    return b"".join(chunks)


async def throw_away(receive: Receive, *, most: int, seconds: float) -> None:
    """Let a refused body come, and keep nothing of it, as far as that is bearable.

    Many clients send all of it before they look for an answer, and would find none.
    """
    end = asyncio.get_running_loop().time() + seconds
    size, more = 0, True
    while more and size < _THROWN_AWAY * most:
        try:
            chunk, more = await _receive_part(receive, end, seconds)
        except RefusedError:
            return
        size += len(chunk)


async def _receive_part(receive: Receive, end: float, seconds: float) -> tuple[bytes, bool]:
    left = end - asyncio.get_running_loop().time()
    try:
        message = await asyncio.wait_for(receive(), max(left, 0.001))
    except asyncio.TimeoutError:
        raise RefusedError(
            408,
            f"The body was not here after {seconds:g} seconds. Send a smaller picture, or use a "
            "faster connection.",
            {"Connection": "close"},
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)


def too_large(most: int, *, unread: bool = False) -> RefusedError:
    """The answer to a body, or a picture in it, of more than ``most`` bytes."""
    return RefusedError(
        413,
        f"The body is larger than {most:,} bytes, which is the limit. Send a smaller picture, or "
        "one that is compressed better.",
        {"Connection": "close"},
        unread=unread,
    )
