"""`plam report`: a study's folder, one filled by hand and foreign runs become a page that holds what they hold."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from test_compare_runs import plain, write_run

from lmms_plam.cli import main
from lmms_plam.report.tables import Table
from lmms_plam.site.found import find_study
from lmms_plam.site.numbers import judged, language, lines
from lmms_plam.site.tables import cost_table
from lmms_plam.stats.matrix import ScoreMatrix

ALPHA = "cells/alpha-compare/plam/alpha"


class Page(HTMLParser):
    """Tags with their attributes, and the words that are shown."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self._words, self._inside = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self._words.append(data)

    def links(self):
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in ("href", "src")]


@pytest.fixture(scope="module")
def site(study_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    assert main(["report", str(study_folder), "--out", str(out), "--title", "A <small> study", "--draws", "1000"]) == 0
    return out


@pytest.fixture(scope="module")
def page(site):
    return Page(site / "index.html")


def foreign_runs(folder, accuracies):
    """Write a run of lmms-eval's for each model, as another backend leaves it."""
    for seed, (model, accuracy) in enumerate(accuracies.items()):
        write_run(folder, {"mine": plain(accuracy=accuracy, seed=seed)}, model=model)
    return folder


def report(folder, out, *options):
    return main(["report", str(folder), "--out", str(out), "--draws", "1000", *options])


def test_a_page_fetches_nothing_and_leads_nowhere_but_to_itself_and_the_runs(page, site):
    for link in page.links():
        assert link.startswith(("#", "data:image/")) or (site / link).exists(), link
    urls = set(re.findall(r"url\(['\"]?(.{0,20})", page.source))
    assert all(url.startswith(("data:image/", "#")) for url in urls)
    assert "@import" not in page.source
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.links() if link.startswith("#")} <= set(ids)


def test_a_page_says_what_was_studied_and_how_to_repeat_it(page):
    assert "A <small> study" in page.text
    assert "2 models; 3 benchmarks; 8 runs; 2026-11-26" in page.text
    for words in ("lab/alpha-VL at 0123abc", "lab/base at 4567def", "start_layer=20, lambda_lm=0.4, lambda_vlm=0.6"):
        assert words in page.text
    assert (
        "lmms-eval --model plam --model_args config=beta --tasks plam_attention_mmstar,plam_attention_pope" in page.text
    )
    places = [
        page.text.index(f"config=alpha --tasks plam_{step}_") for step in ("probe", "search", "compare", "attention")
    ]
    assert places == sorted(places)
    assert "torch 2.8.0" in page.text


def test_every_record_has_its_picture_and_its_numbers(page, study_folder):
    study = find_study(study_folder)
    assert (study.models, study.benchmarks, study.left_out) == (["alpha", "beta"], ["blimp", "mmstar", "pope"], ())
    said = [attrs.get("aria-label", "") for tag, attrs in page.tags if tag == "svg"]
    for probe in study.probes:
        assert f"Score over the layers that see the picture, {probe.place.label}: {probe.record.verdict}" in said
    for search in study.searches:
        assert any(label.startswith("Gain over coefficients") and search.place.label in label for label in said)
        assert search.record.pick.name  # and its pick in words
    for one in study.attention:
        assert f"Attention on the picture by layer, before and after, {one.place.label}" in said
        assert one.record.findings[0][1:] in page.text
    for model in study.models:
        for line in lines(study, model):
            assert f"{line.gain.points:+.2f}" in page.text


def test_the_words_on_top_are_those_of_the_numbers_below(page, study_folder):
    study = find_study(study_folder)
    (gains,) = judged(study, "alpha").values()
    assert {gain.benchmark for gain in gains} == {"blimp", "mmstar", "pope"}
    sure = sum(gain.sign > 0 for gain in gains)
    assert sure == 3, "the simulated merge is much better"
    assert re.search(
        r"alpha\. The plateau begins .* Merging from layer 20 on gains .* on all three benchmarks", page.text
    )
    ((lost, back, pictures),) = language(study, "alpha").values()
    assert [len(part) for part in (lost, back, pictures)] == [1, 1, 2]
    assert "Language lost and given back" in page.text


