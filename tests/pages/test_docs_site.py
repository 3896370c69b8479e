"""The documentation in a browser: it fits every window, and what moves in it works."""

from __future__ import annotations

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
    places = [path for path in DOCS.rglob("*.html") if not {"_modules", "live"} & {*path.parts}]
    assert len(places) > 40
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
    page = tab(docs, viewport=PHONE, color_scheme="light").page
    frame = page.locator("iframe.live")
    frame.scroll_into_view_if_needed()  # it is not loaded before somebody comes near
    inside = frame.content_frame
    inside.locator("#result:not([hidden])").wait_for()
    assert "coin" in inside.locator("#status").inner_text()
    assert inside.locator("#messages li").count() == 0
    back = "getComputedStyle(document.body).backgroundColor"
    light = inside.locator("body").evaluate(f"() => {back}")
    page.evaluate("document.body.dataset.theme = 'dark'")
    inside.locator("body").evaluate(
        "(body, light) => new Promise((done) => { const look = () => "
        f"{back} === light ? requestAnimationFrame(look) : done(); look(); }})",
        light,
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
    page.wait_for_function(
        "(all) => count.textContent.startsWith(all)".replace(
            "count", "document.querySelector('#encoder-count')"
        ),
        arg=f"{everything} of",
    )

    page.get_by_label("Million parameters").fill("1")
    page.get_by_label("Licence").select_option("mit")
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


@pytest.mark.parametrize("width", [400, 800, 1300, 2000])
def test_the_table_of_encoders_fits_the_window(browser, docs, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(docs.url + "encoders.html")
    for selector in ("html", ".encoder-table"):
        shown, whole = page.locator(selector).evaluate("(e) => [e.clientWidth, e.scrollWidth]")
        assert whole <= shown, selector
    context.close()
