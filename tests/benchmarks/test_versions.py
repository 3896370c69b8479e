"""What is written down of the tests on other Pythons."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import versions

REPORT = """<testsuites><testsuite tests="4" skipped="1" failures="1" errors="1">
<testcase classname="tests.a" name="test_one"/>
<testcase classname="tests.a" name="test_two"><skipped/></testcase>
<testcase classname="tests.a" name="test_three"><failure>no</failure></testcase>
<testcase classname="tests.b" name="test_four"><error>no</error></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted(tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text(REPORT)
    bad = ["tests.a::test_three", "tests.b::test_four"]
    assert versions.outcome(path) == {"passed": 1, "skipped": 1, "failed": bad}


def test_an_interpreter_that_does_not_answer_is_none(tmp_path, monkeypatch):
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\necho no such version >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert versions.interpreter("3.99") is None
    own = tmp_path / "versions" / "3.99.1" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert versions.interpreter("3.99") == own


@pytest.mark.parametrize("known", ["another", None])
def test_rows_of_this_commit_are_not_made_again(known, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    made = []

    def run(name, tests):
        made.append(name)
        return {"name": name, "commit": versions.COMMIT, "passed": 1}

    monkeypatch.setattr(versions, "run", run)
    row = {"name": "3.11-newest", "commit": known or versions.COMMIT, "passed": 7}
    (tmp_path / "versions.json").write_text(json.dumps({"rows": [row]}))
    versions.main(["--only", "3.10-oldest", "3.11-newest"])
    assert made == ["3.10-oldest", *(["3.11-newest"] if known else [])]
    rows = json.loads((tmp_path / "versions.json").read_text())["rows"]
    assert [found["passed"] for found in rows] == [1, 1 if known else 7]


def test_what_failed_is_run_again_and_stands_beside_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    asked = []

    def run(name, tests):
        asked.append((name, tests))
        return {"name": name, "commit": "later", "passed": 1, "failed": []}

    monkeypatch.setattr(versions, "run", run)
    row = {"name": "3.11-newest", "commit": "x", "passed": 7, "failed": ["tests.a.b::test_c[1.5]"]}
    whole = {"name": "3.12-newest", "commit": "x", "passed": 8, "failed": []}
    (tmp_path / "versions.json").write_text(json.dumps({"rows": [row, whole]}))
    versions.main(["--again"])
    assert asked == [("3.11-newest", ["tests/a/b.py::test_c[1.5]"])]
    rows = json.loads((tmp_path / "versions.json").read_text())["rows"]
    assert rows == [{**row, "again": {"commit": "later", "passed": 1, "failed": []}}, whole]
