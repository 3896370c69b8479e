"""The command line ``segzoo``: each command parses, calls the library and prints.

One module for each command, added to :data:`COMMANDS` below. Nothing here imports torch before a
command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence

import click

from .._version import __version__
from ..errors import SegzooError, nearest
from .bench import bench_command
from .check import check_command
from .convert import convert_command
from .demo import demo_command
from .doctor import doctor_command
from .evaluate import evaluate_command
from .export import export_command
from .info import info_command
from .listing import list_command
from .output import PartialFailureError, give_up_stdout, one_line, streams_that_take_all
from .page import page_command, space_command
from .predict import predict_command
from .report import report_command
from .serve import serve_command
from .train import train_command
from .transfer import pull_command, push_command

#: In the order of ``segzoo --help``.
COMMANDS: tuple[click.Command, ...] = (
    list_command,
    info_command,
    check_command,
    train_command,
    evaluate_command,
    report_command,
    predict_command,
    serve_command,
    bench_command,
    convert_command,
    export_command,
    page_command,
    space_command,
    push_command,
    pull_command,
    demo_command,
    doctor_command,
)


class _Commands(click.Group):
    """Commands in the order they were added; an unknown one gets a suggestion."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"There is no command {args[0]!r}.{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    commands={str(command.name): command for command in COMMANDS},
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="segzoo", message="%(prog)s %(version)s")
@click.pass_context
def segzoo(ctx: click.Context) -> None:
    """Segmentation models on every timm backbone.

    \b
    Example:
      segzoo info resnet34
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None for ``sys.argv``.

    Returns:
        The exit code: 0; 1 where a part of the work failed; 2 for wrong use, with one line on
        stderr; 130 where it was interrupted.
    """
    with warnings.catch_warnings(), streams_that_take_all():
        warnings.showwarning = _show_warning
        try:
            return int(segzoo.main(arguments, prog_name="segzoo", standalone_mode=False) or 0)
        except click.Abort:
            return 130
        except PartialFailureError as failure:
            click.echo(f"segzoo: {one_line(failure)}", err=True)
            return 1
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "segzoo"
            text = one_line(error.format_message())
            end = "" if text.endswith((".", "?")) else "."
            click.echo(f"{path}: {text}{end} See '{path} --help'.", err=True)
        except SegzooError as error:
            click.echo(f"segzoo: {one_line(error)}", err=True)
        except OSError as error:  # of the output itself: a full disk, a pipe that was closed
            give_up_stdout()
            with contextlib.suppress(OSError):
                click.echo(f"segzoo: {one_line(error)}", err=True)
        return 2


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in the source that raised it."""
    click.echo(f"segzoo: warning: {one_line(message)}", err=True)
