"""Runs that are killed and started again end with the files of one that was left alone."""

import json
import multiprocessing
import os
import signal

import pytest
from PIL import Image

from tests.prediction.tiles import random_picture

from . import killing
from .pictures import save_pictures

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs forkserver"
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for place in ("", "a", "a/b"):
        save_pictures(folder / place, 8, side=64)
    return folder


def results(folder):
    """Finished files: a killed run may leave its temporary ones."""
    return {n: c for n, c in killing.contents(folder).items() if not n.endswith(".tmp")}


def test_folders_with_workers(honest, scans, tmp_path):
    output = tmp_path / "output.txt"

    def begin(out, *more):
        return killing.start(
            *(scans, "-m", honest, "-o", tmp_path / out, "--recursive", *more), output=output
        )

    whole = begin("whole")
    killed = begin("killed", "--workers", "2", "--manifest", tmp_path / "run.jsonl")
    out = tmp_path / "killed"
    for count in (3, 20):
        assert killing.wait_for(lambda n=count: len(list(out.rglob("*.png"))) >= n, killed)
        killing.kill(killed)
        killed = begin("killed", "--workers", "2", "--manifest", tmp_path / "run.jsonl")
    assert killing.finish(whole) == 0
    assert killing.finish(killed) == 0, output.read_text()
    assert results(out) == results(tmp_path / "whole")
    assert len(results(out)) == 2 * 24
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    done = {json.loads(line)["image"] for line in lines[1:] if line.endswith("}")}
    assert len(done) == 24


def test_sigterm_ends_a_run_and_what_is_done_is_told(honest, scans, tmp_path):
    output, out = tmp_path / "output.txt", tmp_path / "out"
    call = (scans, "-m", honest, "-o", out, "--recursive", "--workers", "2", "--no-overlays")
    output.touch()
    process = killing.start(*call, output=output)
    assert killing.wait_for(lambda: "->" in output.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    code = killing.finish(process)
    lines = [line for line in output.read_text().splitlines() if "->" in line]
    assert code in (0, 143)  # 0 where it was quicker
    # A worker that is ended between writing and telling leaves one that is not told.
    assert 0 < len(lines) <= len(results(out)) <= len(lines) + 4
    assert not [name for name in killing.contents(out) if name.endswith(".tmp")]
    assert killing.finish(killing.start(*call, "--skip-existing", output=output)) == 0
    assert len(results(out)) == 24


def test_parts_of_one_picture(honest, tmp_path):
    picture = tmp_path / "scene.png"
    Image.fromarray(random_picture(500, 130).permute(1, 2, 0).numpy()).save(picture)

    def begin(out, *more):
        call = (picture, "-m", honest, "-o", tmp_path / out, "--tiling", "blend", "--tile", "64")
        return killing.start(*call, *more, output=tmp_path / "output.txt")

    whole = begin("whole")
    parts = tmp_path / "killed" / "scene.png.parts"
    for part in (1, 2, 3):
        wanted = len(list(parts.glob("band-*.npz"))) + 2
        killed = begin("killed", "--rows", f"{part}/3")
        if killing.wait_for(lambda n=wanted: len(list(parts.glob("band-*.npz"))) >= n, killed):
            killing.kill(killed)
        assert killing.finish(begin("killed", "--rows", f"{part}/3")) == 0
    assert killing.finish(whole) == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert list(results(tmp_path / "whole")) == ["scene.png"]
