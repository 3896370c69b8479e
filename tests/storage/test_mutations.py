"""Damaged folders raise one of segzoo's errors, or load; cards of any content are only read."""

from __future__ import annotations

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

import segzoo
from segzoo.errors import SegzooError, StorageError
from segzoo.storage.card import is_unedited, read_license
from tests.fuzzing import CORPUS, damaged, fuzz
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


def check(data: st.DataObject, honest: Path, folder: Path) -> None:
    """One mutated folder: our errors, or a model."""
    shutil.copytree(honest, folder, dirs_exist_ok=True)
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


def test_a_mutated_folder_raises_nothing_but_our_errors(honest, tmp_path):
    fuzz(lambda data: check(data, honest, tmp_path / "model"), examples=100)


@pytest.mark.parametrize("path", sorted((CORPUS / "config").iterdir()), ids=lambda path: path.stem)
def test_configs_of_the_corpus_are_refused(honest, tmp_path, path):
    folder = Path(shutil.copytree(honest, tmp_path / "model"))
    shutil.copyfile(path, folder / CONFIG)
    header, values = read_header(honest / WEIGHTS)
    header["__metadata__"]["config"] = path.read_bytes().decode("utf-8", errors="replace")
    write_header(folder / WEIGHTS, header, values)
    with pytest.raises(StorageError) as caught:
        segzoo.from_pretrained(folder)
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", sorted((CORPUS / "header").iterdir()), ids=lambda path: path.stem)
def test_headers_of_the_corpus_are_refused(honest, tmp_path, path):
    folder = Path(shutil.copytree(honest, tmp_path / "model"))
    write_header(folder / WEIGHTS, path.read_bytes(), bytes(64))
    with pytest.raises(StorageError) as caught:
        segzoo.from_pretrained(folder)
    assert len(str(caught.value)) < 2000


MARKDOWN = st.lists(
    st.one_of(
        st.sampled_from(
            ["---", "license: mit", "license: [mit]", "license: !!python/name:os.system", "- &a [*a]",
             "tags: {a: b", "<!-- Written by segzoo (00000000); x -->", "training/", "example.png"]
        ),
        st.text(max_size=30),
    ),
    max_size=12,
).map("\n".join)  # fmt: skip


def read_anyway(card: bytes, folder: Path) -> None:
    """What a card may make of any bytes: a licence, or none."""
    (folder / "README.md").write_bytes(card)
    license = read_license(folder / "README.md")
    assert license is None or (isinstance(license, str) and license)
    assert is_unedited(card.decode("utf-8", errors="replace")) in (True, False)


def test_a_mutated_card_is_read_anyway(honest, tmp_path):
    ours = (honest / "README.md").read_bytes()
    cards = st.one_of(
        damaged(ours, header=200), MARKDOWN.map(lambda text: text.encode("utf-8", "replace"))
    )
    fuzz(lambda data: read_anyway(data.draw(cards), tmp_path), examples=80)


@pytest.mark.parametrize("path", sorted((CORPUS / "card").iterdir()), ids=lambda path: path.stem)
def test_cards_of_the_corpus_are_read_anyway(honest, tmp_path, path):
    started = time.process_time()
    read_anyway(path.read_bytes(), tmp_path)
    assert time.process_time() - started < 20  # it would be hours, or all memory
