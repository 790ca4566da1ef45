"""Early hiding, windows and headroom: against worlds whose truth is known, and as tasks of the harness."""

from __future__ import annotations

import json
from html import escape

import numpy as np
import pytest
import yaml
from test_harness_runs import evaluate

from lmms_plam.errors import ConfigError, DataError
from lmms_plam.paths import data_folder
from lmms_plam.probes.record import is_probe
from lmms_plam.probes.visibility import Place, findings, read_place, visibility
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

DEPTH = 12


def world(variants, right, documents=2000, seed=0):
    """Scores of a world in which a variant is right with a known probability, each document with luck of its own."""
    rng = np.random.default_rng(seed)
    luck = rng.random(documents)
    rows = [
        {"doc_id": doc, "variant": place.variant, "score": float(luck[doc] < right(place)), "answer": ""}
        for doc in range(documents)
        for place in variants
    ]
    return ScoreMatrix.from_rows(rows)


def late_and(kind):
    late = [Place("late", layer, DEPTH) for layer in range(DEPTH + 1)]
    if kind == "early":
        return late + [Place("early", 0, layer) for layer in range(1, DEPTH)]
    return late + [Place("silent", layer, DEPTH) for layer in range(DEPTH)]


def read_between(first, end):
    """The picture is read in these layers, each of which tells as much."""

    def right(place):
        hidden = set(range(place.first, place.end)) if place.kind != "silent" else set()
        return 0.9 - 0.5 * len(hidden & set(range(first, end))) / (end - first)

    return right


def found_in(variants, right, **options):
    return visibility(world(variants, right), find_metric("mean"), DEPTH, **options)


def test_early_and_late_hiding_enclose_the_layers_that_read():
    found = found_in(late_and("early"), read_between(4, 8))
    assert (found.early_limit[0], found.curves["late"].onset) == (4, 8)
    assert found.early_limit[1] <= 4 <= found.early_limit[2]
    said = " ".join(findings(found))
    assert "hiding the picture below layer 4 keeps the score within 2.5 points of its top" in said
    assert "it is read in layers 4 to 7" in said
    assert "layers 0 to 3 are the masking curve's flat start" in said
    assert "the first stage is no artefact" in said


def test_a_flat_start_whose_layers_take_part_is_called_so():
    """The late curve is flat over layers 0 to 3, since what they read is of use only where later layers read on."""

    def right(place):
        if place.kind == "early":
            return 0.9 if place.end == 0 else 0.4
        return read_between(4, 8)(place)

    found = found_in(late_and("early"), right)
    assert found.early_limit is None
    said = " ".join(findings(found))
    assert "can't be hidden from the first layers without loss" in said
    assert "the flat start does not mean unused layers" in said


def test_the_window_that_costs_most_is_found_with_an_interval_for_all():
    windows = [Place("window", layer, layer + 2) for layer in range(DEPTH - 1)]
    found = found_in([*windows, Place("late", DEPTH, DEPTH)], read_between(5, 7))
    worst = found.costliest
    assert (worst.place.first, worst.place.end) == (5, 7)
    assert worst.low < -0.5 < worst.high
    assert "begin at layer 4 to 6" in " ".join(findings(found))
    covered = 0
    for seed in range(200):
        matrix = world([*windows, Place("late", DEPTH, DEPTH)], lambda _: 0.7, 60, seed)
        noise = ScoreMatrix.from_rows(
            {"doc_id": doc, "variant": name, "score": float(rng), "answer": ""}
            for name, column in zip(
                matrix.variants, np.random.default_rng(seed).random((len(matrix.variants), 60)) < 0.7, strict=True
            )
            for doc, rng in enumerate(column)
        )
        result = visibility(noise, find_metric("mean"), DEPTH, draws=400, seed=seed)
        covered += all(one.low <= 0 <= one.high for one in result.contrasts["window"])
    assert 0.84 <= covered / 200 <= 0.97, "all windows at once, nine times in ten"


def test_headroom_says_from_where_on_attention_is_not_needed():
    def right(place):
        return 0.9 - 0.08 * max(0, 6 - place.first) if place.kind == "silent" else 0.9 - 0.1 * (place.first < 3)

    found = found_in(late_and("silent"), right, recipe=8)
    assert found.curves["silent"].onset == 6
    assert found.at("silent", 8).difference == 0
    said = " ".join(findings(found))
    assert "with attention switched off from layer 6 on, the score stays within 2.4 points" in said
    assert "in all layers that the recipe merges (layers 8 to 11) changes the score by +0.0 points" in said


