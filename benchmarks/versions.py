"""The tests on every Python, with the newest and the oldest of what segzoo is built on.

    python -m benchmarks.versions                     all of them, goes on where it stopped
    python -m benchmarks.versions --only 3.10-oldest  one of them; the others' rows stay
    python -m benchmarks.versions --again             of each row what failed, by the last commit

Each is a clone of the last commit, and a virtual environment of its own in ``.versions/``, into
which everything is installed anew; the oldest are those of ``.github/oldest.txt``. What is written
down is which versions pip chose, and how the tests ended. What failed and was run again, once it
was mended, stands beside the row, which stays as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .common import COMMIT, RESULTS, write_result

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".versions"
NAME = "versions"
#: Python, and which versions of the packages.
COMBINATIONS = ("3.10-oldest", "3.11-newest", "3.12-newest", "3.13-newest")
#: The packages whose versions are promised, and what comes with them.
PACKAGES = ("torch", "torchvision", "timm", "huggingface_hub", "safetensors", "click", "numpy")
PYTEST = ("-q", "-n", "auto", "--maxprocesses=4", "--dist", "worksteal", "--junitxml=tests.xml")
_VERSIONS = (
    "import json, platform, sys; from importlib.metadata import version; "
    "print(json.dumps([platform.python_version(), {p: version(p) for p in sys.argv[1:]}]))"
)


def interpreter(python: str) -> Path | None:
    """A Python of that minor version: on the path, or one of pyenv's."""
    if found := shutil.which(f"python{python}"):
        answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and f" {python}." in answer.stdout:  # pyenv's may be shims
            return Path(found)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return next(iter(sorted(root.glob(f"versions/{python}.*/bin/python"))), None)


def prepared(name: str, python: Path) -> Path:
    """A clone of the last commit with an environment in which everything is installed."""
    folder = PLACE / name
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run([str(python), "-m", "venv", str(folder / ".venv")], check=True)
    oldest = ("-c", ".github/oldest.txt") if name.endswith("oldest") else ()
    pip = [".venv/bin/python", "-m", "pip", "install", "-q", *oldest, "-e", ".[demo,docs,test]"]
    subprocess.run(pip, cwd=folder, check=True)
    return folder


def outcome(report: Path) -> dict[str, Any]:
    """How many tests passed, were skipped and failed, the last by name; from pytest's report."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        raise ValueError(f"{report} is no report of pytest.")
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    count, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    return {"passed": count - skipped - len(bad), "skipped": skipped, "failed": bad}


def argument(failed: str) -> str:
    """A test that failed, as pytest takes it: ``tests.a::test_one`` as ``tests/a.py::test_one``."""
    module, _, name = failed.partition("::")
    return f"{module.replace('.', '/')}.py::{name}"


def run(name: str, tests: Sequence[str]) -> dict[str, Any]:
    """A row: install, test, count."""
    row: dict[str, Any] = {"name": name, "commit": COMMIT}
    python = interpreter(name.partition("-")[0])
    if python is None:
        return row | {"left_out": "there is no such Python here"}
    folder = prepared(name, python)
    ask = [".venv/bin/python", "-c", _VERSIONS, *PACKAGES]
    versions = json.loads(subprocess.check_output(ask, cwd=folder, text=True))
    start = time.perf_counter()
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [".venv/bin/python", "-m", "pytest", *PYTEST, *tests], cwd=folder, env=threads, check=False
    )
    seconds = round(time.perf_counter() - start)
    row |= {"python": versions[0], "packages": versions[1], "tests": list(tests) or ["all"]}
    row |= {**outcome(folder / "tests.xml"), "seconds": seconds}
    shutil.rmtree(folder)  # several GB
    return row


def again(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what became of its failed tests, by the last commit and what pip chooses now."""
    found = run(row["name"], [argument(failed) for failed in row["failed"]])
    return row | {"again": {key: value for key, value in found.items() if key != "name"}}


def finished() -> dict[str, dict[str, Any]]:
    """The rows that are written down, by name."""
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {row["name"]: row for row in rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run what this commit has no row of, write a row after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=COMBINATIONS, default=COMBINATIONS)
    parser.add_argument("--tests", nargs="+", default=(), help="files or folders; all without it")
    parser.add_argument("--again", action="store_true", help="what failed, where something did")
    given = parser.parse_args(arguments)
    rows = finished()
    for name in given.only:
        row = rows.get(name, {})
        if given.again:
            done = not row.get("failed")
        else:
            done = row.get("commit") == COMMIT and "passed" in row
        if done:
            continue
        rows[name] = again(row) if given.again else run(name, given.tests)
        print({key: value for key, value in rows[name].items() if key != "packages"}, flush=True)
        write_result(NAME, {}, rows=[rows[key] for key in COMBINATIONS if key in rows])


if __name__ == "__main__":
    main()
