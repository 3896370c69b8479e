"""Damaged folders raise one of segzoo's errors, or load.

A long run: ``SEGZOO_FUZZ_CASES=2000 pytest tests/storage/test_mutations.py``.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segzoo
from segzoo.errors import SegzooError
from tests.model_folders import CONFIG, WEIGHTS, read_header, write_header

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.sampled_from([2**31, 2**53, 2**63, 10**30, -1]),
    st.floats(),
    st.sampled_from(["unet", "resnet18", "batch", "scse", "hf-hub:a/b", "../x", "", "F32", "F16"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["drop_rate", "img_size", "out_indices", "mean", "std", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


def spots(tree: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a tree of JSON."""
    found: list[tuple[Any, Any]] = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        found.append((tree, key))
        if isinstance(value, (dict, list)):
            found.extend(spots(value))
    return found


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> bytes:
    """A JSON text that differs from the tree in up to three places, or in some bytes."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(0, 3))):
        places = spots(tree)
        if not places:
            break
        owner, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "delete", "add"]))
        if kind == "delete":
            del owner[key]
        elif kind == "add" and isinstance(owner, dict):
            owner[draw(st.text(max_size=6))] = draw(VALUES)
        else:
            owner[key] = draw(VALUES)
    text = bytearray(json.dumps(tree).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 4]))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text)


@settings(
    max_examples=int(os.environ.get("SEGZOO_FUZZ_CASES", "200")),
    deadline=None,
    derandomize="SEGZOO_FUZZ_CASES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_mutated_folder_raises_nothing_but_our_errors(honest, tmp_path_factory, data):
    folder = Path(
        shutil.copytree(honest, tmp_path_factory.getbasetemp() / "fuzz", dirs_exist_ok=True)
    )
    config = json.loads((honest / CONFIG).read_text())
    target = data.draw(st.sampled_from(["config", "both configs", "header", "file"]))
    header, values = read_header(honest / WEIGHTS)
    if target in ("config", "both configs"):
        text = data.draw(mutated(config))
        (folder / CONFIG).write_bytes(text)
        if target == "both configs":
            header["__metadata__"]["config"] = text.decode("utf-8", errors="replace")
            write_header(folder / WEIGHTS, header, values)
    elif target == "header":
        write_header(folder / WEIGHTS, data.draw(mutated(header)), values)
    else:
        content = bytearray((honest / WEIGHTS).read_bytes())
        del content[data.draw(st.integers(0, len(content))) :]
        for _ in range(data.draw(st.integers(0, 4)) if content else 0):
            end = data.draw(st.sampled_from([16, len(content)]))
            content[data.draw(st.integers(0, min(end, len(content)) - 1))] ^= data.draw(
                st.integers(1, 255)
            )
        (folder / WEIGHTS).write_bytes(bytes(content))
    try:
        model = segzoo.from_pretrained(folder)
    except SegzooError:
        return
    with torch.no_grad():
        model(torch.zeros(1, model.in_channels, 32, 32))