def test_a_recipe_is_not_judged_on_the_documents_that_chose_it(study_folder, tmp_path):
    folder = tmp_path / "tuned"
    shutil.copytree(study_folder, folder)
    search = folder / "cells/alpha-search/plam/alpha/plam_search_mmstar/search.json"
    told = json.loads(search.read_text())
    merged = {"start_layer": 20, "lambda_lm": 0.4, "lambda_vlm": 0.6}
    told["pick"]["fields"] |= merged
    search.write_text(json.dumps(told))
    study = find_study(folder)
    (gains,) = judged(study, "alpha").values()
    by_name = {gain.benchmark: gain for gain in gains}
    assert by_name["mmstar"].cross_fitted
    assert by_name["mmstar"].points == pytest.approx(100 * told["unseen"]["gain"])
    assert not by_name["pope"].cross_fitted
    tuned = {line.place.benchmark: line.tuned_here for line in lines(study, "alpha") if line.variant == "merged"}
    assert tuned == {"mmstar": True, "pope": False, "blimp": False}
    assert report(folder, tmp_path / "site") == 0
    assert "tuned here" in Page(tmp_path / "site/index.html").text


def test_a_recipe_that_was_chosen_on_the_same_documents_in_another_form_is_marked(study_folder, tmp_path):
    folder = tmp_path / "shared"
    shutil.copytree(study_folder, folder)
    cell = folder / "cells/alpha-search"
    search = cell / "plam/alpha/plam_search_blimp/search.json"
    told = json.loads(search.read_text())
    told["pick"]["fields"] |= {"start_layer": 20, "lambda_lm": 0.4, "lambda_vlm": 0.6}
    search.write_text(json.dumps(told))
    results = next(cell.glob("*_results.json"))
    results.write_text(results.read_text().replace('"dataset_path": "blimp"', '"dataset_path": "mmstar"'))
    (gains,) = judged(find_study(folder), "alpha").values()
    assert {gain.benchmark: (gain.shared, gain.cross_fitted) for gain in gains} == {
        "mmstar": (True, False),
        "pope": (False, False),
        "blimp": (False, True),
    }
    assert report(folder, tmp_path / "site") == 0
    text = Page(tmp_path / "site/index.html").text
    assert "chosen on the documents of mmstar as another benchmark asks them: its gain there may be too large" in text


def test_attention_maps_and_changed_documents_come_with_their_pictures(page):
    looked = [attrs for _, attrs in page.tags if attrs.get("class") == "looked"]
    assert len(looked) >= 4
    for attrs in looked:
        shares = json.loads(attrs["data-shares"])
        assert len(shares) == 28
        assert 20 <= int(attrs["data-layer"]) < 28
        assert attrs["style"].count("url('data:image/png") + attrs["style"].count("url('data:image/jpeg") == 2
    assert "merged scores higher on" in page.text
    thumbnails = [attrs for tag, attrs in page.tags if tag == "img" and "whole" not in attrs.get("class", "")]
    assert thumbnails


@pytest.mark.parametrize("examples", [0, 3])
def test_no_more_documents_are_shown_than_asked_for(study_folder, tmp_path, examples):
    assert report(study_folder, tmp_path, "--examples", str(examples)) == 0
    page = Page(tmp_path / "index.html")
    assert sum(tag == "img" for tag, _ in page.tags) <= examples


def test_tables_matrices_and_references_lie_beside_the_page(site, study_folder):
    names = {path.name for path in (site / "tables").iterdir()}
    assert {"gains.md", "gains.tex", "plateaus.md", "cost.tex", "leaderboard_recipes.md", "format_alpha.md"} <= names
    for copied in (site / "matrices").rglob("*.parquet"):
        (original,) = study_folder.glob(f"cells/*/plam/{copied.parent.name}/{copied.stem}/matrix.parquet")
        assert copied.read_bytes() == original.read_bytes()
        ScoreMatrix.read(copied)
    assert len(list((site / "matrices").rglob("*.parquet"))) == len(list(study_folder.rglob("matrix.parquet")))
    entries = re.findall(r"@\w+\{([\w:]+),", (site / "references.bib").read_text())
    assert {"wang2026plam", "zhang2024lmmseval", "lmms_plam", "lab_alpha_vl", "lab_base"} <= set(entries)
    assert len(entries) == len(set(entries))
    board = json.loads((site / "leaderboard_recipes.json").read_text())
    assert {row["model"] for row in board} >= {"alpha/base", "alpha/merged", "beta/merged", "alpha/base_lm"}


