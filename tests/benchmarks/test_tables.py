"""The documentation's tables are made from the committed records."""

import pytest

from benchmarks import tables


def test_every_table_is_written(tmp_path):
    tables.write_all(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} >= tables.TABLES.keys()
    assert all(path.read_text().strip() for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["genericity", "flat_pyramid"])
def test_rows_are_as_wide_as_the_head(name):
    head, rule, *rows = tables.TABLES[name]().partition("\n\n")[0].splitlines()
    assert len(rows) >= 4
    assert all(line.count("|") == head.count("|") for line in (rule, *rows))
