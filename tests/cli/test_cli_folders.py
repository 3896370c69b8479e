"""``segzoo predict`` on folders: subfolders, what is passed over, manifests; names of any kind."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import segzoo
from segzoo.cli import main
from segzoo.cli.output import printable
from segzoo.folders import engines
from segzoo.folders.choice import Chosen
from segzoo.folders.jobs import Job, plan_jobs
from segzoo.folders.task import Task
from segzoo.folders.worker import PictureWorker
from tests.helpers import close_folder
from tests.prediction.tiles import random_picture


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = segzoo.Unet("resnet18", classes=3, depth=1)
    return model.save_pretrained(tmp_path_factory.mktemp("model"))


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    for name in ("a.png", "sub/a.png", "sub/deep/b.jpg", "sub/deep/B.png", ".hidden/c.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_picture(33, 40).permute(1, 2, 0).numpy()).save(path)
    for name in ("x.heic", "sub/y.heic", "sub/z.dng", "sub/notes"):
        (folder / name).write_bytes(b"")
    (folder / "loop").symlink_to(folder)
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_subfolders_are_mirrored(capsys, model_folder, scans, tmp_path):
    out = tmp_path / "out"
    call = ("predict", scans, "-m", model_folder, "-o", out)
    code, text, err = run(capsys, *call, "--recursive")
    assert code == 0
    assert len(text.splitlines()) == 4
    assert [name for name in written(out) if "overlay" not in name] == [
        *("a.png", "sub/a.png", "sub/deep/B.png", "sub/deep/b_2.png")
    ]
    assert err == ["segzoo: Left out: 4 files that are no pictures (.heic 2, .dng 1, no ending 1)."]
    code, text, err = run(capsys, *call, "--recursive")
    assert code == 1
    assert "4 of 4 pictures" in err[-1]
    assert "exists already" in err[-2]
    assert run(capsys, *call, "--recursive", "--skip-existing")[0] == 0
    for more in ((), ("--recursive",)):  # nothing is left to do, which JSON says as well
        code, text, _ = run(capsys, *call, *more, "--skip-existing", "--json")
        assert (code, json.loads(text)) == (0, {"predictions": [], "failed": []})
    assert run(capsys, *call, "--json")[:2] == (2, "")


def test_a_folder_that_cannot_be_read_is_one_of_the_failures(
    capsys, model_folder, scans, tmp_path, monkeypatch
):
    close_folder(monkeypatch, "sub")
    call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "out", "--recursive", "--json")
    code, text, err = run(capsys, *call)
    (told,) = json.loads(text)["failed"]
    assert (code, told.partition(". ")[0]) == (
        1,
        f"The folder {scans / 'sub'} cannot be read: Permission denied",
    )
    assert f"segzoo: {told}" in err


def test_what_is_passed_over_is_told(capsys, model_folder, scans, tmp_path):
    code, text, err = run(capsys, "predict", scans, "-m", model_folder, "-o", tmp_path / "out")
    assert code == 0
    assert len(text.splitlines()) == 1
    assert err == [
        "segzoo: Left out: 1 file that is no picture (.heic 1), 2 subfolders (see --recursive)."
    ]


def test_results_are_not_put_among_the_pictures(capsys, model_folder, scans):
    call = ("predict", scans, "-m", model_folder, "--recursive", "-o", scans / "sub" / "masks")
    code, _, err = run(capsys, *call)
    assert code == 2
    assert "results would be among the pictures" in err[0]


@pytest.mark.parametrize("recursive", [(), ("--recursive",)])
def test_a_circle_of_links_is_no_folder(capsys, model_folder, scans, tmp_path, recursive):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "one" / "out", *recursive)
    code, _, err = run(capsys, *call)
    assert (code, len(err)) == (2, 1)
    assert "cannot be made" in err[0]


def test_a_manifest_goes_on_with_what_is_missing(capsys, model_folder, scans, tmp_path):
    out, manifest = tmp_path / "out", tmp_path / "run.jsonl"
    (scans / "sub" / "deep" / "bad.png").write_text("no picture")
    call = ("predict", scans, "-m", model_folder, "-o", out, "--recursive", "--manifest", manifest)
    code, text, _ = run(capsys, *call)
    assert (code, len(text.splitlines())) == (1, 4)
    head, *lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert set(head["run"]) == {"model", "options", "reading"}
    assert sum("error" in line for line in lines) == 1
    assert sum(sum(line.get("shares", {}).values()) for line in lines) == pytest.approx(4)
    (out / "sub" / "a.png").unlink()
    with manifest.open("a") as file:
        file.write('{"image": "cut sh')  # killed while it wrote
    Image.new("RGB", (20, 20)).save(scans / "sub" / "deep" / "bad.png")
    code, text, _ = run(capsys, *call)
    assert code == 0
    assert len(text.splitlines()) == 3  # the one that is gone, the one that failed, and the rest
    assert "3 of the pictures had their results already" in text
    lines = manifest.read_text().splitlines()
    assert len(lines) == 1 + 5 + 1 + 2
    torch.manual_seed(1)
    other = segzoo.Unet("resnet18", classes=3, depth=1).save_pretrained(tmp_path / "other")
    for change, word in (
        (("-m", other), "model"),
        (("--range", "0", "9"), "reading"),
        (("--tta", "flips"), "options"),
    ):
        code, _, err = run(capsys, *call, *change)
        assert code == 2
        assert f"another run (its {word} differ)" in err[0]
    # What was too large for the memory may be cut; what is done stays.
    code, text, _ = run(capsys, *call, "--tiling", "auto")
    assert (code, "5 of the pictures had their results already" in text) == (0, True)


@pytest.mark.parametrize("more", [(), ("--recursive",)])
def test_the_first_run_with_a_manifest_replaces_nothing(
    capsys, model_folder, scans, tmp_path, more
):
    out, manifest = tmp_path / "out", tmp_path / "run.jsonl"
    out.mkdir()
    (out / "a.png").write_text("somebody's")
    call = ("predict", scans, "-m", model_folder, "-o", out, "--manifest", manifest, *more)
    for _ in range(2):  # nor does the second, where the first did nothing
        code, _, err = run(capsys, *call)
        assert (code, len(err)) == (2, 1)
        assert "a.png exists already" in err[0]
    assert written(out) == ["a.png"]
    assert (out / "a.png").read_text() == "somebody's"
    assert not manifest.exists()
    assert run(capsys, *call, "--overwrite")[0] == 0
    assert (out / "a.png").read_bytes()[1:4] == b"PNG"


def test_shards_make_up_the_whole(capsys, model_folder, scans, tmp_path):
    call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "out", "--recursive")
    assert run(capsys, *call, "--no-overlays")[0] == 0
    whole = written(tmp_path / "out")
    assert whole == ["a.png", "sub/a.png", "sub/deep/B.png", "sub/deep/b_2.png"]
    counts = []
    for part in (1, 2, 3):
        call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "parts", "--recursive")
        code, text, _ = run(capsys, *call, "--no-overlays", "--shard", f"{part}/3")
        assert code == 0
        counts.append(len(text.splitlines()))
    assert sum(counts) == 4
    assert written(tmp_path / "parts") == whole
    for one, name in (("out", "sub/deep/b_2.png"), ("parts", "sub/deep/b_2.png")):
        assert (tmp_path / one / name).stat().st_size > 0
    code, _, err = run(capsys, *call, "--shard", "4/3")
    assert (code, len(err)) == (2, 1)
    assert "'4/3' is no part" in err[0]
    # Without subfolders too.
    parts = [
        run(capsys, *call[:-1], "--skip-existing", "--shard", f"{part}/2")[1] for part in (1, 2)
    ]
    assert sum("1 of the pictures" in part or "->" in part for part in parts) == 1


def test_a_folder_that_cannot_be_read_is_a_failure(
    capsys, model_folder, scans, tmp_path, monkeypatch
):
    close_folder(monkeypatch, "deep")
    call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "out", "--recursive")
    code, text, err = run(capsys, *call)
    assert (code, len(text.splitlines())) == (1, 2)
    assert "deep cannot be read: Permission denied." in err[-2]
    assert "Not all of the folders could be read" in err[-1]


def test_batches_and_tables(capsys, model_folder, scans, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "out", "--recursive")
    more = ("--batch-size", "4", "--manifest", tmp_path / "run.jsonl")
    table = tmp_path / "run.parquet"
    assert run(capsys, *call, *more, "--parquet", table)[0] == 0
    assert parquet.read_table(table).num_rows == 4
    code, _, err = run(capsys, *call, "--parquet", table)
    assert code == 2
    assert "give --manifest, too" in err[0]


@pytest.mark.parametrize(("package", "option"), [("pyarrow", "parquet"), ("ray", "engine")])
def test_packages_that_are_missing_are_told_at_once(
    capsys, scans, tmp_path, monkeypatch, package, option
):
    for name in (package, "ray.data", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    value = "ray" if option == "engine" else tmp_path / "x.parquet"
    call = ("predict", scans, "-m", "nosuch", "-o", tmp_path / "out", "--manifest", tmp_path / "m")
    code, _, err = run(capsys, *call, f"--{option}", value)
    assert (code, len(err)) == (2, 1)
    assert f'pip install "segzoo[{ {"engine": "ray"}.get(option, option) }]"' in err[0]
    assert not (tmp_path / "out").exists()


def test_jobs_for_others_are_looked_at_before(scans, tmp_path):
    """A worker that takes a killed one's place cannot tell what was there before."""
    out, refused = tmp_path / "out", []
    jobs = plan_jobs(sorted(scans.rglob("*.png")), out)
    out.mkdir()
    jobs[0].outputs(".tif").mask.touch()
    jobs[1].outputs().overlay.touch()
    chosen = Chosen(jobs, Task("m"), refused.append, check=True)
    assert list(chosen) == jobs[2:]
    assert ["exists already" in item.error for item in refused] == [True, True]
    # A picture beside its results is in nobody's way.
    (out / "x.tif").touch()
    assert list(Chosen([Job(out / "x.tif", out / "x")], Task("m"), print, check=True))
    # What is there is known without a look into the picture, where it can be.
    for path in jobs[2].outputs().paths:
        path.touch()
    chosen = Chosen(jobs[2:], Task("m"), print, skip_existing=True)
    assert list(chosen) == jobs[3:]
    assert chosen.skipped == 1