def test_latex_keeps_every_sign_and_no_cell_swallows_a_bracket():
    table = Table("50% & more", ("a_b", "c"), [("x{}\\~^#$", "1\n[0, 2]"), ("", "[0]")], labels=1)
    text = table.to_latex()
    assert r"a\_b & c \\" in text
    assert r"x\{\}\textbackslash{}\textasciitilde{}\textasciicircum{}\#\$" in text
    assert r"\shortstack{1 \\ {[}0, 2]} \\" in text
    assert not re.search(r"\\\\\s*\[", text)
    assert text.startswith("% 50% & more\n")


def test_on_a_narrow_screen_names_stay_whole_beside_fewer_numbers_where_they_can():
    def parts(length: int) -> list[str]:
        name, numbers = "n" * length, ["1" * 12] * 3
        console = Console(width=80)
        with console.capture() as told:
            for part in Table("", ("name", "a", "b", "c"), [(name, *numbers)]).fit(80):
                console.print(part.to_rich())
        return told.get().split()

    assert [parts(length).count("n" * length) for length in (30, 48, 66)] == [1, 2, 3]
    assert "n" * 68 not in parts(68)  # which leaves no room for a number


def test_a_folder_filled_by_hand_needs_neither_plan_nor_manifest(study_folder, tmp_path):
    folder = tmp_path / "by_hand"
    (folder / "some/depth").mkdir(parents=True)
    shutil.copytree(study_folder / ALPHA / "plam_compare_mmstar", folder / "some/depth/plam_compare_mmstar")
    shutil.copytree(study_folder / "cells/alpha-probe/plam/alpha/plam_probe_pope", folder / "probe")
    assert report(folder, tmp_path / "site") == 0
    page = Page(tmp_path / "site/index.html")
    assert "1 model; 2 benchmarks; 0 runs" in page.text
    assert "Its records lie here without the run that made them." in page.text


def test_two_comparisons_of_one_model_and_task_are_told_apart(study_folder, tmp_path):
    folder = tmp_path / "twice"
    for name in ("early", "late"):
        shutil.copytree(study_folder / ALPHA / "plam_compare_mmstar", folder / name / "plam_compare_mmstar")
    study = find_study(folder)
    assert [one.place.label for one in study.comparisons] == ["mmstar (early)", "mmstar (late)"]
    assert report(folder, tmp_path / "site") == 0
    assert len(list((tmp_path / "site/matrices").rglob("*.parquet"))) == 2


def test_a_benchmark_that_was_asked_twice_counts_once(study_folder, tmp_path, capsys):
    folder = tmp_path / "twice"
    for name in ("first", "second"):
        for step in ("probe", "compare", "attention"):
            shutil.copytree(study_folder / f"cells/alpha-{step}", folder / name / step)
    small = folder / "second/compare/plam/alpha/plam_compare_mmstar/comparison.json"
    small.write_text(small.read_text().replace('"n": 160', '"n": 20'))
    newer = folder / "first/compare/plam/alpha/plam_compare_blimp/record.json"
    newer.write_text(newer.read_text().replace("2026-11-26", "2026-11-27"))
    study = find_study(folder)
    (gains,) = judged(study, "alpha").values()
    assert [(gain.benchmark, gain.documents) for gain in gains] == [("blimp", 160), ("mmstar", 160), ("pope", 160)]
    assert report(folder, tmp_path / "site") == 0
    told = capsys.readouterr().err
    text = Page(tmp_path / "site/index.html").text
    said = "alpha has 2 comparisons of one recipe on {}: sentences and means count {} alone, which has most documents"
    for benchmark, kept in (("mmstar", "first"), ("blimp", "first"), ("pope", "second")):
        assert said.format(benchmark, kept) in told
        assert said.format(benchmark, kept) in text
    assert re.search(r"The plateau begins .* on both benchmarks", text)
    assert "over all three benchmarks" in text


