"""Run tutorials as they stand and keep what they gave.

python -m benchmarks.tutorials.run              # those whose cells have changed since
python -m benchmarks.tutorials.run --all
python -m benchmarks.tutorials.run microscopy   # these
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib

from . import record
from .cells import Tutorial, names, read
from .execute import execute


def is_current(tutorial: Tutorial) -> bool:
    """Whether its record is of its cells."""
    try:
        record.shown(tutorial)
    except (OSError, ValueError):
        return False
    return True


def main() -> None:
    """Run those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *names()], metavar="NAME")
    parser.add_argument("--all", action="store_true", help="also those that have not changed")
    given = parser.parse_args()
    matplotlib.use("Agg")
    for name in given.names or names():
        tutorial = read(name)
        if not given.names and not given.all and is_current(tutorial):
            continue
        with tempfile.TemporaryDirectory() as folder:
            outputs = execute(tutorial, Path(folder))
        record.write(tutorial, outputs)
        print(f"{name}: {sum(output.seconds for output in outputs):.1f} s of processor time")


if __name__ == "__main__":
    main()