def test_a_picture_is_not_its_own_result(scans):
    picture = scans / "a.tif"
    Image.new("RGB", (20, 20)).save(picture)
    for image in (picture, Path(os.path.relpath(picture))):
        job = Job(image, scans / "masks" / ".." / "a")
        (scans / "masks").mkdir(exist_ok=True)
        (scans / "a.png").unlink(missing_ok=True)
        assert list(Chosen([job], Task("m"), print, skip_existing=True)) == [job]


@pytest.mark.parametrize("more", [("--skip-existing",), ("--manifest", "run.jsonl")])
@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_a_mask_that_is_there_stays(
    capsys, model_folder, scans, tmp_path, monkeypatch, more, workers
):
    """A run without overlays made it, and a person has mended it since."""

    def instead(jobs, task, done, *, workers, expected):
        PictureWorker(task, expected=expected).run(jobs, done)

    monkeypatch.setattr(engines, "do_in_processes", instead)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    call = ("predict", scans, "-m", model_folder, "-o", out, "--recursive", *more, *workers)
    assert run(capsys, *call, "--no-overlays")[0] == 0
    for name in written(out):
        Image.new("P", (40, 33), 1).save(out / name)
    (out / "sub" / "a.png").unlink()
    before = {name: (out / name).read_bytes() for name in written(out)}
    code, text, _ = run(capsys, *call)
    assert (code, "3 of the pictures had their results already" in text) == (0, True)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert set(written(out)) == {*before, "sub/a.png", "sub/a_overlay.png"}


