"""What the project says of itself in more than one place is the same everywhere."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import segzoo

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def pythons() -> list[str]:
    """The versions that the package says it is for, oldest first."""
    return re.findall(r"Python :: (\d+\.\d+)$", settings()["metadata"]["classifiers"], re.MULTILINE)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def oldest() -> dict[str, Version]:
    pins = [Requirement(line) for line in lines((ROOT / ".github" / "oldest.txt").read_text())]
    assert [specifier.operator for pin in pins for specifier in pin.specifier] == ["=="] * len(pins)
    return {pin.name: Version(next(iter(pin.specifier)).version) for pin in pins}


def test_the_oldest_versions_are_those_that_are_allowed():
    required = map(Requirement, lines(settings()["options"]["install_requires"]))
    assert oldest() == {
        requirement.name: Version(specifier.version)
        for requirement in required
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    hub = f'"huggingface_hub=={oldest()["huggingface-hub"]}"'
    assert hub in (ROOT / "tests" / "old_hub.sh").read_text()


def test_the_version_is_the_same_everywhere():
    assert read(ROOT / "CITATION.cff")["version"] == segzoo.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\d.*)", changelog, re.MULTILINE)[0] == segzoo.__version__


def test_the_licence_is_the_same_everywhere():
    assert read(ROOT / "CITATION.cff")["license"] == settings()["metadata"]["license_expression"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_runs_what_there_is(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
                assert target in targets() | {".venv/.installed-test"}


def test_the_workflow_has_every_python_and_the_oldest_versions():
    jobs = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == pythons()
    assert settings()["options"]["python_requires"] == f">={pythons()[0]}"
    assert "--constraint .github/oldest.txt" in jobs["oldest"]["env"]["PIP_FLAGS"]
    inputs = [step.get("with", {}) for step in jobs["oldest"]["steps"]]
    assert [item["python-version"] for item in inputs if "python-version" in item] == pythons()[:1]


def test_the_hook_before_a_commit_runs_the_quick_checks():
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == ["make check"]
    assert "check" in targets()