def test_a_cell_that_failed_or_is_yet_to_run_is_named(study_folder, tmp_path):
    folder = tmp_path / "unfinished"
    shutil.copytree(study_folder, folder)
    shutil.rmtree(folder / "cells/beta-search")
    failed = folder / "cells/beta-attention"
    shutil.rmtree(failed)
    failed.mkdir()
    (failed / "failure.json").write_text('{"reason": "CUDA out of memory", "code": 1}')
    left_out = find_study(folder).left_out
    assert left_out == (
        "the cell beta-search isn't finished: run the study again",
        "the cell beta-attention failed: CUDA out of memory",
    )
    assert report(folder, tmp_path / "site") == 0
    assert "the cell beta-attention failed: CUDA out of memory" in Page(tmp_path / "site/index.html").text


def test_a_cell_for_another_machine_is_named_with_what_it_needs(study_folder, tmp_path):
    folder = tmp_path / "unfinished"
    shutil.copytree(study_folder, folder)
    plan = json.loads((folder / "plan.json").read_text())
    plan["cells"].append({"name": "serve-alpha", "model": "alpha", "step": "serve", "needs": ["vllm"]})
    (folder / "plan.json").write_text(json.dumps(plan))
    (said,) = find_study(folder).left_out
    assert said == "the cell serve-alpha isn't finished: run the study again where vllm is installed"


