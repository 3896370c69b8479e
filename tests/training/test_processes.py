"""Who trains along: what launchers start, and what is refused before anything is waited for."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from segzoo.errors import ArgumentError, MissingPackageError
from segzoo.training import processes
from segzoo.training.loaders import default_workers
from segzoo.training.processes import Processes


@pytest.fixture
def launched(monkeypatch):
    """Two processes, and an accelerate that says how they were launched."""

    def launch(kind):
        made = SimpleNamespace(
            distributed_type=SimpleNamespace(value=kind),
            num_processes=2,
            process_index=1,
            device="where accelerate says",
        )
        package = SimpleNamespace(Accelerator=lambda **options: made)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(processes, "load_package", lambda name, *, extra: package)

    return launch


@pytest.mark.parametrize("kind", ["MULTI_CPU", "MULTI_GPU", "MULTI_XPU"])
def test_processes_are_joined(launched, kind):
    launched(kind)
    found = Processes("auto")
    assert (found.count, found.index, found.first) == (2, 1, False)
    assert found.device == "where accelerate says"
    alone = found.alone()
    assert (alone.count, alone.first, found.count) == (1, True, 2)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_to_cut_a_model_are_refused_with_ours(launched, kind):
    launched(kind)
    with pytest.raises(ArgumentError, match=rf"launched for {kind}.*sharding='full'"):
        Processes("cpu")


def test_one_device_for_several_processes_is_refused(launched):
    launched("MULTI_GPU")
    with pytest.raises(ArgumentError, match=r"'cuda:1' names one device for 2 processes"):
        Processes("cuda:1")


def test_several_processes_need_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingPackageError, match=r"segzoo\[train\]"):
        Processes("cpu")


@pytest.mark.parametrize(("value", "count"), [("3", 3), ("", 1), ("many", 1)])
def test_launchers_say_how_many_there_are(monkeypatch, value, count):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", value)
    assert processes.launched() == count


@pytest.mark.parametrize(
    ("told", "count", "here", "first"),
    [
        ({}, 1, 1, True),
        ({"RANK": "1"}, 1, 1, True),  # of whoever sets it: nobody was launched
        ({"WORLD_SIZE": "8", "RANK": "0", "LOCAL_WORLD_SIZE": "4"}, 8, 4, True),
        ({"WORLD_SIZE": "8", "RANK": "5", "LOCAL_WORLD_SIZE": "4"}, 8, 4, False),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2, 1, False),
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}, 2, 2, False),
        ({"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALNRANKS": "2"}, 2, 2, True),
        (
            {
                "MV2_COMM_WORLD_SIZE": "4",
                "MV2_COMM_WORLD_RANK": "3",
                "MV2_COMM_WORLD_LOCAL_SIZE": "2",
            },
            4,
            2,
            False,
        ),
    ],
)
def test_one_of_those_that_a_launcher_started_talks(monkeypatch, told, count, here, first):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert processes.launched() == count
    assert processes.launched_here() == here
    assert processes.is_first() is first
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert default_workers() == 8 // here