def test_a_flat_world_is_not_said_to_need_anything():
    flat = found_in(late_and("silent"), lambda _: 0.5, recipe=8)
    assert findings(flat)[0] == "attention changes no score here beyond noise"
    assert "can hardly change anything" in findings(flat)[1]
    needed = found_in(late_and("silent"), lambda place: 0.9 - 0.05 * (DEPTH - place.first), recipe=8)
    assert "may be needed up to the last layers" in findings(needed)[0]
    assert "there is something for a merge of attention to change" in findings(needed)[1]
    windows = [Place("window", layer, layer + 2) for layer in range(DEPTH - 1)]
    assert findings(found_in([*windows, Place("late", DEPTH, DEPTH)], lambda _: 0.5)) == ["no window lowers the score"]


def test_one_cluster_shows_no_interval():
    windows = [Place("window", 0, 2), Place("late", DEPTH, DEPTH)]
    with pytest.raises(DataError, match="all documents form one cluster"):
        visibility(world(windows, lambda _: 0.5, documents=1), find_metric("mean"), DEPTH)


@pytest.mark.parametrize("place", [*late_and("early"), *late_and("silent"), Place("window", 3, 7)])
def test_a_place_is_read_from_its_name(place):
    assert read_place(place.variant, DEPTH) == place


def test_a_variant_that_is_no_place_is_refused():
    with pytest.raises(DataError, match="'merged' says neither where the picture is hidden"):
        read_place("merged", DEPTH)


@pytest.mark.parametrize("kind", ["early", "window", "headroom"])
def test_the_papers_nine_can_be_asked(kind):
    folder = data_folder("tasks")
    probes = yaml.safe_load((folder / "plam_probe_nine.yaml").read_text())["task"]
    ours = yaml.safe_load((folder / f"plam_{kind}_nine.yaml").read_text())
    assert ours["task"] == [name.replace("probe", kind) for name in probes]
    for name in ours["task"]:
        lines = (folder / f"{name}.yaml").read_text().splitlines()
        assert lines[0] == f"task: {name}"
        assert lines[1] == f"class: !function lmms_plam.families.{kind.capitalize()}Probe"
        assert lines[2] == f"of: {name.removeprefix(f'plam_{kind}_')}"


@pytest.mark.parametrize(("benchmark", "kinds"), [("digits", 7), ("microworld", 10)])
def test_the_chance_level_of_an_embedded_benchmark_is_that_of_its_answers(benchmark, kinds):
    folder = data_folder("tasks")
    answers: dict[str, list[str]] = {}
    for line in (folder / f"plam_{benchmark}.jsonl").read_text().splitlines():
        document = json.loads(line)
        answers.setdefault(document["kind"], []).append(document["answer"])
    assert len(answers) == kinds
    share = sum(len(own) / len(set(own)) for own in answers.values()) / sum(map(len, answers.values()))
    assert f"chance: {share:.2f} " in (folder / f"_plam_{benchmark}_common.yaml").read_text()


TASKS = [f"plam_{kind}_digits" for kind in ("early", "window", "headroom")]


def test_digits_is_asked_in_all_three_ways(tmp_path):
    results = evaluate("plam", "config=digits,probe.width=3", TASKS, output=tmp_path, limit=40)["results"]
    folders = {path.parent.name: path.parent for path in tmp_path.rglob("visibility.json")}
    assert sorted(folders) == sorted(TASKS)
    full = {results[task]["full,none"] for task in TASKS}
    assert len(full) == 1
    early = ScoreMatrix.read(folders[TASKS[0]] / "matrix.parquet")
    assert early.variants == tuple(place.variant for place in late_and("early"))
    windows = ScoreMatrix.read(folders[TASKS[1]] / "matrix.parquet")
    assert windows.variants == (*(f"window {layer}-{layer + 2}" for layer in range(10)), "12")
    record = json.loads((folders[TASKS[2]] / "visibility.json").read_text())
    assert record["recipe"] == 8
    assert not any(is_probe(folder / "matrix.parquet") for folder in folders.values()), "plam plateau passes them over"
    assert [one["variant"] for one in record["contrasts"]["silent"]] == [f"silent {layer}" for layer in range(12)]
    for folder in folders.values():
        assert (folder / "visibility.png").stat().st_size > 10_000
        page, said = (folder / "visibility.html").read_text(), json.loads((folder / "visibility.json").read_text())
        assert said["findings"]
        assert all(escape(line) in page for line in said["findings"])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("window", "probe.width=12", "a window of 12 layers hides the picture in all 12"),
        ("window", "probe.width=0", "'width' = 0"),
        ("early", "probe.queries=authors_qwen3", "'queries' = 'authors_qwen3'"),
        ("headroom", "probe.cuts=1 99", "between 0 and the model's 12 layers"),
    ],
)
def test_places_that_cannot_be_meant_are_refused(task, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate("plam", f"config=digits,{options}", [f"plam_{task}_digits"], limit=2)
