"""``segzoo list``: the names of encoders."""

from __future__ import annotations

import click

from ..errors import UnknownNameError, nearest
from .output import json_option, print_json


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--pretrained", is_flag=True, help="Only those with pretrained weights.")
@json_option
def list_command(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List the encoders whose name matches PATTERN (default: all).

    PATTERN is shell-style: * stands for any characters, ? for one. Quote it.

    \b
    Example:
      segzoo list "convnext*" --pretrained
    """
    from ..encoders import list_encoders

    names = list_encoders(pattern, pretrained=pretrained)
    if not names:
        hint = nearest(pattern.strip("*?"), list_encoders(pretrained=pretrained))
        wider = "" if set("*?[") & set(pattern) else f' To search within names: "*{pattern}*".'
        raise UnknownNameError(f"No encoder matches {pattern!r}.{hint}{wider}")
    if as_json:
        print_json(names)
    else:
        click.echo("\n".join(names))
