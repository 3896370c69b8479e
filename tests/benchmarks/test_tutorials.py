"""The tutorials run, their records are of their text, and their notebooks are notebooks."""

from __future__ import annotations

import ast
import json
import os
import re

import matplotlib
import pytest

from benchmarks.tutorials import cells, pages, record
from benchmarks.tutorials.execute import execute
from segzoo.pages import runtime
from tests.pages.browser import need

#: All but the one that fastai is in, whose dependencies warn.
STRICT = [name for name in cells.names() if name != "from-fastai"]


def run(name, folder):
    """The cells of a page in their small form, or as they stand where SEGZOO_SWEEP is set."""
    tutorial = cells.read(name)
    whole = "".join(cell.source for cell in tutorial.cells)
    assert [shown for shown in tutorial.smaller if shown not in whole] == []
    sweep = bool(os.environ.get("SEGZOO_SWEEP"))

    def change(source):
        for shown, used in () if sweep else tutorial.smaller.items():
            source = source.replace(shown, used)
        return source

    matplotlib.use("Agg")
    outputs = execute(tutorial, folder, change=change, torchrun=sweep)
    recorded = record.shown(tutorial)
    # What was shown once is shown again; what it says depends on how long was learned.
    assert [bool(output.text) for output in outputs] == [bool(cell.text) for cell in recorded]
    assert [len(output.pictures) for output in outputs] == [len(c.pictures) for c in recorded]
    return outputs


@pytest.mark.parametrize("name", STRICT)
def test_a_tutorial_runs(name, tmp_path):
    if name == "browser":
        need(runtime.is_cached(), "the runtime of pages (python -m segzoo.pages.runtime)")
    run(name, tmp_path)


@pytest.mark.filterwarnings("ignore")  # of fastai's dependencies
def test_the_tutorial_of_fastai_runs(tmp_path):
    outputs = run("from-fastai", tmp_path)
    assert any("largest difference: 0.0" in output.text for output in outputs)


@pytest.mark.parametrize("name", cells.names())
def test_a_notebook_is_one(name):
    tutorial = cells.read(name)
    made = pages.notebook(tutorial)
    assert json.loads(json.dumps(made)) == made
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in made["cells"]]
    assert len(set(names)) == len(names)
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert len(code) == len(tutorial.cells)
    for cell in code:
        lines = cell["source"].splitlines()
        if not all(line.startswith("!") for line in lines):
            ast.parse(cell["source"])
    texts = [cell for cell in made["cells"] if cell["cell_type"] == "markdown"]
    assert re.match(r"# \S", texts[0]["source"])
    for cell in texts:  # it is read outside of the site
        assert not re.search(r"\]\(\.\.|\]\(\w+\.md|\{py:|<!--", cell["source"])
        for picture in re.findall(r"\(attachment:(.*?)\)", cell["source"]):
            assert cell["attachments"][picture]["image/png"]


@pytest.mark.parametrize("name", cells.names())
def test_a_page_has_what_its_cells_gave(name):
    tutorial = cells.read(name)
    page = pages.page(tutorial)
    for shown in record.shown(tutorial):
        assert shown.text in page
        for picture in shown.pictures:
            assert f"(outputs/{picture})" in page
            assert (cells.OUTPUTS / picture).read_bytes().startswith(b"\x89PNG")
    assert f"generated/notebooks/{name}.ipynb" in page


def test_every_tutorial_is_in_the_list_and_every_picture_is_shown():
    listed = (cells.FOLDER / "index.md").read_text()
    assert all(f"\n{name}\n" in listed for name in cells.names())
    there = {path.name for path in cells.OUTPUTS.glob("*.png")}
    shown = {
        p for name in cells.names() for s in record.shown(cells.read(name)) for p in s.pictures
    }
    assert there == shown


TEXT = """# Title

Words.

<!-- smaller: "n = 9" -> "n = 1" -->

```python
n = 9
print(n)
n + 1
```

```bash
not run
```

```console
$ segzoo --version
$ echo 1 \\
  2
```
"""


def test_cells_run_from_top_to_bottom(tmp_path):
    tutorial = cells.parse("small", TEXT)
    assert [cell.language for cell in tutorial.cells] == ["python", "console"]
    assert tutorial.smaller == {"n = 9": "n = 1"}
    first, second = execute(tutorial, tmp_path)
    assert first.text == "9\n10"
    assert re.fullmatch(r"segzoo \S+\n1 2", second.text)
    assert execute(tutorial, tmp_path, change=lambda s: s.replace("9", "1"))[0].text == "1\n2"


def test_a_command_that_fails_stops_a_tutorial(tmp_path):
    tutorial = cells.parse("wrong", "# T\n\n```console\n$ segzoo trian\n```\n")
    with pytest.raises(RuntimeError, match="ended with 2"):
        execute(tutorial, tmp_path)


def test_a_record_of_another_text_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "read", lambda name: {"cells_sha256": "of another", "cells": []})
    with pytest.raises(ValueError, match=r"run small"):
        record.shown(cells.parse("small", TEXT))


def test_a_record_replaces_the_one_before(tmp_path):
    tutorial = cells.parse("small", TEXT)
    (tmp_path / "small-9a.png").write_bytes(b"old")
    outputs = execute(tutorial, tmp_path)
    record.write(tutorial, outputs, tmp_path)
    found = record.read("small", tmp_path)
    assert found["cells"][0] == {"text": "9\n10", "pictures": []}
    assert found["environment"]["packages"]["torch"]
    assert not (tmp_path / "small-9a.png").exists()