@pytest.mark.parametrize(
    ("options", "engine"),
    [(("--workers", "3"), "do_in_processes"), (("--engine", "ray", "--workers", "3"), "do_on_ray")],
)
def test_others_get_all_that_was_asked_for(
    capsys, model_folder, scans, tmp_path, monkeypatch, options, engine
):
    """The processes themselves: tests/folders/test_killed.py, test_on_ray.py."""
    from segzoo.folders import on_ray

    monkeypatch.setattr(on_ray, "require_ray", lambda: None)
    calls = []

    def instead(jobs, task, done, *, workers, expected):
        worker = PictureWorker(task, expected=expected)
        worker.run(jobs, done)
        calls.append((workers, task))

    monkeypatch.setattr(engines, engine, instead)
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "a.png").write_text("mine")
    call = ("predict", scans, "-m", model_folder, "-o", out, "--recursive", *options)
    code, text, err = run(capsys, *call, "--range", "0", "200", "--no-overlays")
    assert (code, len(text.splitlines())) == (1, 3)
    assert "a.png exists already" in err[-2]
    assert (out / "sub" / "a.png").read_text() == "mine"
    ((workers, task),) = calls
    assert workers == 3
    assert task.tiles.overwrite  # what a killed one wrote is written again
    assert (task.reading.value_range, task.overlays) == ((0, 200), False)


