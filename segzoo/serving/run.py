"""Run an application until a signal ends it: what is in work is finished first."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..packages import load_package

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Connections that are held at once: each takes a file descriptor, of which there are few.
_MOST_CONNECTIONS = 512


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket with an address, which takes no connections before :func:`listen`.

    Args:
        host: A name or number of this machine.
        port: 0 for any that is free.

    Raises:
        ArgumentError: The address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise _not_ours(host, port, error) from error
    with listener:
        try:
            if os.name == "posix":  # elsewhere it lets two servers have one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise _not_ours(host, port, error) from error
        yield listener


def listen(listener: socket.socket) -> str:
    """Take connections from now on; gives the address that a browser opens.

    Raises:
        ArgumentError: Another process was quicker.
    """
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(2048)
    except OSError as error:
        raise _not_ours(host, port, error) from error
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _not_ours(host: str, port: int, error: Exception) -> ArgumentError:
    reason = getattr(error, "strerror", None) or str(error)
    return ArgumentError(
        f"{host} port {port} cannot be had: {reason}. Choose another --host or --port; port 0 is "
        "any that is free."
    )


def need_server() -> Any:
    """uvicorn.

    Raises:
        MissingPackageError: It is not installed.
    """
    return load_package("uvicorn", extra="serve")


def run(app: FastAPI, listener: socket.socket, *, patience: float) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish what is in work, and return.

    After SIGINT it ends as Python ends on it, by ``KeyboardInterrupt``.

    Args:
        app: The application.
        listener: That takes connections.
        patience: Seconds that requests may take to end.

    Raises:
        MissingPackageError: uvicorn is not installed.
    """
    uvicorn = need_server()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(patience),
    )
    server = uvicorn.Server(config)
    with _stopped_by_sigterm(server):
        server.run(sockets=[listener])


@contextmanager
def _stopped_by_sigterm(server: Any) -> Iterator[None]:
    """SIGTERM ends the server, and not the process.

    uvicorn sends itself the signal again once it has stopped, so that others hear of it too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
