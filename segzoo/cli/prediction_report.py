"""What ``segzoo predict`` prints: a line or an entry of JSON for each picture, failures last."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .output import PartialFailureError, as_json_text, one_line, say

if TYPE_CHECKING:
    from ..folders.jobs import Outcome, Prediction

#: Failures that are told one by one; of a million that fail the manifest has the others.
_MOST_TOLD = 1000


class Report:
    """Tells of pictures as they are done; what it holds does not grow with them.

    Args:
        as_json: Print one value of JSON, piece by piece, not lines.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._count = self._done = self._failures = self._pictures = 0
        self._failed: list[str] = []
        self._all_done = False

    def add(self, outcome: Outcome) -> None:
        """A picture that was done, or failed."""
        from ..folders.jobs import Failure

        self._count += 1
        if isinstance(outcome, Failure):
            self._pictures += 1
            self.fail(outcome.error)
        elif not self._as_json:
            _print(outcome)
        else:
            lines = as_json_text(asdict(outcome)).replace("\n", "\n    ")
            click.echo(f"{',' if self._done else self._head()}\n    {lines}", nl=False)
            self._done += 1

    def fail(self, text: str) -> None:
        """Something that failed: a picture, or a folder that cannot be read."""
        self._failures += 1
        if len(self._failed) < _MOST_TOLD:
            self._failed.append(text)

    @staticmethod
    def _head() -> str:
        return '{\n  "predictions": ['

    def all_done(self) -> None:
        """Nothing is left to do, so that there is JSON also where nothing was to be done."""
        self._all_done = True

    def close(self) -> None:
        """End the JSON, if that is wanted: also of a run that was stopped, but not of wrong use."""
        if not self._as_json or not (self._count or self._all_done):
            return
        failed = as_json_text(self._failed).replace("\n", "\n  ")
        begun = "\n  ]" if self._done else f"{self._head()}]"
        click.echo(f'{begun},\n  "failed": {failed}\n}}')

    def raise_failures(self) -> None:
        """End with exit code 1 where something failed."""
        if not self._failures:
            return
        for text in self._failed:
            say(f"segzoo: {one_line(text)}", err=True)
        if self._failures > len(self._failed):
            more = self._failures - len(self._failed)
            say(f"segzoo: ... and {more:,} more; --manifest keeps them all", err=True)
        raise PartialFailureError(
            f"{self._pictures} of {self._count} pictures could not be segmented."
            if self._pictures
            else "Not all of the folders could be read."
        )


def _print(done: Prediction) -> None:
    if not done.whole:
        say(f"{done.image}: this part is done; {done.mask} waits for the others")
        return
    parts = ", ".join(f"{name} {share:.1%}" for name, share in done.shares.items())
    say(f"{done.image} -> {done.mask}" + (f": {parts}" if parts else ""))
    if done.tiling is not None:
        say(f"  {done.tiling['mode']}: {done.tiling['reason']}")
