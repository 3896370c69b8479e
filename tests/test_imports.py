"""Imports point one way; what is heavy is imported when first needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import segzoo

PACKAGE = Path(segzoo.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layers(text: str) -> dict[str, int]:
    """Room -> its height in the map of docs/architecture.md, whose top line is the highest."""
    block = re.search(r"^## Rooms\n.*?```text\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert block is not None, "docs/architecture.md has no map under '## Rooms'"
    lines = [line for line in block[1].splitlines() if line and not line.startswith(" ")]
    rooms = [re.split(r" {2,}", line)[0].split() for line in lines]
    return {room: -level for level, names in enumerate(rooms) for room in names}


LAYERS = layers((PACKAGE.parent / "docs" / "architecture.md").read_text())


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The modules of segzoo that a file imports: in functions and for type checkers too."""
    package = (
        name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    ).split(".")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{full}.{alias.name}" for alias in node.names} | {full}
    # `from .a import b` is of the module a.b where there is one, else of a.
    named = {name for name in found if name in MODULES}
    return {
        name
        for name in named
        if not any(other.startswith(f"{name}.") for other in named)
        or MODULES[name].name != "__init__.py"
    } - {name_of(path)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    room = name_of(path).split(".")[1]
    assert room in LAYERS, f"{room} is not on the map of docs/architecture.md"
    for other in {name.split(".")[1] for name in imported(path)} - {room}:
        assert LAYERS[other] < LAYERS[room], f"{room} must not import {other}"


def test_the_map_has_no_room_that_is_not_there():
    assert set(LAYERS) == {name.split(".")[1] for name in MODULES}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_no_files_import_each_other_in_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert circle({name: imported(path) for name, path in MODULES.items()}) is None


def test_only_what_is_asked_for_is_imported():
    code = (
        "import sys, segzoo; heavy = ('torch', 'timm', 'torchvision', 'huggingface_hub', 'click', "
        "'PIL', 'triton'); print([m for m in heavy if m in sys.modules]); segzoo.FeatureSpec; "
        "print([m for m in sys.modules if m.startswith('segzoo.architectures')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[:2] == ["[]", "[]"]


def test_a_protocol_that_is_asked_for_has_methods_only():
    """From Python 3.12 on ``isinstance`` does not see attributes that ``__getattr__`` finds.

    Parts, parameters and buffers of a module are such.
    """
    asked = [
        node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(getattr(item, "id", "") == "runtime_checkable" for item in node.decorator_list)
    ]
    assert len(asked) > 3
    for protocol in asked:
        assert not [item for item in protocol.body if isinstance(item, ast.AnnAssign)], (
            protocol.name
        )
