"""How time and memory grow: what is measured, gone on with, and shown."""

import json

import pytest

from benchmarks import growth, growth_tables
from benchmarks.growth import Point


def test_a_point_is_measured_in_turn_and_what_failed_is_told(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("not enough memory\nfor this")

    monkeypatch.setattr(growth, "ENCODER", "test_resnet")
    monkeypatch.setattr(growth, "ROUNDS", ((32**2, 2), (64**2, 1)))
    monkeypatch.setattr(growth, "TUNED", 32**2)
    monkeypatch.setattr(growth, "optimized", growth.eager)  # which takes seconds less
    monkeypatch.setattr(growth, "compiled", fail)
    point = Point("side", batch=2, side=32, classes=2)  # more pixels than it is tuned for
    row = growth.measure(point)
    assert row["value"] == 32
    assert list(row["ways"]) == [growth.OURS, growth.THEIRS, growth.FAST, growth.FROZEN]
    assert row["ways"].pop(growth.FROZEN) == {"failed": "not enough memory"}
    for way in row["ways"].values():
        assert way["difference"] < 1e-4
        assert way["ms"]["median"] > 0
        assert way["peak_mib"] >= 0
    assert row["ways"][growth.THEIRS]["to_smp"] == 1


def way(ms, mib):
    return {"ms": {"median": ms}, "peak_mib": mib}


def test_a_sweep_goes_on_and_its_rows_become_a_table_and_a_picture(tmp_path, monkeypatch):
    tried = []

    def in_process(trial, point, **limits):
        tried.append((point.value, limits["gibibytes"]))
        if point.side == 4096:
            return "died (memory limit 20 GiB?)"
        ways = {name: way(point.pixels / 1e4, 10) for name in growth_tables.STYLES}
        return {**vars(point), "value": point.value, "ways": ways}

    monkeypatch.setattr(growth, "in_process", in_process)
    log = tmp_path / "log.jsonl"
    points = [Point("side", side=side) for side in (128, 4096)]
    assert growth.sweep(points[:1], log) == growth.sweep(points, log)[:1]
    assert tried == [(128, 20), (4096, 20)]
    assert len(log.read_text().splitlines()) == 2
    rows = growth.sweep(growth.POINTS, log)
    monkeypatch.setattr(growth_tables, "exists", lambda name: True)
    monkeypatch.setattr(growth_tables, "record", lambda name: {"rows": rows})
    text = growth_tables.growth()
    assert "| 256 | 1 | 7 (100), 10 |" in text
    assert "- side of one image: 4096, threads: 1: died (memory limit 20 GiB?)" in text
    growth_tables.plot(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    json.dumps(rows)


@pytest.mark.parametrize("name", ["axis", "batch", "side", "classes", "threads"])
def test_points_are_all_different(name):
    assert len(set(growth.POINTS)) == len(growth.POINTS)
    assert len({getattr(point, name) for point in growth.POINTS}) > 1