def test_a_cell_that_was_done_again_costs_once(study_folder, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(study_folder, folder)
    cell = folder / "cells/alpha-compare"
    for name in ("results", "plam"):
        shutil.copy(cell / f"20261126_120000_{name}.json", cell / f"20261127_120000_{name}.json")
    (row,) = [row for row in cost_table(find_study(folder)).rows if row[0] == "alpha-compare"]
    assert "2026-11-27" in row
    once, again = (cost_table(find_study(one)).notes[0] for one in (study_folder, folder))
    assert once == again


def test_cells_of_an_earlier_plan_are_left_out(study_folder, tmp_path, capsys):
    folder = tmp_path / "edited"
    shutil.copytree(study_folder, folder)
    shutil.copytree(folder / "cells/alpha-compare", folder / "cells/alpha-compare-of-20")
    foreign_runs(folder / "cells/alpha-compare-of-20", {"a": 0.4, "b": 0.8})
    assert report(folder, tmp_path / "site") == 0
    said = "1 cell of an earlier plan is left out: plan.json doesn't name alpha-compare-of-20"
    assert said in capsys.readouterr().err
    page = Page(tmp_path / "site/index.html")
    assert said in page.text
    assert "2 models; 3 benchmarks; 8 runs" in page.text
    assert not (tmp_path / "site/leaderboard.json").exists()
    (gains,) = judged(find_study(folder), "alpha").values()
    assert [gain.benchmark for gain in gains] == ["blimp", "mmstar", "pope"]


def test_two_recipes_of_one_model_have_a_row_each_and_share_their_benchmarks(study_folder, tmp_path):
    folder = tmp_path / "recipes"
    for name in ("first", "second"):
        shutil.copytree(study_folder / ALPHA, folder / name)
    for record in (folder / "second").rglob("record.json"):
        record.write_text(record.read_text().replace("start_layer=20", "start_layer=22"))
    found = judged(find_study(folder), "alpha")
    assert [recipe.partition(",")[0] for recipe in found] == ["start_layer=20", "start_layer=22"]
    assert all({gain.benchmark for gain in gains} == {"blimp", "mmstar", "pope"} for gains in found.values())
    assert report(folder, tmp_path / "site") == 0
    text = Page(tmp_path / "site/index.html").text
    assert "Merging from layer 20 on (start_layer=20, lambda_lm=0.4, lambda_vlm=0.6) gains" in text
    assert "Merging from layer 22 on (start_layer=22, lambda_lm=0.4, lambda_vlm=0.6) gains" in text


def test_a_comparison_read_again_shows_the_questions_and_pictures_that_were_kept(study_folder, tmp_path):
    assert main(["compare", str(study_folder / ALPHA), "--out", str(tmp_path), "--draws", "1000"]) == 0
    shown = Page(tmp_path / "comparison.html")
    assert re.search(r"question \d+\?", shown.text)
    assert any(link.startswith("data:image/jpeg") for link in shown.links())


def test_foreign_runs_make_a_leaderboard_whose_cards_lead_to_them(tmp_path):
    folder = foreign_runs(tmp_path / "foreign", {"a": 0.4, "b": 0.8})
    assert report(folder, tmp_path / "site", "--reference", "a") == 0
    page = Page(tmp_path / "site/index.html")
    assert "On the leaderboard of runs b stands first of two" in page.text
    shown = [link for link in page.links() if link.endswith("_results.json")]
    assert sorted((tmp_path / "site" / link).resolve() for link in shown) == sorted(folder.rglob("*_results.json"))
    shutil.copytree(folder / "b", folder / "c")  # adding a run is dropping a folder and building again
    assert report(folder, tmp_path / "site") == 0
    board = json.loads((tmp_path / "site/leaderboard.json").read_text())
    assert {row["model"] for row in board} == {"a", "b", "c"}


def test_answers_that_are_cut_off_are_named_and_the_other_benchmarks_ranked(tmp_path, capsys):
    folder = tmp_path / "foreign"
    for seed, model in enumerate("ab"):
        write_run(folder, {"mine": plain(seed=seed), "yours": plain(seed=seed)}, model=model, asked=200)
    cut = folder / "b/20261122_120000_samples_mine.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:70]))
    assert report(folder, tmp_path / "site", "--reference", "a") == 0
    said = f"mine is left out: {cut} ends after line 70 of 200; run the task again"
    assert said in capsys.readouterr().err
    assert said in Page(tmp_path / "site/index.html").text
    board = json.loads((tmp_path / "site/leaderboard.json").read_text())
    assert {(row["model"], row["task"]) for row in board} == {("a", "yours"), ("b", "yours")}
    for other in folder.glob("*/*_samples_yours.jsonl"):
        other.write_text("")
    assert report(folder, tmp_path / "site") == 0
    told = capsys.readouterr().err
    assert said in told
    assert "yours is left out: " in told
    assert said in Page(tmp_path / "site/index.html").text


def test_runs_without_logged_answers_are_named_as_such(tmp_path, capsys):
    folder = foreign_runs(tmp_path / "foreign", {"a": 0.4, "b": 0.8, "c": 0.6})
    (unlogged,) = (folder / "b").glob("*.jsonl")
    unlogged.unlink()
    assert report(folder, tmp_path / "site") == 0
    said = f"b: mine is left out, as its newest run logged no answers ({unlogged}): run it again with --log_samples"
    assert said in capsys.readouterr().err
    assert said in Page(tmp_path / "site/index.html").text
    for samples in folder.rglob("*.jsonl"):
        samples.unlink()
    assert report(folder, tmp_path / "site") == 0
    said = f"{folder} holds results but no logged answers: run again with --log_samples"
    assert f"no leaderboard of runs: {said}" in capsys.readouterr().err
    assert said in Page(tmp_path / "site/index.html").text
    assert report(folder, tmp_path / "site", "--reference", "a") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"which holds nothing that can be ranked: no leaderboard of runs: {said}")


@pytest.mark.parametrize(
    ("content", "why"), [("{", "is cut off or no JSON"), ("{}", "is no results file of lmms-eval")]
)
def test_a_results_file_that_is_broken_is_named(tmp_path, capsys, content, why):
    folder = foreign_runs(tmp_path / "foreign", {"a": 0.4, "b": 0.8})
    (broken,) = (folder / "b").glob("*_results.json")
    broken.write_text(content)
    assert report(folder, tmp_path / "site") == 0
    assert capsys.readouterr().err.count(f"{broken} {why}") == 1
    assert f"left out: {broken} {why}" in Page(tmp_path / "site/index.html").text
    assert report(folder / "b", tmp_path / "site") == 2
    assert f"holds nothing that a page can show: left out: {broken} {why}" in capsys.readouterr().err


