"""What was done, as lines and as a table."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from segzoo.errors import ArgumentError, StorageError
from segzoo.folders.jobs import Failure, Job, Prediction
from segzoo.folders.manifest import Manifest
from segzoo.folders.manifest_table import write_table

RUN = {"model": "abc", "options": {"scales": (1.0,)}, "reading": {}}


def predicted(name, whole=True):
    return Prediction(Path(name), Path(f"{name}.mask"), None, {"sky": 1.0}, None, whole)


def known(path, *names, run=RUN):
    manifest = Manifest(path, run)
    manifest.close()
    return [manifest.is_done(Job(Path(name), Path("out"))) for name in names]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.jsonl"
    manifest = Manifest(path, RUN)
    for outcome in (
        predicted("a.png"),
        Failure(Path("b.png"), "no picture"),
        predicted("parts.tif", whole=False),
        predicted("\udcff\x1b.png"),
    ):
        manifest.add(outcome)
    manifest.close()
    return path


def test_what_is_done_is_known_to_the_next_run(path):
    names = ("a.png", "b.png", "parts.tif", "\udcff\x1b.png", "c.png")
    assert known(path, *names) == [True, False, False, True, False]
    text = path.read_text()
    path.write_text(text[:-20] + '\n[1]\n{"mask": 1, "image": 2}\nnull\n{"image": "c.p')
    assert known(path, *names) == [True, False, False, False, False]
    assert path.read_text().endswith('{"image": "c.p\n')
    with pytest.raises(ArgumentError, match="its model differ"):
        Manifest(path, {**RUN, "model": "def"})
    with pytest.raises(StorageError, match="cannot be used"):
        Manifest(path.parent / "nosuch" / "run.jsonl", RUN)


@contextmanager
def no_space_above(size):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_want_of_space_is_told_with_the_name_of_the_manifest(path, tmp_path):
    manifest, told = Manifest(path, RUN), []
    with no_space_above(path.stat().st_size + 9):
        for step in (lambda: manifest.add(predicted("d.png")), manifest.close):
            try:
                step()
            except StorageError as error:
                told.append(str(error))
        try:
            Manifest(tmp_path / "new.jsonl", {**RUN, "model": "x" * 2000})
        except StorageError as error:
            told.append(str(error))
    files = (path, path, tmp_path / "new.jsonl")
    for text, file in zip(told, files, strict=True):
        assert text.startswith(f"The manifest {file} cannot be written: ")
    # What was cut short is passed over by the next run.
    assert known(path, "a.png", "d.png") == [True, False]
    assert known(tmp_path / "new.jsonl", "a.png") == [False]


def test_a_run_that_damaged_its_head_is_another(path):
    path.write_text('{"run": 3}\n')
    with pytest.raises(ArgumentError, match="another run"):
        Manifest(path, RUN)


def test_the_table_has_a_row_for_each_line(path, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "run.parquet"
    write_table(path, target)
    rows = parquet.read_table(target).to_pylist()
    assert [row["image"] for row in rows] == ["a.png", "b.png", "\\udcff\x1b.png"]
    assert [row["error"] for row in rows] == [None, "no picture", None]
    assert {row["model"] for row in rows} == {"abc"}
    assert json.loads(rows[0]["shares"]) == {"sky": 1.0}
    with pytest.raises(StorageError, match="could not be written"):
        write_table(path, tmp_path / "nosuch" / "run.parquet")
    assert {item.name for item in tmp_path.iterdir()} == {"run.jsonl", "run.parquet"}
