"""Pictures on a page of many: their words stay words, their lines stay where they are, and no two share a name."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_attention_report import LAYERS, TOKENS, document, planted

from lmms_plam.attention.look import Maps
from lmms_plam.report.map_sheets import map_sheet
from lmms_plam.report.overlays import overlay
from lmms_plam.report.page import bare_svg
from lmms_plam.site.examples import deal
from lmms_plam.site.vectors import slim


def drawn(points=5, label="score & <more>"):
    figure = Figure(figsize=(5, 3))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(range(points), np.linspace(0.1, 0.9, points), "o-")
    axes.set(ylabel=label, title="a title, in bold", xlabel="layer")
    axes.title.set_fontweight("bold")
    octets = io.BytesIO()
    figure.savefig(octets, format="svg")
    return bare_svg(octets.getvalue().decode())


def test_words_can_be_found_and_stand_where_their_letters_stood():
    before, after = drawn(), slim(drawn(), "a picture")
    tree = ElementTree.fromstring(after)
    words = {element.text: element for element in tree.iter() if element.tag.endswith("text")}
    assert {"score & <more>", "a title, in bold", "layer", "0.2"} <= set(words)
    assert words["a title, in bold"].get("font-weight") == "bold"
    assert "rotate(-90)" in words["score & <more>"].get("transform")
    place = re.search(r"<!-- layer -->\s*<g[^>]*translate\(([\d.]+) ([\d.]+)\)", before)
    shown = re.search(r"translate\(([\d.]+) ([\d.]+)\)", words["layer"].get("transform"))
    assert [float(one) for one in shown.groups()] == pytest.approx([float(one) for one in place.groups()], abs=0.005)
    assert len(after) < len(before) / 2


def test_lines_stay_within_a_hundredth_of_a_point():
    before, after = drawn(), slim(drawn(), "a picture")

    def numbers(svg):
        lines = re.findall(r'<path d="([^"]*)"[^>]*fill: none', svg)
        return [float(one) for one in re.findall(r"-?[\d.]+", " ".join(lines))]

    assert numbers(after) == pytest.approx(numbers(before), abs=0.0051)
    assert numbers(after)


def test_two_pictures_share_no_name_and_refer_to_what_they_hold():
    page = slim(drawn(), "one") + slim(drawn(), "other")
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', page)) <= set(names)


def test_the_same_picture_twice_shares_no_name_either():
    same = drawn()
    page = slim(same, "one", source="here") + slim(same, "other", source="there")
    names = re.findall(r'\bid="([^"]+)"', page)
    assert names
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', page)) == set(names)


def test_what_a_picture_shows_is_said_to_who_cannot_see_it():
    tree = ElementTree.fromstring(slim(drawn(), '<b> & "c" \\1'))
    assert (tree.get("role"), tree.get("aria-label")) == ("img", '<b> & "c" \\1')


def test_points_say_their_numbers_where_the_mouse_is():
    told = [f"cut {cut}: {cut / 10} <" for cut in range(5)]
    tree = ElementTree.fromstring(slim(drawn(5), "a curve", told, "a file"))
    found = [element.text for element in tree.iter() if element.tag.endswith("title")]
    assert found == told
    assert "<title>" not in slim(drawn(4), "a curve", told)  # no line has so many points


def test_a_sheet_holds_the_maps_of_every_layer_in_their_colours():
    shown = document(before=planted(0), after=planted(11, share=0.5))
    sheet = map_sheet(shown)
    rows, columns = 3, 4
    assert sheet.image.size == (3 * columns, LAYERS * rows)
    pixels = np.asarray(sheet.image).reshape(LAYERS, rows, 3, columns, 4)
    for layer in range(LAYERS):
        for tile, heat in enumerate(overlay(shown, layer).tiles[:3]):
            large = np.asarray(heat.heat)
            middle = large[large.shape[0] // 6 :: large.shape[0] // 3, large.shape[1] // 8 :: large.shape[1] // 4]
            np.testing.assert_allclose(pixels[layer, :, tile, :, 3], middle[..., 3], atol=2)
            painted = middle[..., 3] > 0
            np.testing.assert_array_equal(pixels[layer, :, tile][painted][:, :3], middle[painted][:, :3])
    np.testing.assert_allclose(sheet.shares, [[1.0, 0.5]] * LAYERS)


def test_no_sheet_is_made_where_places_or_attention_are_unknown():
    values = np.full((2, LAYERS, TOKENS), 0.1)
    assert map_sheet(document(before=Maps(values, None), after=Maps(values, None))) is None
    assert map_sheet(document(before=Maps(np.full_like(values, np.nan), planted(0).places))) is None


@pytest.mark.parametrize(
    ("total", "wanted", "dealt"),
    [(5, [3, 3], [3, 2]), (0, [3, 3], [0, 0]), (99, [3, 1], [3, 1]), (2, [4, 4, 4], [1, 1, 0]), (4, [], [])],
)
def test_documents_are_dealt_to_each_in_turn(total, wanted, dealt):
    assert deal(total, wanted) == dealt
