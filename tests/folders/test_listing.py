"""Folders as a stream of jobs: the order, the parts, what cannot be read."""

import itertools

import pytest

from segzoo.errors import ArgumentError, InputError
from segzoo.folders.jobs import check_outputs, plan_jobs
from segzoo.folders.listing import FolderJobs
from segzoo.folders.shards import Shard

from ..helpers import close_folder


@pytest.fixture
def scans(tmp_path):
    for name in ("b.png", "a.jpg", "a.png", "sub/a.png", "sub/notes.txt", ".h/x.png", ".i.png"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "scans"


def targets(jobs, out):
    return [job.target.relative_to(out).as_posix() for job in jobs]


def test_the_order_is_that_of_names_and_folders_are_mirrored(scans, tmp_path):
    jobs = FolderJobs([scans], tmp_path / "out")
    assert targets(jobs, tmp_path / "out") == ["a", "a_2", "b", "sub/a"]
    assert jobs.left_out == {".txt": 1}
    # Folders with subfolders of one name share what is in the results.
    twice = FolderJobs([scans, scans / "sub"], tmp_path / "out")
    assert targets(twice, tmp_path / "out") == ["a", "a_2", "b", "sub/a", "a_3"]


def test_shards_are_parts_with_the_names_of_the_whole(scans, tmp_path):
    whole = list(FolderJobs([scans], tmp_path / "out"))
    parts = [list(FolderJobs([scans], tmp_path / "out", shard=Shard(i, 3))) for i in (1, 2, 3)]
    assert sorted(itertools.chain(*parts), key=whole.index) == whole
    moved = scans.rename(tmp_path / "elsewhere")
    again = [list(FolderJobs([moved], tmp_path / "out", shard=Shard(i, 3))) for i in (1, 2, 3)]
    assert [targets(part, tmp_path / "out") for part in again] == [
        targets(part, tmp_path / "out") for part in parts
    ]


def test_a_folder_that_cannot_be_read_is_told(scans, tmp_path, monkeypatch):
    close_folder(monkeypatch, "sub")
    jobs = FolderJobs([scans], tmp_path / "out")
    assert len(list(jobs)) == 3
    (said,) = jobs.unreadable
    assert said.startswith(f"The folder {scans / 'sub'} cannot be read: Permission denied. Allow")


def test_wrong_paths_are_told_before_anything_is_done(scans, tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        FolderJobs([tmp_path / "nosuch"], tmp_path / "out")
    with pytest.raises(ArgumentError, match="among the pictures"):
        FolderJobs([scans], scans / "sub" / "masks")


def test_results_that_would_come_back_among_the_pictures(scans, tmp_path):
    # scans/scans/c.png would become scans/c.png, which may be a picture.
    (scans / "scans").mkdir()
    (scans / "scans" / "c.png").touch()
    jobs = iter(FolderJobs([scans], tmp_path))
    assert [job.image.name for job in itertools.islice(jobs, 3)] == ["a.jpg", "a.png", "b.png"]
    with pytest.raises(ArgumentError, match="among the pictures"):
        next(jobs)
    with pytest.raises(ArgumentError, match=r"a\.png is one of the pictures"):
        list(FolderJobs([scans / "sub", scans / "a.png"], scans))


def test_a_name_that_is_too_long_for_its_results_stops_nothing(tmp_path):
    (job,) = jobs = plan_jobs([tmp_path / f"{'n' * 250}.png"], tmp_path)
    check_outputs(jobs, lambda _: None, overwrite=False)
    assert not job.outputs().exist()


def test_pictures_are_opened_beforehand_only_where_a_result_may_be_in_the_way(scans, tmp_path):
    jobs = plan_jobs(sorted(scans.glob("*.*")), tmp_path / "out")
    opened = []

    def plain(image):
        opened.append(image.name)

    check_outputs(jobs, plain, overwrite=False)
    assert opened == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.tif").touch()  # of a picture with a place on the ground, which b is not
    check_outputs(jobs, plain, overwrite=False)
    assert opened == ["b.png"]
    with pytest.raises(ArgumentError, match=r"b\.tif exists already"):
        check_outputs(jobs, lambda _: ".tif", overwrite=False)
    check_outputs(jobs, lambda _: ".tif", overwrite=True)
    inside = plan_jobs(sorted(scans.glob("*.png")), scans)
    with pytest.raises(ArgumentError, match="is one of the pictures"):
        check_outputs(inside, plain, overwrite=True)
