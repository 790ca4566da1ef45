"""Options of masking probes: cuts refined around the onset, whose weights are probed, what a plateau is read from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from family_folders import of_model
from test_harness_runs import config_file, evaluate, exact

from lmms_plam.errors import ConfigError
from lmms_plam.harness.model import Plam
from lmms_plam.stats.matrix import ScoreMatrix

PROBE = "plam_probe_digits"


def probe(config, output, limit=60, **options):
    """Run the probe of digits; return its matrix, its record and its row of the harness's results."""
    results = evaluate("plam", f"config={config}", [PROBE], output=output, limit=limit, **options)
    folder = of_model(output) / PROBE
    record = json.loads((folder / "plateau.json").read_text())
    return ScoreMatrix.read(folder / "matrix.parquet"), record, results["results"][PROBE]


def test_every_nth_cut_is_refined_around_the_onset(tmp_path, generated):
    every, full, _ = probe("digits", tmp_path / "every")
    assert full["cuts"] == list(range(13))
    generated.prompts = 0
    coarse, found, _ = probe("digits,probe.cuts=every 4", tmp_path / "coarse", use_cache=str(tmp_path / "cache"))
    assert generated.prompts == 2 * 60, "one round for the coarse curve, one around its onset"
    assert found["cuts"] == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12]
    assert (found["onset"], found["interval"]) == (full["onset"], full["interval"])
    columns = [every.column(cut) for cut in coarse.variants]
    assert np.array_equal(coarse.answers, every.answers[:, columns])
    again, *_ = probe("digits,probe.cuts=every 4", tmp_path / "again", use_cache=str(tmp_path / "cache"))
    assert set(again.variants) == set(every.variants), "with only what was never asked left, all of it is asked"
    assert np.array_equal(again.answers[:, [again.column(cut) for cut in every.variants]], every.answers)


def test_cuts_and_memory_can_be_set_on_the_command_line(tmp_path):
    listed, record, _ = probe("digits,probe.cuts=3 6 9", tmp_path / "listed", limit=8)
    assert record["cuts"] == [0, 3, 6, 9, 12]
    lean, *_ = probe("digits,probe.cuts=3 6 9,family_memory=0.000001", tmp_path / "lean", limit=8)
    assert np.array_equal(lean.answers, listed.answers)
    with pytest.raises(ConfigError, match=r"4 cuts \(0, 4, 8, 12\) shows no plateau"):
        probe("digits,probe.cuts=4 8", tmp_path, limit=8)


def test_the_untouched_vlm_is_probed_whatever_is_merged(pairs, tmp_path):
    pair, recipe = pairs["qwen2_5_vl"], {"start_layer": 1, "lambda_lm": 1.0, "lambda_vlm": 0.0}

    def answers(name, **content):
        model = exact(config_file(pair, tmp_path, **content))
        evaluate(model, "", [PROBE], output=tmp_path / name, limit=8)
        folder = of_model(tmp_path / name) / PROBE
        weights = json.loads((folder / "plateau.json").read_text())["fingerprint"]["weights"]
        return ScoreMatrix.read(folder / "matrix.parquet").answers.tolist(), weights

    untouched, merged_away = answers("none", merge="none"), answers("merge", merge=recipe)
    assert untouched == merged_away
    merged = answers("merged", merge=recipe, probe={"weights": "merged"})
    assert merged[0] != untouched[0]
    assert merged[1] != untouched[1]


def test_a_start_layer_is_read_from_the_plateau_of_these_weights_only(pairs, tmp_path):
    _, record, _ = probe("digits", tmp_path / "runs")
    path = of_model(tmp_path / "runs") / PROBE / "plateau.json"
    merged = Plam(config="digits", **{"merge.start_layer": str(path)})
    assert merged.provenance.merge["start_layer"] == record["onset"]
    with pytest.raises(ConfigError, match="is the plateau of other weights"):
        Plam(config=str(config_file(pairs["qwen2_5_vl"], tmp_path, merge={"start_layer": str(path)})))


def test_a_probe_that_masks_as_the_authors_do_says_so_and_gives_no_start_layer(tmp_path):
    _, record, _ = probe("digits,probe.queries=authors_qwen3,probe.cuts=1 6 9,probe.weights=merged", tmp_path, limit=14)
    assert (record["queries"], record["model"]) == ("authors_qwen3", "digits (merged)")
    path = next(tmp_path.rglob("plateau.json"))
    path.write_text(json.dumps({**record, "onset": 1, "fingerprint": None}))
    with pytest.raises(ConfigError, match="masks as the authors' code does"):
        Plam(config="digits", **{"merge.start_layer": str(path)})


@pytest.mark.parametrize("name", ["of", "task", "class", "cutts"])
def test_a_model_config_sets_options_of_probes_and_nothing_else(name):
    with pytest.raises(ConfigError, match=f"no option '{name}'.* Known: cuts, queries, weights"):
        evaluate("plam", f"config=digits,probe.{name}=plam_digits_text", [PROBE])


def test_a_run_without_a_curve_leaves_no_other_runs_plateau(tmp_path):
    probe("digits", tmp_path, limit=40)
    results = evaluate("plam", "config=digits", [PROBE], output=tmp_path, limit=4)
    assert results["results"][PROBE]["onset,none"] is None
    assert {path.name for path in (of_model(tmp_path) / PROBE).iterdir()} == {"answers.0.jsonl", "matrix.parquet"}


def test_the_record_says_from_which_queries_vision_was_hidden(tmp_path):
    _, record, _ = probe("digits,probe.queries=last,probe.cuts=0 3 6 9", tmp_path, limit=20)
    assert record["queries"] == "last"


def test_documents_without_an_image_are_counted_and_no_plateau_is_no_number(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        "task: probe_text\nclass: !function lmms_plam.families.MaskingProbe\nof: plam_digits_text\n"
    )
    results = evaluate("plam", "config=digits", ["probe_text"], include=folder, output=tmp_path / "runs", limit=16)
    record = json.loads((of_model(tmp_path / "runs") / "probe_text" / "plateau.json").read_text())
    assert (record["n_documents"], record["n_without_image"]) == (16, 16)
    assert (record["verdict"], record["onset"]) == ("no plateau", None)
    assert results["results"]["probe_text"]["onset,none"] is None
    matrix = ScoreMatrix.read(of_model(tmp_path / "runs") / "probe_text" / "matrix.parquet")
    assert (matrix.answers == matrix.answers[:, :1]).all()
    tasks, model = ["probe_text"], "config=digits,probe.cuts=0 3 6 9"
    evaluate("plam", model, tasks, include=folder, output=tmp_path / "sampled", limit=10, gen_kwargs="temperature=9.0")
    matrix = ScoreMatrix.read(of_model(tmp_path / "sampled") / "probe_text" / "matrix.parquet")
    record = json.loads((of_model(tmp_path / "sampled") / "probe_text" / "plateau.json").read_text())
    assert (matrix.answers != matrix.answers[:, :1]).any(), "this test needs answers that differ by chance"
    assert record["n_without_image"] == 10
