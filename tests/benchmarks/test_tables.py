"""The documentation's tables are made from the committed records."""

import pytest

from benchmarks import tables


def test_every_table_is_written(tmp_path):
    tables.write_all(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} >= tables.TABLES.keys()
    texts = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert all(text.strip() for text in texts.values())
    # A record may be put aside for one of another processor, and must not be without a newest one.
    assert [name for name, text in texts.items() if "*Not measured yet:*" in text] == []


@pytest.mark.parametrize("name", ["genericity", "flat_pyramid"])
def test_rows_are_as_wide_as_the_head(name):
    head, rule, *rows = tables.TABLES[name]().partition("\n\n")[0].splitlines()
    assert len(rows) >= 4
    assert all(line.count("|") == head.count("|") for line in (rule, *rows))
