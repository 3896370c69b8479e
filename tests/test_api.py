"""The public names and signatures are those of tests/api.txt: none changes unnoticed."""

from __future__ import annotations

import difflib
import sys
import textwrap
from types import ModuleType

import pytest

from . import api


def test_the_public_names_and_signatures_are_those_of_the_file():
    before, now = api.FILE.read_text().splitlines(), api.segzoo_lines()
    difference = difflib.unified_diff(before, now, "tests/api.txt", "segzoo", lineterm="", n=0)
    shown = "\n".join(difference)
    assert not shown, (
        f"{shown}\n\nThe public names or signatures have changed. If that is meant, run "
        "`python -m tests.api` and write it into CHANGELOG.md; what was released needs a "
        "deprecation first (RELEASING.md)."
    )


@pytest.fixture
def sample(monkeypatch) -> ModuleType:
    made = ModuleType("segzoo.sample")
    monkeypatch.setitem(sys.modules, made.__name__, made)  # where dataclasses look it up
    return made


def run_in(module: ModuleType, source: str) -> None:
    exec(compile(textwrap.dedent(source), "sample", "exec", dont_inherit=True), vars(module))


def test_how_names_and_signatures_are_written(sample):
    run_in(
        sample,
        """
        from __future__ import annotations
        from dataclasses import dataclass, field
        from typing import NamedTuple

        def plain(a, /, b: int, *c: str, d: dict[str, int] | None = None, **e): ...
        def keywords(a: float = 1e-5, *, b: str = "x") -> None: ...
        def _hidden(): ...

        class Below:
            size: tuple[int, int]
            def shared(self, a: int) -> Below: ...
            def changed(self): ...

        @dataclass(frozen=True)
        class Value(Below):
            one: int
            more: list[int] = field(default_factory=list, kw_only=True)
            def changed(self, a: int): ...
            def _hidden(self): ...
            @property
            def area(self) -> int: ...
            @classmethod
            def make(cls, a: int) -> Value: ...
            @staticmethod
            def of(a: int) -> int: ...

        class Pair(NamedTuple):
            one: int
            two: list[str] | None = None

        class Failure(ValueError):
            def __call__(self, x: int) -> int: ...
        """,
    )
    assert api.public_lines(sample) == [
        "class segzoo.sample.Below()",
        "segzoo.sample.Below.changed()",
        "segzoo.sample.Below.shared(a: int) -> Below",
        "segzoo.sample.Below.size: tuple[int, int]",
        "class segzoo.sample.Failure(ValueError)",
        "segzoo.sample.Failure()(x: int) -> int",
        "class segzoo.sample.Pair(tuple)",
        "segzoo.sample.Pair(one: int, two: list[str] | None = None)",
        "segzoo.sample.Pair.one: int",
        "segzoo.sample.Pair.two: list[str] | None",
        "class segzoo.sample.Value(Below)",
        "segzoo.sample.Value(one: int, *, more: list[int] = <factory>) -> None",
        "segzoo.sample.Value.area: int",
        "segzoo.sample.Value.changed(a: int)",
        "segzoo.sample.Value.make(a: int) -> Value",
        "segzoo.sample.Value.more: list[int]",
        "segzoo.sample.Value.of(a: int) -> int",
        "segzoo.sample.Value.one: int",
        "segzoo.sample.keywords(a: float = 1e-05, *, b: str = 'x') -> None",
        "segzoo.sample.plain(a, /, b: int, *c: str, d: dict[str, int] | None = None, **e)",
    ]


def test_an_evaluated_annotation_is_refused(sample):
    run_in(sample, "def given(a: int): ...")
    with pytest.raises(TypeError, match="from __future__ import annotations"):
        api.public_lines(sample)
