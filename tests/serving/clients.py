"""Many clients at once, honest and other ones, for a server on loopback."""

from __future__ import annotations

import contextlib
import http.client
import io
import random
import socket
import struct
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

#: Visits that get no mask, and the status that each may have: None is a connection that broke.
BAD: dict[str, tuple[int | None, ...]] = {
    "text": (415,),
    "cut": (415,),
    "bomb": (413,),
    "too large": (413,),
    "wrong type": (415,),
    "killed": (None,),
    "slow": (408,),
}
#: Bytes of an upload that is refused for its size.
TOO_LARGE = 3 << 20
#: The header of a PNG with 3.6 billion pixels.
_HEADER = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
BOMB = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + _HEADER
BOMB += struct.pack(">I", zlib.crc32(_HEADER)) + struct.pack(">I", 0) + b"IDAT" + bytes(4)
#: Share of visits that are bad.
_BAD_SHARE = 0.4


@dataclass(frozen=True)
class Picture:
    """A picture's file, its type, and the mask that ``predict`` gives for it."""

    content: bytes
    kind: str
    mask: np.ndarray


@dataclass(frozen=True)
class Visit:
    """What came of a request.

    Args:
        name: ``good`` or one of :data:`BAD`.
        status: Of the answer, or None where the connection broke.
        seconds: From the first byte to the last.
        right: Whether the answer is what it should be.
    """

    name: str
    status: int | None
    seconds: float
    right: bool


def visit_all(
    host: str, pictures: Sequence[Picture], *, requests: int, clients: int, bad: bool, seed: int = 0
) -> list[Visit]:
    """So many requests from so many clients, in an order that the seed decides."""
    chance = random.Random(seed)
    visits = []
    for _ in range(requests):
        name = chance.choice(list(BAD)) if bad and chance.random() < _BAD_SHARE else "good"
        visits.append(partial(visit, host, chance.choice(pictures), name, chance.random()))
    with ThreadPoolExecutor(clients) as pool:
        return [item.result() for item in [pool.submit(call) for call in visits]]


def visit(host: str, picture: Picture, name: str, part: float) -> Visit:
    """One request. ``part`` is how far an upload comes that ends in the middle."""
    began = time.perf_counter()
    content, kind = picture.content, picture.kind
    if name in ("killed", "slow"):
        status = _half(host, content, int(part * len(content)), kill=name == "killed")
        return Visit(name, status, time.perf_counter() - began, status in BAD[name])
    if name == "text":
        content = b"no picture at all " * 50
    elif name == "cut":
        content = content[: len(content) // 2]
    elif name == "bomb":
        content, kind = BOMB, "image/png"
    elif name == "too large":
        content = bytes(TOO_LARGE)
    elif name == "wrong type":
        kind = "text/plain"
    connection = http.client.HTTPConnection(host, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/segment?format=mask", content, {"Content-Type": kind})
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
    seconds = time.perf_counter() - began
    if name != "good":
        return Visit(name, status, seconds, status in BAD[name] and body.startswith(b'{"error":'))
    right = status == 200 and np.array_equal(np.array(Image.open(io.BytesIO(body))), picture.mask)
    return Visit(name, status, seconds, right)


def _half(host: str, content: bytes, length: int, *, kill: bool) -> int | None:
    """A part of an upload; then the connection is killed, or nothing comes any more."""
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=120) as connection:
        head = f"POST /v1/segment HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
        head += f"Content-Length: {len(content) + 1}\r\n\r\n"
        connection.sendall(head.encode() + content[:length])
        if kill:  # closed without a goodbye
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return None
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
        return answer.status