def test_two_runs_that_were_compared_by_hand_are_told_of_too(tmp_path):
    folder = foreign_runs(tmp_path / "foreign", {"a": 0.4, "b": 0.8})
    runs = [str(folder / name) for name in "ab"]
    assert main(["compare", *runs, "--out", str(folder / "compared"), "--draws", "1000"]) == 0
    assert report(folder, tmp_path / "site") == 0
    text = Page(tmp_path / "site/index.html").text
    assert re.search(r"b\. Compared with a, it gains [\d.]+ points \([\d.]+ to [\d.]+\) on mine\.", text)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("plateau.json", "{", "can't be read"),
        ("comparison.json", '[{"task": 3}]', "isn't what lmms-plam writes"),
        ("search.json", "[]", "isn't what lmms-plam writes"),
        ("attention.json", '{"task": "x"}', "isn't what lmms-plam writes"),
        ("shown.json", "nonsense", "can't be read as documents to show"),
        ("examples.json", '[{"doc_id": 1}]', "can't be read as documents to show"),
        ("manifest.json", '{"seconds": "long"}', "isn't what lmms-plam writes"),
        ("curve.json", '{"a": 1}', "isn't what lmms-plam writes"),
        ("curve.json", "[]", "holds no points of the curve"),
    ],
)
def test_a_damaged_file_is_named_and_costs_no_other(study_folder, tmp_path, capsys, name, content, said):
    folder = tmp_path / "damaged"
    shutil.copytree(study_folder, folder)
    damaged = next(folder.rglob(name))
    damaged.write_text(content)
    assert report(folder, tmp_path / "site") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert str(damaged) in line
    assert said in line
    page = Page(tmp_path / "site/index.html")
    assert "Left out" in page.text
    assert "beta" in page.text


@pytest.mark.parametrize("task", ["attention", "probe", "compare"])
def test_a_matrix_that_is_none_is_named_and_not_copied(study_folder, tmp_path, capsys, task):
    folder = tmp_path / "damaged"
    shutil.copytree(study_folder, folder)
    matrix = folder / f"cells/alpha-{task}/plam/alpha/plam_{task}_mmstar/matrix.parquet"
    matrix.write_text("junk")
    assert report(folder, tmp_path / "site") == 0
    assert f"{matrix} can't be read as a score matrix" in capsys.readouterr().err
    assert f"{matrix} can't be read as a score matrix" in Page(tmp_path / "site/index.html").text
    assert not (tmp_path / f"site/matrices/alpha/plam_{task}_mmstar.parquet").exists()


def test_a_record_of_attention_that_is_cut_off_is_named_and_costs_nothing_else(study_folder, tmp_path, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(study_folder, folder)
    record = folder / "cells/alpha-attention/plam/alpha/plam_attention_mmstar/attention.parquet"
    record.write_bytes(record.read_bytes()[:-100])
    assert report(folder, tmp_path / "site") == 0
    said = f"{record} can't be read as a record of attention (Parquet)"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if str(record) in line]
    assert said in line
    page = Page(tmp_path / "site/index.html")
    assert said in page.text
    assert "Where do the layers look?" in page.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing"], "no folder missing: give that of a study, or any with runs of lmms-eval"),
        (["."], "holds nothing that a page can show"),
        ([".", "--examples", "-1"], "--examples is 0 or more, not -1"),
        ([".", "--level", "2"], "--level lies between 0 and 1"),
        ([".", "--wandb-views", "plam"], "--wandb-views takes ENTITY/PROJECT, not 'plam'"),
    ],
)
def test_what_can_not_be_shown_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments, "--out", "site"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "site").exists()


def test_an_unknown_reference_is_answered_by_the_models_there_are(tmp_path, capsys):
    folder = foreign_runs(tmp_path / "foreign", {"alpha": 0.4, "beta": 0.8})
    assert report(folder, tmp_path / "site", "--reference", "alpa") == 2
    assert "no model 'alpa'" in (told := capsys.readouterr().err)
    assert "Did you mean 'alpha'?" in told