# ---- streams -------------------------------------------------------------------------------


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("日本/ü.png") == "日本/ü.png"
    assert printable("\x1b[31m\udcff\u202e") == "\\x1b[31m\\udcff\\u202e"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes on Linux only")
def test_names_that_no_encoding_has(capsys, model_folder, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    name = os.fsdecode(b"\xff\x1b[31m\xc2\x85\xc2\x9b.png")
    Image.new("RGB", (20, 20)).save(folder / name)
    call = ("predict", folder, "-m", model_folder, "-o", tmp_path / "out", "--json")
    code, text, err = run(capsys, *call[:-1])
    assert (code, err) == (0, [])
    assert "\\udcff\\x1b[31m\\x85\\x9b.png" in text
    assert "\x1b" not in text
    code, text, _ = run(capsys, *call, "--overwrite")
    assert code == 0
    assert all(map(str.isprintable, text.split("\n")))
    assert Path(json.loads(text)["predictions"][0]["mask"]).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_masks_are_done_though_nobody_can_be_told(
    capsys, monkeypatch, model_folder, scans, tmp_path
):
    stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stdout", stream)
    call = ("predict", scans, "-m", model_folder, "-o", tmp_path / "out", "--recursive")
    assert main([str(part) for part in call]) == 2
    assert "No space left" in capsys.readouterr().err
    assert written(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    with contextlib.suppress(OSError):
        stream.close()


def test_names_in_any_encoding(monkeypatch, model_folder, tmp_path):
    (tmp_path / "scans").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "scans" / "\u65e5\u672c.png")
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    call = ("predict", tmp_path / "scans", "-m", model_folder, "-o", tmp_path / "out")
    assert main([str(part) for part in call]) == 0
    stream.flush()
    assert b"\\u65e5\\u672c.png" in stream.buffer.getvalue()


def test_output_of_any_encoding(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["info", "resnet18", "--arch", "unet"]) == 0
    stream.flush()
    assert b"\\u25ba" in stream.buffer.getvalue()
    assert stream.errors == "strict"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_to_a_full_disk(monkeypatch, capsys):
    stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["list", "resnet18"]) == 2
    assert "No space left" in capsys.readouterr().err
    with contextlib.suppress(OSError):
        stream.close()
