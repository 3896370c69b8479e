"""All that is compared on CamVid goes through its loop; here on a few small squares."""

from __future__ import annotations

import pytest

import segzoo
from benchmarks import camvid, camvid_training

from ..training.toys import Blobs


@pytest.fixture(autouse=True)
def small(monkeypatch):
    blobs = Blobs(5, ignore_index=camvid.VOID), Blobs(2, seed=1, ignore_index=camvid.VOID)
    splits = segzoo.DataSplits.of(*blobs, classes=camvid_training.CLASSES, ignore_index=camvid.VOID)
    monkeypatch.setattr(camvid_training, "data", lambda: splits)
    monkeypatch.setattr(camvid_training, "ENCODER", "test_resnet")
    monkeypatch.setattr(camvid_training, "SIZE", (32, 64))
    monkeypatch.setattr(camvid_training, "BATCH", 2)


@pytest.mark.filterwarnings("ignore")  # of smp
@pytest.mark.parametrize("system", camvid_training.TRAINERS)
def test_a_system_is_trained_and_scored(system):
    found = camvid_training.TRAINERS[system](2, 0)
    assert found["epochs"] == len(found["curve"]) == 2
    assert found["cpu_seconds"] > 0
    # The best is scored once more, in float32.
    assert found["miou"] == pytest.approx(max(found["curve"]), abs=0.02)
    summary = camvid_training.report([{"system": system, "length": 2, "seed": 0, **found}])
    assert [row["system"] for row in summary["summary"]] == [system]
