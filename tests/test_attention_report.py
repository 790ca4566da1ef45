"""What is seen of attention: maps lie where attention lies, curves and page say what they must and fetch nothing."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from test_attention_statistics import record as record_of

from lmms_plam.attention.findings import findings, main_findings
from lmms_plam.attention.layouts import cells, even
from lmms_plam.attention.look import Maps
from lmms_plam.attention.places import Places
from lmms_plam.attention.record import MEASURES, RECORD
from lmms_plam.attention.shown import SHOWN, ShownDocument, read_shown, write_shown
from lmms_plam.attention.summary import Scaled, summarise
from lmms_plam.errors import DataError
from lmms_plam.files import digest
from lmms_plam.report.attention import FILES, table, write
from lmms_plam.report.attention_curves import curve_files, curves
from lmms_plam.report.overlays import (
    LESS,
    MORE,
    RANGE,
    SIDE,
    SOME,
    asked_queries,
    ground,
    overlay,
    shown_picture,
    strip,
    telling_layers,
)
from lmms_plam.stats.comparison import Settings

FAST = Settings(draws=1000)
LAYERS, ROWS, COLUMNS = 4, 3, 4
TOKENS = ROWS * COLUMNS
PLACES = Places(np.zeros(TOKENS, dtype=np.int64), cells(even(ROWS), even(COLUMNS)))
SIZE = (SIDE, SIDE * ROWS // COLUMNS)


def world(documents=60, *, measures=("mass",)):
    """The untouched VLM, a merge that changes layer 2 and layer 3 more, and the scaled VLM; 2 documents a cluster."""
    rng = np.random.default_rng(0)
    mass = 0.4 + 0.02 * rng.normal(size=(documents, 3, 2, LAYERS))
    mass[:, 1:, :, :2] = mass[:, :1, :, :2]
    mass[:, 1, :, 2:] += np.array([0.02, -0.1])
    score = rng.integers(0, 2, size=(documents, 3))
    known = {"entropy": mass / 2, "focus": mass / 2, "mass_without_sinks": mass / 2, "inside": 0.5 * mass + 0.1}
    values = {name: own if name in measures else np.full(mass.shape, np.nan) for name, own in known.items()}
    return record_of(mass, score, np.arange(documents) // 2, region=np.full(documents, 0.25), **values)


def planted(*tokens, share=1.0):
    """Maps with a share of the attention, divided evenly, on some tokens, in every layer."""
    values = np.zeros((2, LAYERS, TOKENS))
    values[..., list(tokens)] = share / len(tokens)
    return Maps(values, PLACES)


def document(doc_id=0, change="better", before=None, after=None, neutral=None, **others):
    image = Image.fromarray(np.random.default_rng(doc_id).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    given = {
        "question": "what is <b>there</b>?",
        "target": "a marker",
        "image": image,
        "regions": [],
        "answers": {"untouched": "nothing", "merged": "a & b", "scaled": "nothing"},
        "maps": {"untouched": before or planted(0), "merged": after or planted(11)},
        "neutral": neutral or {},
    }
    return ShownDocument(doc_id=doc_id, change=change, **(given | others))


def save(folder, record=None, shown=(), **options):
    """Write what a run leaves of attention; return what was found."""
    record = record or world()
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / RECORD)
    write_shown(shown, folder)
    found = summarise(record, late=[2, 3], settings=options.pop("settings", FAST), scaled=options.pop("scaled", None))
    write("plam_attention_task", "a model, 2026-11-26", record, found, shown, folder, **options)
    return found


class Page(HTMLParser):
    """Tags with their attributes, and the words."""

    def __init__(self, folder):
        super().__init__()
        self.tags, self.words = [], []
        self.source = (folder / "attention.html").read_text()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag, css=None):
        return [own for name, own in self.tags if name == tag and (css is None or css in own.get("class", ""))]


def inside(image, token, layers="RGBA"):
    """The pixels of an image where a token lies, without its edge."""
    row, column = divmod(token, COLUMNS)
    side = SIDE // COLUMNS
    pixels = np.asarray(image.convert(layers), dtype=np.int64)
    return pixels[row * side + 2 : (row + 1) * side - 2, column * side + 2 : (column + 1) * side - 2]


def test_a_map_is_strong_where_attention_is_and_nowhere_else():
    before, after, difference = overlay(document(), 2).tiles
    for tile, token, colour in ((before, 0, SOME), (after, 11, SOME)):
        found = inside(tile.heat, token)
        assert (found[..., :3] == colour).all()
        assert (found[..., 3] > 225).all()
        assert all((inside(tile.heat, other)[..., 3] == 0).all() for other in range(TOKENS) if other != token)
    assert (inside(difference.heat, 11)[..., :3] == MORE).all()
    assert (inside(difference.heat, 0)[..., :3] == LESS).all()
    assert before.words.endswith("100.0% of it on the picture, most of that at the upper left")
    assert after.words.endswith("at the lower right")
    assert "more most of all at the lower right, less at the upper left" in difference.words


def test_the_strip_shows_the_picture_and_colours_at_the_planted_place():
    shown = document()
    found = strip(shown, [overlay(shown, 1), overlay(shown, 2)])
    bottom = found.height - 8  # of the second layer's row
    column = found.width // 4
    tiles = [found.crop((place * column, bottom - SIZE[1], place * column + SIZE[0], bottom)) for place in range(4)]
    np.testing.assert_array_equal(np.asarray(tiles[0]), np.asarray(shown_picture(shown)))
    grey = np.asarray(ground(shown).convert("RGB"), dtype=np.int64)
    for tile, token in ((tiles[1], 0), (tiles[2], 11)):
        assert np.abs(inside(tile, token, "RGB") - SOME).max() <= 0.1 * 255  # a tenth of the picture shines through
        np.testing.assert_array_equal(inside(tile, 5, "RGB"), inside(Image.fromarray(np.uint8(grey)), 5, "RGB"))
    assert np.abs(inside(tiles[3], 11, "RGB") - MORE).max() <= 0.1 * 255


def test_maps_before_and_after_and_their_difference_share_a_scale():
    quarter = Maps(planted(0).values / 4, PLACES)
    before, after, difference = overlay(document(before=planted(0), after=quarter), 2).tiles
    strongest = inside(before.heat, 0)[..., 3].mean()
    assert inside(after.heat, 0)[..., 3].mean() == pytest.approx(strongest / 2, abs=1)  # the root of a quarter
    assert inside(difference.heat, 0)[..., 3].mean() == pytest.approx(strongest * 0.75**0.5, abs=1)
    same = overlay(document(before=planted(0), after=planted(0)), 2)
    assert (np.asarray(same.tiles[2].heat)[..., 3] == 0).all()


def test_a_sink_does_not_make_the_rest_invisible():
    fine = Places(np.zeros(1024, dtype=np.int64), cells(even(32), even(32)))
    values = np.full((2, LAYERS, 1024), 1e-5)
    values[..., 0], values[..., 500:540] = 0.4, 0.01
    looks = Maps(values, fine)
    heat = np.asarray(overlay(document(before=looks, after=looks, image=Image.new("RGB", (320, 320))), 2).tiles[0].heat)
    cell = heat[15 * 10 + 5, 25 * 10 + 5]  # of token 505
    assert cell[3] > 0.6 * 255
    assert heat[5, 5, 3] >= cell[3]


def test_attention_that_hardly_falls_on_the_picture_is_painted_faintly():
    trace = Maps(planted(*range(TOKENS), share=1e-5).values, PLACES)
    before, *_ = overlay(document(before=trace, after=trace), 2).tiles
    assert np.asarray(before.heat)[..., 3].max() < 0.05 * 255


def test_against_a_neutral_prompt_what_is_looked_at_anyway_has_no_colour():
    sink = planted(0, 5)
    asked = Maps(sink.values.copy(), PLACES)
    asked.values[..., 5] *= RANGE
    shown = document(before=sink, after=asked, neutral={"untouched": sink, "merged": sink})
    *_, before, after = overlay(shown, 1).tiles
    assert (np.asarray(before.heat)[..., 3] == 0).all()
    assert (inside(after.heat, 0)[..., 3] <= 1).all()
    assert (inside(after.heat, 5)[..., 3] >= 0.89 * 255).all()
    assert (inside(after.heat, 5)[..., :3] == MORE).all()
    *_, less = overlay(document(after=sink, neutral={"merged": asked}), 1).tiles
    assert (inside(less.heat, 5)[..., :3] == LESS).all()


def test_right_places_are_outlined_unless_they_are_the_whole_picture():
    region = [(0.5, 0, 0.75, 1 / 3)]
    marked = np.asarray(shown_picture(document(regions=region)))
    x, y = SIDE // 2, SIDE // 8
    assert tuple(marked[y, x]) == (0, 121, 92)
    assert tuple(np.asarray(overlay(document(regions=region), 0).tiles[0].heat)[y, x]) == (0, 121, 92, 255)
    assert shown_picture(document(regions=[(0.5, 0.5, 0.5001, 0.5001)])).getpixel((SIDE // 2, SIZE[1] // 2)) == (
        0,
        121,
        92,
    )
    whole = document(regions=[(0, 0, 1, 1)])
    np.testing.assert_array_equal(np.asarray(shown_picture(whole)), np.asarray(shown_picture(document())))


def test_only_the_first_of_several_pictures_is_painted(tmp_path):
    two = Places(np.repeat([0, 1], TOKENS), np.concatenate([PLACES.boxes] * 2))
    values = np.zeros((2, LAYERS, 2 * TOKENS))
    values[..., 3], values[..., TOKENS + 7] = 0.1, 0.6
    shown = document(before=Maps(values, two), after=Maps(values, two))
    before = overlay(shown, 2).tiles[0]
    assert "10.0% on the picture" in before.title
    assert (inside(before.heat, 3)[..., 3] > 225).all()
    assert (inside(before.heat, 7)[..., 3] == 0).all()
    save(tmp_path, shown=[shown])
    assert "the first of 2 pictures" in Page(tmp_path).text


def test_the_answers_attention_is_drawn_where_it_is_known_and_the_questions_elsewhere(tmp_path):
    short = planted(4)
    short.values[1] = np.nan
    assert asked_queries(document()) == "res"
    only = document(after=short)
    assert asked_queries(only) == "ins"
    assert (inside(overlay(only, 2).tiles[1].heat, 4)[..., 3] > 225).all()
    unknown = document(1, neutral={"untouched": short, "merged": short})
    assert len(overlay(unknown, 2).tiles) == 3
    save(tmp_path, shown=[only, unknown])
    page = Page(tmp_path)
    assert "from the question (" in page.text
    assert "nothing was asked with a neutral prompt" in page.text
    assert "no attention of the answer to the neutral prompt is known" in page.text


def test_maps_are_of_the_late_layers_whose_mean_mass_changes_most():
    record = world()
    found = summarise(record, settings=FAST, late=[0, 1, 2, 3])
    for queries in record.queries:
        change = np.abs(found.growth_of("merged", queries).difference.value)
        assert telling_layers(record, range(4), "untouched", "merged", queries) == sorted(np.argsort(-change)[:2])
    assert telling_layers(record, [0, 1, 2], "untouched", "merged", "ins") == [0, 2]
    assert telling_layers(record, [3], "untouched", "merged", "ins") == [3]


def test_the_page_explains_itself_and_shows_every_document_with_its_maps(tmp_path):
    neutral = {"untouched": planted(0), "merged": planted(0)}
    shown = [document(3, neutral=neutral), document(5, "same"), document(8, "same", question="why?\nsay it")]
    found = save(tmp_path, shown=shown)
    page = Page(tmp_path)
    for words in (
        "What was found",
        "By layer",
        "Over the picture",
        "never by hand",
        "Answers that the merge made better: 1 shown",
        "Answers that the merge made worse: none shown",
        "Answers that score the same: 2 shown",
        "Layer 2, from the answer",
        "Layer 3, from the answer",
        "before: 'untouched', 100.0% on the picture",
        "'merged' against a neutral prompt",
        "opacity goes with its square root",
        "a model, 2026-11-26",
    ):
        assert words in page.text, words
    for sentence in findings(found):
        assert sentence[1:] in page.text
    first, rest = page.text.split("more findings")
    main = main_findings(found)
    assert 4 <= len(main) <= 7
    assert all(sentence[1:] in first for sentence in main)
    assert all(sentence[1:] in rest for sentence in findings(found) if sentence not in main)
    assert page.text.count("what is <b>there</b>?") == 2  # as text: what a benchmark says is no markup
    assert "a & b" in page.text
    assert len(page.of("div", "map")) - len(page.of("div", "maps")) == 2 * (5 + 3 + 3)
    assert len(page.of("section")) == 3
    assert page.source.count("--ground: url(") == 3  # each picture once, however many maps lie over it


def test_the_page_fetches_nothing_and_can_be_read_without_seeing(tmp_path):
    save(tmp_path, shown=[document(), document(4, "worse")])
    page = Page(tmp_path)
    assert not page.of("script")
    assert not page.of("link")
    pictures = page.of("img")
    assert all(own["alt"] and own["src"].startswith("data:image/") for own in pictures)
    for own in pictures:
        Image.open(io.BytesIO(base64.b64decode(own["src"].partition("base64,")[2]))).verify()
    assert all(url.startswith(("'data:", "#", "var")) for url in re.findall(r"url\(([^)]{0,9})", page.source))
    assert not re.findall(r'(?:src|href)="(?!data:|#)', re.sub(r'xlink:href="#', "", page.source))
    drawn = page.of("div", "curves")
    assert len(drawn) == 1
    assert all(own["aria-label"] for own in page.of("div") if own.get("role") == "img")
    assert {"name": "viewport", "content": "width=device-width"} in page.of("meta")


def test_maps_that_cannot_be_drawn_are_said_to_be_missing_and_why(tmp_path):
    nowhere = Maps(planted(0).values, None)
    shown = document(before=nowhere, after=nowhere)
    assert overlay(shown, 2) is None
    save(tmp_path, shown=[shown])
    page = Page(tmp_path)
    assert "where this model's tokens lie in the picture isn't known" in page.text
    assert not page.of("div", "map")
    silent = Maps(np.full((2, LAYERS, TOKENS), np.nan), PLACES)
    save(tmp_path, shown=[document(before=silent, after=silent)])
    assert "neither the question's attention is known nor that of both answers" in Page(tmp_path).text
    save(tmp_path, shown=[])
    assert "No document with maps was kept" in Page(tmp_path).text


def test_curves_are_drawn_of_what_is_known_and_earlier_ones_go(tmp_path):
    save(tmp_path, world(measures=MEASURES))
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {RECORD, SHOWN, *FILES}
    for name in ("mass", "inside"):
        png, svg = curve_files(name)
        assert (tmp_path / png).read_bytes().startswith(b"\x89PNG")
        words = " ".join(line for line in (tmp_path / svg).read_text().splitlines() if "<!--" in line)
        assert all(
            text in words
            for text in ("from the question", "from the answer", "'merged'", "'scaled'", "plam_attention_task")
        )
    save(tmp_path, world(measures=("mass", "inside")))
    gone = ("entropy", "focus", "mass_without_sinks")
    assert {path.name for path in tmp_path.iterdir()} == there - {name for one in gone for name in curve_files(one)}


def test_bands_are_drawn_whole_in_all_columns_and_late_layers_are_shaded():
    record = world(measures=("mass", "entropy"))
    record.entropy[:, 1, 1] += 0.2 * np.random.default_rng(5).normal(size=record.entropy[:, 1, 1].shape)
    found = summarise(replace(record, entropy=record.entropy.clip(0, 1)), late=[0, 2, 3], settings=FAST)
    figure = curves(found, "entropy", found.queries, "a task")
    differences = figure.axes[2:]
    for axes, queries in zip(differences, found.queries, strict=True):
        band = found.growth_of("merged", queries, "entropy").difference
        low, high = axes.get_ylim()
        assert low <= band.low.min() < band.high.max() <= high
        (line,) = (one for one in axes.lines if np.array_equal(one.get_ydata(), band.value))
        np.testing.assert_array_equal(line.get_xdata(), record.layers)
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert [(round(span.x0, 3), round(span.x1, 3)) for span in spans] == [(-0.5, 0.5), (1.5, 3.5)]


def test_attention_json_names_the_files_that_it_is_of(tmp_path):
    found = save(tmp_path, shown=[document()])
    told = json.loads((tmp_path / "attention.json").read_text())
    assert told["fingerprint"] == {"data": digest(tmp_path / RECORD), "shown": digest(tmp_path / SHOWN)}
    assert (told["task"], told["about"]) == ("plam_attention_task", "a model, 2026-11-26")
    assert told["findings"] == findings(found)
    assert told["late"] == [2, 3]


def test_the_table_has_a_line_for_each_variant_with_points_and_interval():
    found = summarise(world(), late=[2, 3], settings=FAST)
    shown = table(found)
    (merged, scaled), headline = shown.rows, found.headlines()[0]
    assert (merged[0], scaled[0]) == ("merged", "scaled")
    assert merged[3] == f"{100 * headline.difference:+.2f}"
    assert merged[4] == f"{100 * headline.low:+.2f} to {100 * headline.high:+.2f}"
    assert shown.columns[1] == "untouched"


def test_a_page_of_twelve_large_pictures_stays_small(tmp_path):
    rng = np.random.default_rng(1)
    many = Places(np.zeros(1024, dtype=np.int64), cells(even(32), even(32)))
    maps = {name: Maps(rng.dirichlet(np.full(1024, 0.05), size=(2, LAYERS)), many) for name in ("untouched", "merged")}
    noise = rng.integers(0, 255, (63, 84, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((672, 504), Image.Resampling.BICUBIC)
    shown = [document(one, image=photo, maps=maps, neutral=maps) for one in range(12)]
    save(tmp_path, shown=shown)
    assert (tmp_path / "attention.html").stat().st_size < 5e6


def test_shown_documents_come_back_with_their_right_places(tmp_path):
    written = document(regions=[(0.25, 0, 0.5, 1)], neutral={"merged": planted(1)})
    write_shown([written], tmp_path)
    (read,) = read_shown(tmp_path)
    assert list(read.regions) == list(written.regions)
    assert (read.question, dict(read.answers), read.change) == (written.question, written.answers, "better")
    heats = [np.asarray(overlay(one, 1).tiles[1].heat, dtype=np.int64) for one in (read, written)]
    np.testing.assert_allclose(*heats, atol=2)  # places are kept in single precision


@pytest.mark.parametrize(
    ("shown", "layers", "said"),
    [
        (document(), [7], "document 0: no map of layer 7: there are layers 0 to 3"),
        (document(1000), [2], "no document 1000 in the record"),
        (replace(document(), regions=[(0.5, 0, 1.5, 1)]), [2], r"the region \(0.5, 0, 1.5, 1\) isn't one inside"),
    ],
)
def test_what_does_not_fit_the_record_is_refused_before_anything_is_written(tmp_path, shown, layers, said):
    with pytest.raises(DataError, match=said):
        save(tmp_path, shown=[shown], layers=layers)
    assert not set(FILES) & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("scaled", "words"),
    [
        (Scaled(1.4, ("merged",)), "attention weights times the sum of the merge's coefficients"),
        (Scaled(0.9), "attention weights times 0.9"),
        (None, "a further recipe of that name"),
    ],
)
def test_the_page_says_what_the_scaled_variant_is(tmp_path, scaled, words):
    save(tmp_path, scaled=scaled)
    said = Page(tmp_path).source.split("<b>'scaled'</b>: ")[1].split("<b>")[0]
    assert words in said
