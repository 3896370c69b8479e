"""Coverage, speed and pages of all architectures: what is tried, kept, compared and written."""

from __future__ import annotations

import pytest

import segzoo
from benchmarks import architecture_chooser, architecture_coverage, architecture_pages
from benchmarks import architecture_speed as speed
from benchmarks.architecture_coverage import attempt, report, sweep
from benchmarks.parity import tables
from segzoo.errors import ArgumentError
from segzoo.registry import BUILT_IN

GUIDE = architecture_pages.GUIDE.read_text()


def test_a_pair_works_or_says_why(monkeypatch):
    row = attempt("FCN", "test_resnet")
    assert row["result"] == "ok"
    assert row["seconds"] > 0

    def refuse(*_, **__):
        raise ArgumentError("not this one")

    def fail(*_, **__):
        raise RuntimeError("no maps")

    monkeypatch.setattr(architecture_coverage, "create_model", refuse)
    row = attempt("FCN", "test_resnet")
    assert (row["result"], row["refused"]) == ("ArgumentError: not this one", True)
    monkeypatch.setattr(architecture_coverage, "create_model", fail)
    row = attempt("FCN", "test_resnet")
    assert row["result"] == "RuntimeError: no maps"
    assert "refused" not in row


def test_pairs_are_tried_once_and_alone_where_a_process_died(tmp_path, monkeypatch):
    log, calls = tmp_path / "log.jsonl", []
    log.write_text('{"architecture": "Unet", "encoder": "a", "result": "ok"}\n{"architecture": "FP')

    def in_process(trial, *arguments, seconds):
        calls.append((trial.__name__, *arguments[:2]))
        if trial is attempt:
            return "over 120 s"
        names, encoder, path = arguments
        architecture_coverage.write(path, names[0], encoder, {"result": "ok", "seconds": 1})
        return "died"  # after the first

    monkeypatch.setattr(architecture_coverage, "in_process", in_process)
    rows = sweep(["Unet", "FPN", "PAN"], ["a"], log)
    assert calls == [("attempts", ["FPN", "PAN"], "a"), ("attempt", "PAN", "a")]
    assert [row["result"] for row in rows] == ["ok", "ok", "over 120 s"]
    found = report(rows)
    assert (found["works_at_all_sizes"], found["pairs"]) == (2, 3)
    assert found["exceptions"] == [{"architecture": "PAN", "encoder": "a", "result": "over 120 s"}]
    calls.clear()
    assert sweep(["Unet", "FPN", "PAN"], ["a"], log) == rows
    assert not calls


def result(ratio, reason=None):
    row = {"ms": {"median": 10.0, "min": 9.0, "max": 11.0}, "difference": 1e-6, "build_s": 1.0}
    ways = {
        name: {**row, "to_best_rival": ratio}
        for names in speed.COMPARISONS.values()
        for name in names
    }
    found = {"no_rival": reason, "best_rival": "smp channels_last", "ways": ways}
    return {"results": [found], "left_out": {}}


def test_both_comparisons_are_made_once_on_an_encoder_that_smp_has(tmp_path, monkeypatch, capsys):
    asked = []

    def run(settings, *, minutes, options):
        (setting,) = settings
        asked.append((setting.arch, setting.encoder, options["only"]))
        if setting.arch == "dpt" and setting.encoder == "resnet34":
            return result(1, "smp cannot")
        if setting.arch == "pan":
            return {"results": [], "left_out": {"x": "it died"}}
        return result(1.5 if setting.arch == "dpt" else 1.25)

    monkeypatch.setattr(speed, "run", run)
    log = tmp_path / "log.jsonl"
    rows = speed.sweep(["DPT", "FPN", "PAN"], [1], log, rounds=3, limit=1.0)
    eager, optimized = speed.COMPARISONS.values()
    vit = speed.ENCODERS[1]
    assert asked[:3] == [("dpt", "resnet34", eager), ("dpt", vit, eager), ("dpt", vit, optimized)]
    assert [row["encoder"] for row in rows] == [vit, "resnet34", "resnet34"]
    assert rows[0]["optimized"]["ratio"] == 1.5
    assert rows[2]["eager"] == {"failed": "it died"}
    expected = {"median": 1.375, "least": 1.25, "of": 2}
    assert speed.summary(rows) == {f"{title}, 1 thread": expected for title in speed.COMPARISONS}
    asked.clear()
    assert speed.sweep(["DPT", "FPN", "PAN"], [1], log, rounds=3, limit=1.0) == rows
    assert {arch for arch, _, _ in asked} == {"pan"}  # what failed is tried again


