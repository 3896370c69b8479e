"""The five sentences with figures say what the records say, whatever that is."""

import copy

import pytest

from benchmarks import figures, tables
from benchmarks.records import record


@pytest.fixture
def records(monkeypatch):
    """Copies of the records that a test may change."""
    changed = {}

    def find(name):
        return changed.setdefault(name, copy.deepcopy(record(name)))

    monkeypatch.setattr(figures, "record", find)
    return find


def test_each_line_has_its_figure_and_where_it_was_measured():
    lines = figures.figures("docs/").splitlines()
    assert len(lines) == 5
    assert all("([measured](docs/" in line and any(map(str.isdigit, line)) for line in lines)


def test_what_works_is_counted(records):
    records("coverage")["works_at_all_sizes"] = {"segzoo": 1200, "smp": 800}
    assert "on 1200 of timm's 1371" in figures.backbones()
    assert "(smp): 800." in figures.backbones()


def test_what_is_equal_to_the_bit_is_counted(records):
    before = figures.architectures()
    row = next(row for row in records("architecture_parity")["rows"] if "128x128" in row)
    row["192x256"]["difference"] = 1e-9
    pairs = [row for row in records("architecture_parity")["rows"] if "smp" not in row]
    equal = sum("refused" not in row for row in pairs)
    assert f"encoder {equal} have" in before
    assert f"encoder {equal - 1} have" in figures.architectures()


def test_what_was_flipped_lost_or_failed_is_counted(records):
    rows = records("tiling")["rows"]
    next(row for row in rows if row["method"].startswith("exact"))["flipped"] = 0.25
    height, width = records("tiling")["size"]
    assert f" {height * width / 4:.0f} of 2.2 million pixels" in figures.tiles()
    records("kills")["actions"]["save"]["whole"] -= 1
    records("attacks")["kinds"]["picture"]["failed"] += 2
    assert "299 of 300 kills" in figures.strangers()
    assert "178 of 180 hostile files" in figures.strangers()


def test_the_fastest_of_each_is_named(records):
    ways = records("throughput_cpu")["results"][0]["ways"]
    ways["segzoo eager"]["images_per_second"] = 99.5
    ways["smp eager"]["images_per_second"] = 98.25
    assert (
        "99.5 images a second on a CPU (eager); smp at its fastest (eager) 98.25" in figures.speed()
    )
    assert figures.fastest({"ways": {}}, "smp") == ("", 0.0)


def test_a_readme_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="no place for the table figures"):
        tables.readme("# segzoo\n")
