"""Every snippet of the README and of the guides runs; every table is what the records say."""

import re
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/quickstart.md", "docs/resnet34.md", "docs/dynamic_unet.md")


def snippets(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = snippets(page, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_readmes_table_is_made_from_the_records():
    text = (ROOT / "README.md").read_text()
    table = re.search(r"<!-- table: rivals -->\n(.*?)<!-- end of table -->", text, flags=re.DOTALL)
    assert table is not None
    assert table[1].strip() == tables.rivals().strip(), "run: python -m benchmarks.tables"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