def test_a_wrong_rival_is_told_and_the_next_taken():
    names = speed.COMPARISONS["optimized"]
    found = result(1.5)
    (measured,) = found["results"]
    measured["ways"][names[1]] = {"not_timed": "wrong output"}
    row = speed.compared(found, *names)
    assert (row["ratio"], row["rival"]) == (1.5, "smp channels_last")
    assert row["not_timed"] == {names[1]: "wrong output"}
    measured["best_rival"] = None
    assert speed.compared(found, *names) == {"failed": "smp compiled, frozen: wrong output"}
    measured["ways"][names[0]] = {"not_timed": "it died"}
    assert speed.compared(found, *names) == {"failed": "segzoo optimize: it died"}


def test_all_of_smp_s_architectures_are_compared():
    assert len(speed.NAMES) == 12
    assert "DynamicUnet" not in speed.NAMES


def test_work_is_counted_where_there_are_two():
    found = speed.work("UnetPlusPlus", "resnet18", size=64)
    ours, theirs = found["gflops"]
    assert 0 < ours == theirs
    ours, theirs = found["allocated_mib"]
    assert 0 < ours < theirs  # maps that are concatenated are not concatenated twice
    assert "no_rival" in speed.work("DPT", "resnet18", size=64)


def test_images_a_second():
    refused = architecture_chooser.measure("EoMT", "test_resnet", size=64)
    assert set(refused) == {"architecture", "encoder", "refused"}
    row = architecture_chooser.measure("FCN", "test_resnet", size=64)
    for way in ("eager", "optimized"):
        assert row[way]["images_per_second"] == pytest.approx(1e3 / row[way]["ms"]["median"], 0.01)


def test_speeds_and_ratios_become_tables(monkeypatch):
    ms = {"median": 10.0}
    both = {"ratio": 1.2, "smp_ms": {"median": 12.0}, "segzoo_ms": ms}
    found = {"architecture": "FCN", "encoder": "resnet34", "threads": 2}
    way = {"images_per_second": 100.0, "ms": ms}
    refused = {"architecture": "FCN", "encoder": "vit", "refused": "not this one"}
    records = {
        "architecture_speed": [{**found, "eager": both, "optimized": {"failed": "it died"}}],
        "architecture_chooser": [{**found, "eager": way, "optimized": way}, refused],
    }
    monkeypatch.setattr(tables, "exists", lambda name: name in records)
    monkeypatch.setattr(tables, "record", lambda name: {"rows": records[name]})
    row = "| `FCN` | resnet34 | 2 | 1.20 (12 ms, 10 ms) | it died |"
    assert f"{row} not counted | not counted |" in tables.architecture_speed()
    records["architecture_speed"][0]["work"] = {"gflops": [9.0, 10.0], "allocated_mib": [3.0, 3.0]}
    assert f"{row} 0.900 | 1.000 |" in tables.architecture_speed()
    assert "| `FCN` | 100.0, 100.0 | - |" in tables.architecture_chooser()
    assert tables.speeds_of("FCN") == {"resnet34": {"eager": 100.0, "optimized": 100.0}}
    assert "Not measured yet" in tables.architecture_coverage()


# Pages


@pytest.mark.parametrize("name", ["Unet", "DPT"])
def test_a_page_says_what_it_is_when_to_take_it_and_what_it_costs(name):
    text = architecture_pages.page(name)
    assert text.startswith(f"# {name}\n")
    assert f"{name} on resnet34" in text
    assert "## When to choose it" in text
    assert "| `resnet34` |" in text
    assert ":class:" not in text.replace("{py:class}", "")


def test_every_architecture_has_a_paper_and_advice():
    for name in BUILT_IN:
        getattr(segzoo, name)
        assert any(
            year in architecture_pages.description(name) for year in map(str, range(2015, 2030))
        ), name
        assert architecture_pages.advice(GUIDE, name), (
            f"docs/architectures.md: no row of the table 'Which one' recommends `{name}`"
        )


def test_pages_of_what_is_gone_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(architecture_pages, "page", lambda name: f"# {name}\n")
    (tmp_path / "old.md").write_text("# Old\n")
    architecture_pages.write_pages(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(BUILT_IN.values())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    architecture_pages.write_pages(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
