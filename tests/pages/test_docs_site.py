"""The documentation in a browser: it fits every window, and what moves in it works."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from .browser import need, serving

DOCS = Path(__file__).parents[2] / "docs" / "_build" / "html"
PHONE = {"width": 400, "height": 800}
#: Whether the page, or something in the article that is not scrolled by itself, is too wide.
TOO_WIDE = """() => {
    const width = document.documentElement.clientWidth;
    const scrolled = (element) => {
        for (let above = element; above.tagName !== "ARTICLE"; above = above.parentElement)
            if (getComputedStyle(above).overflowX !== "visible") return true;
        return false;
    };
    const found = [...document.querySelectorAll("article *")].find(
        (element) => element.getBoundingClientRect().right > width + 1 && !scrolled(element));
    if (found) return found.outerHTML.slice(0, 200);
    return document.documentElement.scrollWidth > width ? "the page" : "";
}"""


@pytest.fixture(scope="module")
def docs():
    need((DOCS / "index.html").is_file(), "the documentation (make docs)")
    with serving(DOCS) as site:
        yield site


def test_no_page_is_wider_than_a_phone(browser, docs):
    # Source code is not wrapped, and scrolls; the pages of architectures are made by one function.
    places = [*DOCS.glob("*.html"), *sorted(DOCS.glob("architectures/*.html"))[::4]]
    places += DOCS.glob("tutorials/**/*.html")
    assert len(places) > 30
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    wide = {}
    for path in places:
        name = path.relative_to(DOCS).as_posix()
        page.goto(docs.url + name, wait_until="domcontentloaded")
        wide[name] = page.evaluate(TOO_WIDE)
    context.close()
    assert {name: found for name, found in wide.items() if found} == {}


def test_the_model_on_the_first_page_begins_with_its_example(tab, docs):
    need((DOCS / "live" / "page.json").is_file(), "the runtime, for which the docs ask npm")
    page = tab(docs, viewport=PHONE, color_scheme="null").page  # what a page chooses counts
    frame = page.locator("iframe.live")
    frame.scroll_into_view_if_needed()  # it is not loaded before somebody comes near
    inside = frame.content_frame
    inside.locator("#result:not([hidden])").wait_for()
    assert "coin" in inside.locator("#status").inner_text()
    assert inside.locator("#messages li").count() == 0
    for theme in ("dark", "light"):
        page.evaluate("(theme) => { document.body.dataset.theme = theme; }", theme)
        page.frames[1].wait_for_function(
            "(theme) => matchMedia(`(prefers-color-scheme: ${theme})`).matches", arg=theme
        )


def test_the_table_of_encoders_is_searched_filtered_and_sorted(tab, docs):
    page = tab(docs).page
    page.goto(docs.url + "encoders.html")
    rows = page.locator(".encoder-table tbody tr:visible th")
    count = page.locator("#encoder-count")
    everything = rows.count()
    words = page.get_by_label("Search names")
    words.fill("resnet34 apache")
    names = rows.all_inner_texts()
    assert "resnet34" in names
    assert len(names) < everything
    assert all("resnet34" in name for name in names)
    assert count.inner_text() == f"{len(names)} of {everything} encoders"
    words.fill("no such encoder")
    assert (rows.count(), count.inner_text()) == (0, f"0 of {everything} encoders")
    page.get_by_role("button", name="Show all").click()
    page.get_by_text(f"{everything} of {everything} encoders").wait_for()

    page.get_by_label("Million parameters").fill("1")
    page.get_by_label("Licence", exact=True).select_option("mit")
    page.get_by_label("Pretrained weights").select_option("some")
    few = rows.count()
    assert 0 < few < 100
    assert (
        few
        == page.locator(".encoder-table tbody tr:visible td:nth-child(7):text-is('mit')").count()
    )

    head = page.get_by_role("columnheader", name="parameters")
    head.get_by_role("button").focus()
    cells = page.locator(".encoder-table tbody tr:visible td:nth-child(2)")
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        sizes = [float(text.removesuffix(" M")) for text in cells.all_inner_texts()]
        assert sizes == sorted(sizes, reverse=direction == "descending")
        assert max(sizes) <= 1


def test_the_table_of_encoders_fits_the_window(browser, docs):
    context = browser.new_context()
    page = context.new_page()
    page.goto(docs.url + "encoders.html")
    for width in (400, 800, 1300, 2000):
        page.set_viewport_size({"width": width, "height": 900})
        for selector in ("html", ".encoder-table"):
            shown, whole = page.locator(selector).evaluate("(e) => [e.clientWidth, e.scrollWidth]")
            assert whole <= shown, (width, selector)
    context.close()


# Versions, each in a folder of one site


@pytest.fixture(scope="module")
def versioned():
    """The script that puts them side by side."""
    spec = importlib.util.spec_from_file_location("versions", DOCS.parents[1] / "versions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(folder: Path, *names: str) -> Path:
    """A site of a few pages that are as the real ones, where those are there."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"<title>{name}</title>")
    return folder


def test_a_site_lists_its_versions_and_leads_to_the_newest_release(versioned, tmp_path):
    old, site = built(tmp_path / "old", "index.html", "gone.html"), tmp_path / "site"
    assert versioned.add(old, site, "dev") == ["dev"]
    assert "url=dev/" in (site / "index.html").read_text()
    for name in ("0.9.0", "0.10.0", "1.0rc1"):
        versioned.add(old, site, name)
    for name in ("1.0rc1", "dev"):
        listed = json.loads((site / name / "versions.json").read_text())
        assert listed == ["1.0rc1", "0.10.0", "0.9.0", "dev"]
    assert "url=0.10.0/" in (site / "index.html").read_text()  # what is not final is no release
    versioned.add(built(tmp_path / "new", "index.html"), site, "0.10.0")
    assert not (site / "0.10.0" / "gone.html").exists()
    assert (site / "0.9.0" / "gone.html").exists()
    assert not list(site.glob(".*.new"))


def test_without_a_built_site_nothing_is_changed(versioned, tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make docs` first"):
        versioned.add(tmp_path, tmp_path / "site", "0.1.0")
    assert not (tmp_path / "site").exists()


@pytest.mark.usefixtures("docs")
@pytest.mark.speaks  # the browser tells of the page that is not there
def test_a_page_leads_to_itself_in_another_version(versioned, tab, tmp_path):
    site = tmp_path / "site"
    versioned.add(DOCS, site, "0.2.0")
    versioned.add(DOCS, site, "dev")
    versioned.add(built(tmp_path / "old", "index.html"), site, "0.1.0")
    with serving(site) as served:
        page = tab(served).page
        page.wait_for_url("**/0.2.0/")  # where the first page leads
        assert page.locator(".versions option").all_inner_texts() == ["0.2.0", "0.1.0", "dev"]
        assert page.locator(".versions-note").count() == 0
        page.goto(f"{served.url}dev/architectures/unet.html#segzoo")
        assert "the newest release is segzoo 0.2.0" in page.locator(".versions-note").inner_text()
        menu = page.get_by_label("Version")
        assert menu.input_value() == "dev"
        menu.select_option("0.2.0")
        page.wait_for_url("**/0.2.0/architectures/unet.html#segzoo")
        page.get_by_label("Version").select_option("0.1.0")  # which has no such page
        page.wait_for_url("**/0.1.0/")


def test_alone_a_version_has_no_menu(docs, tab):
    page = tab(docs).page
    page.goto(f"{docs.url}index.html")
    page.wait_for_load_state("networkidle")
    assert page.locator(".versions").count() == 0
