"""``segzoo list``: the names of encoders, or a line about each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import SegzooError, UnknownNameError, nearest
from .output import PartialFailureError, json_option, print_json, print_table, show_progress

if TYPE_CHECKING:
    from ..encoders import EncoderInfo

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}


def _count(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """A number of weights: 500k, 25M, 1.5B, or all its digits."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmb]?)", value or "", flags=re.IGNORECASE)
    if value is not None and not match:
        raise click.BadParameter(f"{value!r} is no number of weights, such as 25M, 1.5B or 500k")
    return float(match[1]) * _UNITS[match[2].lower()] if match else None


def _strides(
    ctx: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Numbers with commas between them."""
    try:
        return None if value is None else tuple(map(int, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} are no strides, such as 2,4,8,16,32") from None


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="Only those with pretrained weights.")
@click.option("--license", "--licence", help="Of the default weights: mit, cc-by-* (quoted) ...")
@click.option("--min-parameters", callback=_count, help="At least so many weights: 500k, 5M ...")
@click.option("--max-parameters", callback=_count, help="At most so many weights: 25M, 1.5B ...")
@click.option("--strides", callback=_strides, help="Of the maps, finest first: 2,4,8,16,32.")
@click.option(
    "--max-gflops", type=float, help="10^9 operations for one image, counted as segzoo info does."
)
@click.option(
    "--size-rule",
    help="any (images of any size go as they are), multiple (they are padded) or fixed (resized).",
)
@click.option("-l", "--long", is_flag=True, help="A line about each, not its name alone.")
@json_option
@click.pass_context
def list_command(
    ctx: click.Context,
    pattern: str,
    pretrained: bool,
    license: str | None,
    min_parameters: float | None,
    max_parameters: float | None,
    strides: tuple[int, ...] | None,
    max_gflops: float | None,
    size_rule: str | None,
    long: bool,
    as_json: bool,
) -> None:
    """List the encoders whose name matches PATTERN (default: all) and that pass every filter.

    PATTERN is shell-style: * stands for any characters, ? for one. Quote it. Weights and licences
    are looked up; for the other filters and --long each encoder that is left is asked, which takes
    from some hundredths of a second (parameters, strides) to seconds (the others).

    \b
    Example:
      segzoo list "convnext*" --pretrained
      segzoo list "*small*" --license mit --max-parameters 25M --long
    """
    from ..encoders import list_encoders

    progress = show_progress(as_json)
    names = list_encoders(
        pattern,
        pretrained=pretrained,
        license=license,
        min_parameters=min_parameters,
        max_parameters=max_parameters,
        strides=strides,
        max_gflops=max_gflops,
        size_rule=size_rule,
        progress=progress,
    )
    if not names:
        raise UnknownNameError(_why_none(pattern, ctx))
    if long:
        _print_long(names, as_json=as_json, progress=progress)
    elif as_json:
        print_json(names)
    else:
        click.echo("\n".join(names))


def _why_none(pattern: str, ctx: click.Context) -> str:
    """No encoder was left: because of the name, or because of the filters."""
    from ..encoders import list_encoders

    matching = len(list_encoders(pattern))
    if not matching:
        hint = nearest(pattern.strip("*?"), list_encoders())
        wider = "" if set("*?[") & set(pattern) else f' To search within names: "*{pattern}*".'
        return f"No encoder matches {pattern!r}.{hint}{wider}"
    given = {
        option.opts[0]: ctx.params[str(option.name)]
        for option in ctx.command.params
        if option.name not in ("pattern", "long", "as_json")
    }
    filters = " ".join(
        f"{option} {_shown(value)}".rstrip()
        for option, value in given.items()
        if value is not None and value is not False
    )
    return f"Of the {matching} encoders that match {pattern!r} none passes {filters}."


def _shown(value: object) -> str:
    """The value of an option as it is typed, or all its digits."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:,.15g}" if isinstance(value, float) else "" if value is True else str(value)


def _print_long(names: Sequence[str], *, as_json: bool, progress: bool) -> None:
    """A line about each; those that cannot be built or run are told of at the end."""
    from tqdm import tqdm

    from ..encoders import encoder_info

    infos: list[EncoderInfo] = []
    failed: list[str] = []
    bar = tqdm(names, desc="asking", unit="encoder", disable=not progress, delay=1, leave=False)
    for name in bar:
        try:
            infos.append(encoder_info(name))
        except SegzooError as error:
            failed.append(f"{name}: {error}")
    if as_json:
        print_json([asdict(info) for info in infos])
    else:
        head = ("encoder", "parameters", "GFLOPs", "strides", "image sizes", "licence")
        print_table([head, *map(_row, infos)], right=(1, 2))
    if failed:
        raise PartialFailureError(
            f"{len(failed)} of {len(names)} encoders could not be described. {' '.join(failed)}"
        )


def _row(info: EncoderInfo) -> tuple[str, ...]:
    gflops = "?" if info.gflops is None else f"{info.gflops:.2f}"
    return (
        info.name.partition(".")[0],
        f"{info.parameters / 1e6:.2f} M",
        gflops,
        " ".join(map(str, info.strides)),
        str(info.size_rule),
        info.license or "-",
    )
