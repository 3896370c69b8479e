"""``segzoo demo``: train, segment, save, load, on one photograph."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import (
    PartialFailureError,
    device_option,
    json_option,
    print_facts,
    print_json,
    show_progress,
)
from .page import how_to_open
from .paths import GivenPath

if TYPE_CHECKING:
    from ..demo import DemoResult


@click.command("demo")
@click.option("--image", type=GivenPath(), help="Your own photograph ...")
@click.option("--mask", type=GivenPath(), help="... and its mask, a value a class.")
@click.option(
    "-o",
    "--out",
    type=GivenPath(),
    default="demo-output",
    show_default=True,
    help="Folder for the model, the mask and the picture.",
)
@click.option("--encoder", default="resnet34", show_default=True, help="A name of segzoo list.")
@click.option("--pretrained", is_flag=True, help="Start from pretrained weights (a download).")
@click.option("--steps", default=80, show_default=True, help="Training steps of 8 crops.")
@click.option("--seed", default=0, show_default=True, help="Of weights and crops.")
@click.option("--no-page", is_flag=True, help="Leave out the page to try it on.")
@device_option
@json_option
def demo_command(
    image: Path | None,
    mask: Path | None,
    out: Path,
    encoder: str,
    pretrained: bool,
    steps: int,
    seed: int,
    no_page: bool,
    device: str,
    as_json: bool,
) -> None:
    """Train a U-Net on two thirds of a photograph, segment the rest.

    The left two thirds of scikit-image's photograph of coins are trained on; the right third,
    never seen, is segmented and compared with the truth. The model is saved and loaded again, and
    must give the same mask. In the end it becomes a page for the browser, see segzoo page, where
    the extra [page] is installed.

    \b
    Example:
      segzoo demo
      segzoo demo --image photo.jpg --mask mask.png
    """
    if (image is None) != (mask is None):
        raise click.UsageError("--image and --mask go together.")
    from ..demo import coins_scene, read_scene, run_demo
    from ..demo.page import write_demo_page

    scene = read_scene(image, mask) if image and mask else coins_scene()
    result = run_demo(
        scene,
        out=out,
        encoder=encoder,
        pretrained=pretrained,
        steps=steps,
        seed=seed,
        device=device,
        progress=show_progress(as_json),
    )
    written = None if no_page else write_demo_page(result, scene, out / "site")
    if as_json:
        print_json({**asdict(result), "page": written if isinstance(written, Path) else None})
    else:
        _print(result, written)
    if not result.identical:
        raise PartialFailureError(
            f"The model loaded from {result.model_folder} gives another mask."
        )


def _print(result: DemoResult, page: Path | str | None) -> None:
    facts = {} if page is None else {"page": str(page)}
    if isinstance(page, Path):
        facts["try it"] = how_to_open(page.parent)
    print_facts(
        {
            "IoU": f"{result.iou:.4f} on the third that was not trained on",
            "training": f"{result.encoder}, {result.steps} steps, loss "
            f"{result.losses[0]:.3f} -> {result.losses[-1]:.3f}",
            "time": f"{result.seconds:.0f} s ({result.cpu_seconds:.0f} s of processor)",
            "model": f"{result.model_folder} (loaded again: the mask is "
            f"{'identical' if result.identical else 'DIFFERENT'})",
            "mask": str(result.mask),
            "picture": str(result.picture),
            **facts,
        }
    )
