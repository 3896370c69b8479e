"""Mutated files: the same cases in every run, or new ones for as long as is asked for.

``SEGZOO_FUZZ_SECONDS=900 pytest -k mutated`` gives each of these tests a quarter of an hour of cases
that nobody has seen. One that fails goes into tests/data/corpus, where a plain test reads it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "data" / "corpus"


def fuzz(check: Callable[[st.DataObject], object], *, examples: int) -> None:
    """Run a check on many cases.

    Args:
        check: Draws a case and looks at what comes of it.
        examples: How many cases, where no time is given.
    """
    seconds = float(os.environ.get("SEGZOO_FUZZ_SECONDS", "0"))

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=not seconds,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        check(data)

    end = time.monotonic() + seconds
    run()
    while time.monotonic() < end:
        run()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, *, header: int) -> bytes:
    """Bytes with some of them changed, most often among the first, and perhaps without an end."""
    data = bytearray(whole)
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    for _ in range(draw(st.integers(0, 6)) if data else 0):
        end = draw(st.sampled_from([header, header, header, len(data)]))
        place = draw(st.integers(0, min(end, len(data)) - 1))
        new = draw(st.one_of(st.sampled_from([0, 1, 127, 255]), st.integers(0, 255)))
        data[place] = new
    return bytes(data)
