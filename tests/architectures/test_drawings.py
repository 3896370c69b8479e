"""The drawings in docs/architectures.md are what print_tree gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import segzoo
from segzoo.architectures.diagram import diagram
from segzoo.encoders import build_on_meta

GUIDE = Path(__file__).parents[2] / "docs" / "architectures.md"
DRAWINGS = re.findall(r"```text\n((\w+) on ([\w.]+): .*?)\n```", GUIDE.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("drawing", "kind", "encoder"), DRAWINGS, ids=[kind for _, kind, _ in DRAWINGS]
)
def test_the_drawing_is_the_model_s(drawing, kind, encoder):
    assert diagram(build_on_meta(lambda: getattr(segzoo, kind)(encoder))) == drawing


def test_there_are_drawings():
    assert {kind for _, kind, _ in DRAWINGS} >= {"DPT", "FCN", "LRASPP"}
