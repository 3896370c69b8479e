"""Trials in processes of their own."""

import json
import os
import time

import pytest

from benchmarks.encoders import coverage
from benchmarks.isolated import in_process

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def fail():
    raise ValueError("no maps")


def test_a_result_or_what_went_wrong():
    assert in_process(divmod, 7, 2) == (3, 1)
    assert in_process(fail) == "ValueError: no maps"
    assert in_process(os._exit, 3).startswith("died")
    assert in_process(time.sleep, 60, seconds=0.2) == "over 0.2 s"


def test_a_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        coverage, "in_process", lambda trial, name, device: tried.append(name) or "ok"
    )
    log = tmp_path / "log.jsonl"
    log.write_text('{"name": "a", "segzoo": "ok", "smp": "IndexError: x", "seconds": 1.3}\n')
    rows = coverage.sweep(["a", "b"], "meta", log)
    assert tried == ["b", "b"]
    assert [row["smp"] for row in rows.values()] == ["IndexError: x", "ok"]
    assert [json.loads(line)["name"] for line in log.read_text().splitlines()] == ["a", "b"]
