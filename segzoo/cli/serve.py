"""``segzoo serve``: a model behind an address, with a page to try it."""

from __future__ import annotations

import ipaddress
from typing import Any

import click

from .output import device_option, revision_option, say
from .reading import bands_option, range_option


@click.command("serve")
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 is any that is free.",
)
@click.option(
    "--runtime", help="What computes: torch, onnx or openvino; that of an exported file, or torch."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads that compute.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=20 << 20,
    show_default=True,
    help="Largest file.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=1 << 22,
    show_default=True,
    help="Largest picture, width times height; memory grows with it.",
)
@click.option(
    "--seats",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Pictures in work at once: one computes, others are decoded and encoded.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Pictures that are uploaded or wait meanwhile; more are refused.",
)
@click.option(
    "--timeout", type=float, default=60, show_default=True, help="Seconds from upload to answer."
)
@click.option(
    "--upload-timeout", type=float, default=60, show_default=True, help="Seconds for an upload."
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Waiting pictures of equal size that are computed together: for GPUs.",
)
@bands_option
@range_option
@click.option("--title", help="What the page is called; the model's name if left.")
@revision_option
@device_option
def serve_command(
    model: str,
    host: str,
    port: int,
    runtime: str | None,
    threads: int | None,
    bands: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
    title: str | None,
    revision: str | None,
    device: str,
    **limits: Any,
) -> None:
    """Answer requests for masks with MODEL: a folder, an exported file, or user/name on the Hub.

    POST pictures to /v1/segment; the page at / does it for you. What is too large, too slow or too
    much is refused with a sentence. Ctrl-C or SIGTERM stops it, once what is in work is done.

    \b
    Example:
      segzoo serve my-model
      curl -T photo.jpg "http://127.0.0.1:8000/v1/segment?format=mask" -X POST -o mask.png
    """
    from ..serving.app import create_app, need_packages
    from ..serving.limits import Limits
    from ..serving.run import bound, listen, need_server, run
    from ..serving.runtimes import open_model
    from ..threads import compute_alone

    need_packages()
    need_server()
    taken = Limits(**limits)
    compute_alone()  # the model has a thread, and its helpers are to be all that there are
    with bound(host, port) as listener:
        segmenter = open_model(
            model, runtime=runtime, device=device, threads=threads, revision=revision
        )
        app = create_app(
            segmenter,
            limits=taken,
            title=title or _name(model),
            bands=bands,
            value_range=value_range,
        )
        if not _is_loopback(listener.getsockname()[0]):
            say("segzoo: everybody who can reach this machine can use the model.", err=True)
        say(f"{model} is at {listen(listener)} (Ctrl-C stops it)")
        run(app, listener, patience=taken.timeout)


def _name(model: str) -> str:
    """Of a path or a repository the last part, as a title."""
    name = model.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in name if char.isprintable())[:200] or "Segmentation"


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
