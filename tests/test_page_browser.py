"""The page in a real browser: it sorts, switches, slides, prints, fits a telephone, and nobody is kept from it."""

from __future__ import annotations

import shutil

import pytest
from page import BROWSERS

from lmms_plam.cli import main

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright isn't installed: pip install -e '.[browser]'"
)
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed, such as {BROWSERS[0]}")

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def url(study_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    assert main(["report", str(study_folder), "--out", str(out), "--draws", "1000"]) == 0
    return (out / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser, url):
    """Opens the page; at the end nothing may have gone wrong in its scripts, and nothing been fetched."""
    contexts, errors, asked = [], [], []

    def opened(size=WIDE, unfolded=False, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(url)
        if unfolded:
            tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert {one for one in asked if not one.startswith("data:")} == {url}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nobody_is_kept_from_reading_it(open_page, scheme, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python isn't installed")
    tab = open_page(size, unfolded=True, color_scheme=scheme)
    tab.add_style_tag(content="section { content-visibility: visible !important }")
    found = axe.Axe().run(tab).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_a_telephone_scrolls_tables_and_pictures_but_never_the_page(open_page):
    tab = open_page(NARROW, unfolded=True)
    tab.add_style_tag(content="section { content-visibility: visible !important }")
    assert tab.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    width = "document.querySelector('.picture svg').getBoundingClientRect().width"
    assert tab.evaluate(width) > NARROW["width"]  # letters as large as elsewhere, by scrolling


def test_a_click_on_a_heading_sorts_by_its_numbers_and_another_turns_them_round(open_page):
    tab = open_page({"width": 1280, "height": 300})  # the table is yet to be scrolled to
    table = tab.locator("table", has=tab.locator("th", has_text="mean")).first
    heading = table.locator("th", has_text="mean").first

    def numbers():
        return [float(row.split()[0]) for row in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]

    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(numbers())


def test_the_switch_shows_one_model_at_a_time_or_all(open_page):
    tab = open_page()
    tab.select_option("#model", "beta")
    assert tab.locator("section[data-model]:visible").count() == 1
    assert tab.locator("section[data-model=beta]").is_visible()
    tab.select_option("#model", "")
    assert tab.locator("section[data-model]:visible").count() == 2


def test_the_slider_moves_maps_and_their_numbers_to_another_layer(open_page):
    tab = open_page(unfolded=True)
    looked = tab.locator(".looked[data-shares]").first
    slider, place = looked.locator("input[type=range]"), "one => getComputedStyle(one).backgroundPositionY"
    first = looked.locator(".map i").first.evaluate(place)
    slider.fill("3")
    shares = looked.evaluate("one => JSON.parse(one.dataset.shares)[3]")
    assert looked.locator(".map i").first.evaluate(place) != first
    assert looked.locator("output").inner_text() == "layer 3"
    assert looked.locator("[data-when=before]").inner_text() == f"{100 * shares[0]:.1f}%"
    assert slider.get_attribute("aria-label") == "decoder layer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_screen_until_the_reader_says_otherwise(open_page, scheme):
    tab = open_page(color_scheme=scheme)

    def is_dark():
        return tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 20)"

    assert is_dark() == (scheme == "dark")
    tab.locator(".tools button").click()
    assert is_dark() == (scheme == "light")


def test_everything_can_be_read_without_scripts(open_page):
    tab = open_page(java_script_enabled=False)
    assert tab.locator("section[data-model]:visible").count() == 2
    assert tab.locator("th button").count() == tab.locator("input").count() == 0
    looked = tab.locator(".looked").first
    tab.locator("details", has=looked).locator("summary").first.click()
    assert "of 28" in looked.locator(".slider").inner_text()
    assert looked.locator(".map").first.bounding_box()["width"] > 100


def test_paper_is_white_and_shows_every_model_without_tools(open_page):
    tab = open_page(color_scheme="dark")
    tab.select_option("#model", "beta")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.locator("section[data-model]:visible").count() == 2
    assert not tab.locator(".tools").is_visible()


def test_a_point_of_a_curve_says_its_score_where_the_mouse_is(open_page):
    tab = open_page()
    titles = tab.locator("section[data-model=alpha] svg use title").all_text_contents()
    assert titles[0].startswith("cut 0: ")
    assert sum(title.startswith("cut 28: ") for title in titles) == 2
