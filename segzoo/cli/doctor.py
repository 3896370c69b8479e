"""``segzoo doctor``: what segzoo runs on, and what is wrong with it."""

from __future__ import annotations

import click

from .output import PartialFailureError, json_option, print_json, say


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Look at versions, devices and extras, and say what is wrong with them.

    Nothing is changed, downloaded or sent. Errors are what something of segzoo fails on, and the
    exit code is then 1; warnings are what could be better. What it prints is a good beginning for
    the report of an error.

    \b
    Example:
      segzoo doctor
      segzoo doctor --json
    """
    from ..environment.report import check_environment

    report = check_environment()
    if as_json:
        print_json(report.to_json())
    else:
        for line in str(report).splitlines():
            say(line)
    if report.errors:
        count = len(report.errors)
        raise PartialFailureError(f"{count} error{'s' if count > 1 else ''} to mend.")
