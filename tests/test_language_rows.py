"""The sources' rows become the items they are scored as, and half a benchmark is none."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from language_data import blimp_rows, ewok_rows, tracking_rows, winoground_rows, write_language_data, write_rows
from tiny_processors import tiny_tokenizer

from lmms_plam.errors import ConfigError, DataError, UnsupportedError
from lmms_plam.language import sources
from lmms_plam.language.benchmarks import BENCHMARKS, PARADIGMS, find_benchmark
from lmms_plam.language.border import cut, first_scored
from lmms_plam.language.ranking import is_right, is_tied, macro, winoground_scores
from lmms_plam.language.sizes import ALL, SIZES
from lmms_plam.language.sources import load_items
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric
from lmms_plam.stats.units import Units


@pytest.fixture(autouse=True)
def _made_up_rows_are_few(monkeypatch):
    monkeypatch.setattr(sources, "SIZES", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_language_data(tmp_path_factory.mktemp("babylm"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_read_from_the_archives_folder(folder, name):
    items = load_items(find_benchmark(name), folder)
    assert len({item.name for item in items}) == len(items)
    assert all(len(item.completions) >= 2 and len(item.pictures) == BENCHMARKS[name].shown for item in items)


def test_blimp_scores_whole_sentences_by_paradigm(folder):
    items = load_items(find_benchmark("blimp"), folder)
    assert {item.part for item in items} == set(PARADIGMS)
    assert all(item.context == "" for item in items)
    row = blimp_rows("adjunct_island", 1)[0]
    assert items[0].completions == (row["sentence_good"], row["sentence_bad"])


def test_a_supplement_row_takes_its_paradigm_from_the_files_name(folder):
    assert {item.part for item in load_items(find_benchmark("blimp_supplement"), folder)} >= {"hypernym", "turn_taking"}


def test_ewok_shows_the_first_context_only_and_scores_a_blank_and_the_target(folder):
    row, item = ewok_rows("agent-properties", 1)[0], load_items(find_benchmark("ewok"), folder)[0]
    assert item.context == row["Context1"]
    assert item.completions == (" " + row["Target1"], " " + row["Target2"])


def test_rows_of_one_quartet_are_one_cluster():
    row = ewok_rows("agent-properties", 1)[0]
    swapped = {
        **row,
        **{f"{name}{1 + own}": row[f"{name}{2 - own}"] for name in ("Context", "Target") for own in (0, 1)},
    }
    other = ewok_rows("agent-properties", 2)[1]
    rows = [BENCHMARKS["ewok"].read(one, "file", place) for place, one in enumerate((row, swapped, other))]
    assert rows[0].cluster == rows[1].cluster != rows[2].cluster


def test_winoground_as_babylm_has_it_pairs_each_picture_with_its_own_caption_first(folder):
    whole = {item.name: item for item in load_items(find_benchmark("winoground"), folder)}
    for item in load_items(find_benchmark("winoground_babylm"), folder):
        number, _, key = item.name.partition("/")
        own = int(key[-1])
        captions = whole[number].completions
        assert item.completions == (captions[own], captions[1 - own])
        assert item.pictures[0].endswith(f"ex_{number}_img_{own}.png")
        assert item.cluster == number


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("blimp", PARADIGMS[:33], r"lacks 34 of 67 parts \(left_branch_island_echo_question, .*\), and the average"),
        ("blimp", (), "no JSONL files in .* unpack the BabyLM evaluation's archives"),
    ],
)
def test_a_folder_with_half_of_the_files_is_refused(tmp_path, name, files, said):
    for paradigm in files:
        write_rows(tmp_path / f"{paradigm}.jsonl", blimp_rows(paradigm, 1))
    with pytest.raises(DataError, match=said):
        load_items(find_benchmark(name), tmp_path)


WHOLE = {
    "blimp_fast": ("fast_eval/blimp_fast", lambda part, size: blimp_rows(part, size)),
    "blimp_supplement": ("full_eval/supplement_filtered", lambda part, size: blimp_rows(part, size)),
    "blimp_supplement_fast": ("fast_eval/supplement_fast", lambda part, size: blimp_rows(part, size)),
    "ewok_fast": ("fast_eval/ewok_fast", lambda part, size: ewok_rows(part, size)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_off_between_two_rows_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "SIZES", SIZES)
    place, make = WHOLE[name]
    for part, size in SIZES[name].items():
        write_rows(tmp_path / place / f"{part}.jsonl", make(part, size))
    items = load_items(find_benchmark(name), tmp_path)
    assert len(items) == sum(SIZES[name].values())
    part, size = list(SIZES[name].items())[-1]
    path = tmp_path / place / f"{part}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: size // 2]))
    said = f"{place} has {size // 2} rows of {part}, and the source has {size}: the file was cut off, so unpack it"
    with pytest.raises(DataError, match=said):
        load_items(find_benchmark(name), tmp_path)


def test_entity_tracking_lacks_rows_where_one_number_of_operations_does(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SIZES", SIZES)
    (row,) = tracking_rows(1)[:1]
    counts = SIZES["entity_tracking_fast"].values()
    every = [{**row, "numops": operations} for operations, count in enumerate(counts) for _ in range(count)]
    assert len(every) == 3152
    write_rows(tmp_path / "regular.jsonl", every)
    assert len(load_items(find_benchmark("entity_tracking_fast"), tmp_path)) == 3152
    write_rows(tmp_path / "regular.jsonl", every[:-1])
    with pytest.raises(DataError, match="has 158 rows of regular/5 operations, and the source has 159"):
        load_items(find_benchmark("entity_tracking_fast"), tmp_path)


@pytest.mark.parametrize(("name", "size"), [("winoground", 400), ("winoground_babylm", 746)])
def test_winoground_lacks_rows_whatever_their_tags(folder, monkeypatch, name, size):
    assert SIZES[name] == {ALL: size}
    monkeypatch.setattr(sources, "SIZES", SIZES)
    with pytest.raises(DataError, match=rf"has \d rows, and the source has {size}: the file was cut off"):
        load_items(find_benchmark(name), folder)


def test_what_lies_in_no_hub_says_where_it_is():
    with pytest.raises(DataError, match=r"entity_tracking: it is in the BabyLM evaluation's archives only: unpack"):
        load_items(find_benchmark("entity_tracking"))


@pytest.mark.parametrize("name", ["ewok", "winoground", "winoground_babylm"])
def test_gated_data_says_how_to_get_it(monkeypatch, name):
    def refuse(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset is a gated dataset on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"it is gated: agree to its terms at https://huggingface.co/datasets/\w+"):
        load_items(find_benchmark(name))


def test_winoground_of_the_hub_becomes_both_forms(monkeypatch):
    rows = [{**row, "image_0": f"{row['id']} left", "image_1": f"{row['id']} right"} for row in winoground_rows(2)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    assert [item.pictures for item in load_items(find_benchmark("winoground"))] == [
        ("0 left", "0 right"),
        ("1 left", "1 right"),
    ]
    halves = load_items(find_benchmark("winoground_babylm"))
    assert [item.pictures for item in halves] == [("0 left",), ("0 right",), ("1 left",), ("1 right",)]
    assert halves[1].completions == (rows[0]["caption_1"], rows[0]["caption_0"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sentence_bad": ""}, r"f, row 0: 'sentence_bad' = '' is no text"),
        ({"sentence_bad": "The cat sleeps. Well"}, r"the candidate 'The cat sleeps.' begins the candidate"),
        ({"sentence_good": 3}, r"'sentence_good' = 3 is no text"),
    ],
)
def test_rows_that_cannot_be_ranked_are_refused(change, said):
    row = {"sentence_good": "The cat sleeps.", "sentence_bad": "The cat sleep.", **change}
    with pytest.raises(DataError, match=said):
        BENCHMARKS["blimp"].read(row, "f", 0)


def test_a_row_without_a_field_names_the_nearest():
    with pytest.raises(DataError, match=r"no 'sentence_bad'. Did you mean 'sentence_bda'\?"):
        BENCHMARKS["blimp"].read({"sentence_good": "a", "sentence_bda": "b"}, "f", 0)


def test_an_empty_option_is_refused():
    row = {"input_prefix": "Box 0 contains", "options": [" the cat.", " "], "numops": 0}
    with pytest.raises(DataError, match=r"the candidate ' ' is empty"):
        BENCHMARKS["entity_tracking"].read(row, "regular", 0)


def test_a_line_that_is_no_json_names_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(blimp_rows("a", 1)[0]) + "\n{half")
    with pytest.raises(
        DataError, match=r"a\.jsonl, line 2 is no JSON: .*; does the file end there\? Then unpack it again"
    ):
        load_items(find_benchmark("blimp"), tmp_path)


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no benchmark 'blimps'. Did you mean 'blimp'\?"):
        find_benchmark("blimps")


def test_a_token_across_the_border_counts_whole():
    assert first_scored([(0, 3), (3, 7), (7, 9)], 5) == 1
    assert first_scored([(0, 3), (3, 7), (7, 9)], 7) == 2
    assert first_scored([(0, 3)], 0) == 0


def test_a_completion_is_cut_where_its_characters_begin():
    tokenizer = tiny_tokenizer("qwen2")
    passage = cut(tokenizer, "Is there a red", " circle in it?")
    assert tokenizer.decode(passage.scored) == " circle in it?"
    assert tokenizer.decode(passage.tokens) == "Is there a red circle in it?"


def test_a_completion_without_tokens_is_refused():
    with pytest.raises(DataError, match="the continuation '' has no tokens to score"):
        cut(tiny_tokenizer("qwen2"), "Is there", "")


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(UnsupportedError, match="doesn't say where its tokens lie"):
        cut(object(), "a", "b")


def test_ties_count_as_the_sources_count_them():
    assert (is_right([-3.0, -3.0]), is_right([-3.0, -2.0]), is_right([-2.0, -3.0, -2.0])) == (1, 0, 1)
    assert (is_tied([-3.0, -3.0]), is_tied([-3.0, -2.0])) == (1, 0)
    assert winoground_scores([[-1.0, -1.0], [-2.0, -1.0]]) == {"text": 0, "image": 0, "group": 0}
    assert winoground_scores([[-1.0, -2.0], [-2.0, -1.0]]) == {"text": 1, "image": 1, "group": 1}


def test_winogrounds_chance_is_that_of_the_paper():
    values = np.random.default_rng(0).normal(size=(20_000, 2, 2))
    scores = [winoground_scores(one) for one in values.tolist()]
    means = [np.mean([score[name] for score in scores]) for name in ("text", "image", "group")]
    assert means == pytest.approx([0.25, 0.25, 1 / 6], abs=0.01)


def test_averages_are_those_of_the_matrix_that_intervals_are_made_of():
    rng = np.random.default_rng(3)
    parts = ["regular/0", "regular/1", "regular/1", "ambiref/0", "ambiref/0", "move/3"] * 5
    scores = rng.integers(0, 2, len(parts)).tolist()
    rows = [
        {"doc_id": place, "variant": "v", "answer": "", "score": score, "cluster": str(place), "stratum": part}
        for place, (part, score) in enumerate(zip(parts, scores, strict=True))
    ]
    ours = Units.of(ScoreMatrix.from_rows(rows, "test"), find_metric("macro_of_files")).estimate()[0]
    records = [{"part": part, "score": score} for part, score in zip(parts, scores, strict=True)]
    assert macro(records) == pytest.approx(ours, abs=1e-12)
    by_part = {part: np.mean([r["score"] for r in records if r["part"] == part]) for part in parts}
    files = [[value for part, value in by_part.items() if part.startswith(file)] for file in ("reg", "amb", "mov")]
    assert macro(records) == pytest.approx(np.mean([np.mean(values) for values in files]))
