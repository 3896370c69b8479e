"""Pictures on a cluster of Ray, with workers and drivers that are killed.

Starting Ray takes half a minute, so this is not among the tests of every day: ``SEGZOO_RAY=1 pytest
tests/folders/test_on_ray.py`` (it is part of ``make sweep``). What a worker does is tested without
Ray in ``test_worker.py``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .killing import contents
from .pictures import save_pictures

pytestmark = pytest.mark.skipif(
    os.environ.get("SEGZOO_RAY") != "1", reason="needs Ray and minutes: SEGZOO_RAY=1"
)
#: Enough that two workers are busy for some seconds.
COUNT, SIDE = 160, 320


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    save_pictures(folder / "a", COUNT // 2, side=SIDE)
    save_pictures(folder / "b", COUNT // 2, side=SIDE)
    return folder


def start(scans, model, out, *more):
    """A run, which prints into a file."""
    command = [sys.executable, "-m", "segzoo", "predict", scans, "-m", model, "-o", out]
    command += ["--recursive", "--no-overlays", *more]
    with out.with_suffix(".txt").open("a") as file:
        return subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT
        )


def below(ancestor):
    """The processes that descend from one, with their command lines."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(folder.name)] = int(status.partition("PPid:")[2].split()[0])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: lines[pid] for pid in found - {ancestor}}


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_killed_workers_and_drivers_lose_nothing(honest, scans, tmp_path):
    whole = start(scans, honest, tmp_path / "whole")
    assert whole.wait(600) == 0
    out = tmp_path / "out"
    more = ("--engine", "ray", "--workers", "2", "--manifest", tmp_path / "run.jsonl")
    driver = start(scans, honest, out, *more)
    wait_for(lambda: len(list(out.rglob("*.png"))) >= 8, driver)
    workers = [pid for pid, line in below(driver.pid).items() if "RayWorker" in line]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: len(list(out.rglob("*.png"))) >= COUNT // 2, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(list(out.rglob("*.png"))) < COUNT
    again = start(scans, honest, out, *more)
    assert again.wait(600) == 0, out.with_suffix(".txt").read_text()
    finished = {name: data for name, data in contents(out).items() if not name.endswith(".tmp")}
    assert finished == contents(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert len({line["image"] for line in lines if "mask" in line}) == COUNT
    assert not any("error" in line for line in lines)
