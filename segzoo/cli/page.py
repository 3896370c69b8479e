"""``segzoo page`` and ``segzoo space``: a model as a page for the browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..files.local import as_typed
from .output import Command, print_facts, revision_option, with_options
from .paths import GivenPath

if TYPE_CHECKING:
    from ..architectures.base import SegmentationModel
    from ..inference.export.exported import ExportedModel

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--title", help="Stands above the page; the model's kind if left."),
    click.option(
        "--example",
        "examples",
        multiple=True,
        type=GivenPath(),
        help="A picture for visitors to try; as often as you like. It is published as it is.",
    ),
    click.option(
        "--max-pixels",
        default=1 << 20,
        show_default=True,
        help="Larger pictures are scaled down for the model.",
    ),
    click.option(
        "--runtime",
        type=GivenPath(),
        help="Without a network: the file of npm pack onnxruntime-web, or a folder with it.",
    ),
    revision_option,
)


def _page_options(command: Command) -> Command:
    return with_options(command, _OPTIONS)


@click.command("page")
@click.argument("model")
@click.option(
    "-o",
    "--out",
    required=True,
    type=GivenPath(),
    help="Folder of the site: a new or empty one, or that of an earlier page.",
)
@_page_options
def page_command(
    model: str,
    out: Path,
    title: str | None,
    examples: tuple[Path, ...],
    max_pixels: int,
    runtime: Path | None,
    revision: str | None,
) -> None:
    """Write a static site on which anyone can try MODEL on pictures of their own.

    MODEL is a folder, user/name on the Hub, or an exported .onnx file. It computes in the visitor's
    browser: there is no server to run, and pictures stay where they are. ONNX Runtime Web is
    fetched from npm's registry the first time.

    \b
    Example:
      segzoo page my-model -o site --title "Coins"
      python -m http.server --directory site
    """
    from ..pages.write_page import write_page

    index = write_page(
        _open(model, revision),
        out,
        title=title,
        examples=examples,
        runtime=runtime,
        max_pixels=max_pixels,
    )
    print_facts({"page": str(index), "to look at it": how_to_open(out)})


@click.command("space")
@click.argument("model")
@click.argument("repo")
@_page_options
@click.option("--private", is_flag=True, help="Make the Space private, where it is made.")
@click.option("--message", help="First line of the commit.")
def space_command(
    model: str,
    repo: str,
    title: str | None,
    examples: tuple[Path, ...],
    max_pixels: int,
    runtime: Path | None,
    revision: str | None,
    private: bool,
    message: str | None,
) -> None:
    """Publish the page of MODEL as the static Space REPO (user/name) of the Hugging Face Hub.

    The page is the one of segzoo page: it computes in the visitor's browser, and nothing runs on
    the Hub. The Space is made where it is missing; a README.md that a person wrote is kept. The
    token is the one you logged in with, or that of the variable HF_TOKEN.

    \b
    Example:
      segzoo space my-model user/coins --title "Coins"
    """
    from ..files.hub import is_repo_id
    from ..pages.space import push_space

    on_the_hub = is_repo_id(model) and not Path(model).exists()
    address = push_space(
        _open(model, revision),
        repo,
        title=title,
        examples=examples,
        runtime=runtime,
        max_pixels=max_pixels,
        source=model if on_the_hub else None,
        private=private or None,
        commit_message=message,
    )
    click.echo(address)


def how_to_open(folder: Path) -> str:
    """The line that shows a site on this machine; a browser does not run modules from files."""
    return f"python -m http.server --directory {as_typed(folder)}, then open http://localhost:8000"


def _open(model: str, revision: str | None) -> SegmentationModel | ExportedModel:
    from ..architectures.base import from_pretrained
    from ..inference.export.exported import open_as_told

    if Path(model).suffix.lower() == ".onnx":
        return open_as_told(model, revision=revision)
    return from_pretrained(model, revision=revision)
