"""``segzoo export``: a model as a file for ONNX Runtime, OpenVINO and the like."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ArgumentError
from .output import revision_option
from .paths import GivenPath


@click.command("export")
@click.argument("model")
@click.option(
    "-o",
    "--out",
    required=True,
    type=GivenPath(),
    help="The file: .onnx, or .xml for OpenVINO.",
)
@click.option("--size", nargs=2, type=int, help="Height and width of the images, or of an example.")
@click.option("--fixed", is_flag=True, help="Only for images of that size: faster.")
@click.option("--batch", default=1, show_default=True, help="With --fixed: how many at a time.")
@click.option("--plain", is_flag=True, help="The graph as it is, without folding and rewriting.")
@click.option(
    "--int8",
    type=GivenPath(exists=True),
    help="Compute in 8-bit integers, calibrated on the pictures of this folder.",
)
@click.option(
    "--agreement",
    type=float,
    default=0.99,
    show_default=True,
    help="With --int8: the least share of pixels with the model's class.",
)
@revision_option
@click.option("--overwrite", is_flag=True, help="Replace a file that exists already.")
def export_command(
    model: str,
    out: Path,
    size: tuple[int, int] | None,
    fixed: bool,
    batch: int,
    plain: bool,
    int8: Path | None,
    agreement: float,
    revision: str | None,
    overwrite: bool,
) -> None:
    """Write MODEL (a folder, or user/name on the Hub) as a file that other runtimes run.

    The file takes normalised images and gives logits, and says of itself what has to be known to
    use it. Its logits are compared with the model's first, where its runtime is installed.

    \b
    Example:
      segzoo export my-model -o model.onnx
      segzoo export my-model -o model.xml --fixed --size 512 512
      segzoo export my-model -o model.xml --int8 photos/
    """
    if batch != 1 and not fixed:
        raise click.UsageError("--batch goes with --fixed; other files take any number of images.")
    if out.exists() and not overwrite:
        raise ArgumentError(f"{out} exists already. Choose another name, or add --overwrite.")
    from ..architectures.base import from_pretrained
    from ..inference.export.export import export
    from ..inference.export.exported import open_exported

    segmenter = from_pretrained(model, revision=revision)
    path = export(
        segmenter,
        out,
        dynamic=not fixed,
        size=size,
        batch=batch,
        optimized=not plain,
        int8=int8,
        agreement=agreement,
    )
    click.echo(str(path))
    if int8 is not None and (found := open_exported(path).int8) is not None:
        click.echo(
            f"{found['agreement']:.2%} of the pixels have the model's class, on pictures that it "
            "was not calibrated with.",
            err=True,
        )
