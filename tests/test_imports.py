"""Imports point one way; what is heavy is imported when first needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import segzoo

PACKAGE = Path(segzoo.__file__).parent

#: The layers, lowest first. A module may import from lower layers, and from its own package.
LAYERS = (
    ("errors", "_version", "strict_json"),
    ("features", "registry", "checks", "recording", "sharing"),
    ("weights_file", "stored_options"),
    ("layers", "preprocessing", "hub", "reparametrized", "upsampled", "recomputed"),
    ("config", "checkpoints"),
    ("encoders", "pictures", "devices"),
    ("models",),
    ("convert", "fastai", "inference"),
    ("demo", "bench"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_rooms(path: Path) -> set[str]:
    """The top-level rooms of the package that a file imports, in functions too."""
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            full = base + tuple((node.module or "").split(".") if node.module else ())
            names = [(*full, alias.name) for alias in node.names] if len(full) == 1 else [full]
            rooms |= {name[1] for name in names if name[0] == "segzoo" and len(name) > 1}
        elif isinstance(node, ast.Import):
            rooms |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("segzoo.")
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segzoo."):
            rooms.add(str(node.module).split(".")[1])
    return rooms


@pytest.mark.parametrize(
    "path",
    [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in LEVEL, f"{room} has no layer: add it to LAYERS and to docs/architecture.md"
    for other in imported_rooms(path) - {room}:
        assert LEVEL.get(other, 99) < LEVEL[room], f"{room} must not import {other}"


def test_the_layers_are_those_of_the_map():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    for name in LEVEL:
        if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists():
            assert name in text, f"docs/architecture.md does not mention {name}"


def test_heavy_libraries_are_imported_when_first_needed():
    code = (
        "import sys, segzoo; "
        "print([m for m in ('torch', 'timm', 'torchvision', 'huggingface_hub', 'click', 'PIL', 'triton') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
