"""``segzoo info``: what is known of an encoder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .output import ARCHITECTURE_NAMES, json_option, print_facts, print_json

if TYPE_CHECKING:
    from ..encoders import EncoderInfo


@click.command("info")
@click.argument("name")
@click.option(
    "--arch", help=f"Draw this architecture on the encoder instead: {ARCHITECTURE_NAMES}."
)
@json_option
def info_command(name: str, arch: str | None, as_json: bool) -> None:
    """Describe the encoder NAME, without downloading it.

    NAME may have the tag of its weights, as in resnet34.a1_in1k.

    \b
    Example:
      segzoo info resnet34
      segzoo info resnet34 --arch dynamic_unet
    """
    from ..encoders import encoder_info

    if arch is not None:
        if as_json:
            raise click.UsageError("--arch draws; it does not go with --json.")
        click.echo(_drawing(name, arch))
        return
    info = encoder_info(name)
    if as_json:
        print_json(asdict(info))
    else:
        _print(info)


def _drawing(name: str, arch: str) -> str:
    from ..architectures.base import create_model
    from ..architectures.diagram import diagram
    from ..encoders import build_on_meta

    return diagram(build_on_meta(lambda: create_model(arch, name)))


def _print(info: EncoderInfo) -> None:
    size = "x".join(map(str, info.gflops_size))
    tags = [f"{tag} (default)" if i == 0 else tag for i, tag in enumerate(info.pretrained_tags)]
    click.echo(f"{info.name}\n")
    print_facts(
        {
            **_maps(info),
            "parameters": f"{info.parameters / 1e6:.2f} million",
            "compute": "not known without running it"
            if info.gflops is None
            else f"{info.gflops:.2f} GFLOPs for an image of {size}",
            "image sizes": str(info.size_rule),
            "mean": _numbers(info.normalization.mean),
            "std": _numbers(info.normalization.std),
            "licence": info.license or "not stated",
            "weights": ", ".join(tags) or "none",
        }
    )


def _maps(info: EncoderInfo) -> dict[str, str]:
    """Channels and strides of the maps, one column for each map."""
    rows = {
        "map": range(1, len(info.channels) + 1),
        "channels": info.channels,
        "stride": info.strides,
    }
    width = max(len(str(value)) for row in rows.values() for value in row)
    return {name: "  ".join(f"{value:>{width}}" for value in row) for name, row in rows.items()}


def _numbers(values: tuple[float, ...]) -> str:
    return "  ".join(f"{value:.3f}" for value in values)
