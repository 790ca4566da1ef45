"""Masking probes on disk: records, fingerprints, pictures, and `plam plateau` reading them again."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
from test_plateau import CUTS, documents, matrix_of, ramp

from lmms_plam.cli import plateau as command
from lmms_plam.errors import ConfigError, DataError
from lmms_plam.probes.onset import OnsetRule
from lmms_plam.probes.record import CURVE, MATRIX, PLATEAU, Origin, analyse, digest, pool, read_origin
from lmms_plam.report.curve import draw_curve


def save(folder, curve=None, n=600, model="abc", task=None, seed=0):
    folder.mkdir(parents=True)
    matrix = matrix_of(documents(ramp(8, 18) if curve is None else curve, n, seed))
    matrix.write(folder / MATRIX)
    probe = analyse(folder / MATRIX, Origin(task or folder.name, model), draws=400)
    probe.write(folder)
    return probe


def plam_plateau(*arguments):
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_plateau_json_says_all_that_a_merge_or_a_reader_needs(tmp_path):
    probe = save(tmp_path / "plam_probe_task")
    record = json.loads((tmp_path / "plam_probe_task" / PLATEAU).read_text())
    assert record["task"] == "plam_probe_task"
    assert (record["verdict"], record["onset"]) == ("plateau", probe.plateau.onset)
    assert record["interval"][0] <= record["onset"] <= record["interval"][1]
    assert record["rule"] == {"method": "isotonic", "tolerance": 1.0, "share": 0.05, "top_points": 4}
    assert sum(record["probability"].values()) == pytest.approx(1)
    assert (record["depth"], record["n_documents"], record["draws"], record["seed"]) == (28, 600, 400, 0)
    assert record["fingerprint"] == {
        "data": digest(tmp_path / "plam_probe_task" / MATRIX),
        "model": "abc",
        "weights": None,
    }
    assert set(record["stages"]) == {"separation", "alignment", "degradation"}
    points = json.loads((tmp_path / "plam_probe_task" / CURVE).read_text())
    assert [point["cut"] for point in points] == list(CUTS)
    assert all(point["low"] <= point["score"] <= point["high"] for point in points)
    assert np.all(np.diff([point["fit"] for point in points]) >= 0)


def test_no_plateau_is_written_as_null(tmp_path):
    save(tmp_path / "flat", np.full(29, 0.4))
    record = json.loads((tmp_path / "flat" / PLATEAU).read_text())
    assert (record["verdict"], record["onset"], record["stages"]) == ("no plateau", None, {})


def test_a_matrix_that_changed_after_its_record_is_refused(tmp_path):
    save(tmp_path / "task")
    matrix_of(documents(ramp(8, 18), 600, seed=9)).write(tmp_path / "task" / MATRIX)
    with pytest.raises(DataError, match="was read off another matrix"):
        read_origin(tmp_path / "task" / MATRIX)


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "x"}', '{"task": "x", "fingerprint": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    save(tmp_path / "task")
    (tmp_path / "task" / PLATEAU).write_text(text)
    with pytest.raises(DataError, match="is no record of a masking probe"):
        read_origin(tmp_path / "task" / MATRIX)


@pytest.mark.parametrize(
    "change", [{"metric": 5}, {"metric": []}, {"task": 5}, {"n_without_image": "many"}, {"queries": None}]
)
def test_a_record_of_other_types_is_named(tmp_path, change):
    save(tmp_path / "task")
    record = json.loads((tmp_path / "task" / PLATEAU).read_text())
    (tmp_path / "task" / PLATEAU).write_text(json.dumps(record | change))
    with pytest.raises(DataError, match="is no record of a masking probe"):
        read_origin(tmp_path / "task" / MATRIX)


def test_the_command_reads_a_folder_by_another_rule_and_changes_nothing(tmp_path, capsys):
    save(tmp_path / "run" / "plam" / "one")
    save(tmp_path / "run" / "plam" / "two", np.full(29, 0.4))
    before = (tmp_path / "run" / "plam" / "one" / PLATEAU).read_bytes()
    assert plam_plateau(tmp_path / "run", "--rule", "segments", "--draws", 200, "--json") == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["task"], one["rule"]["method"], one["fingerprint"]["model"]) == ("one", "segments", "abc")
    assert set(one["cross_checks"]) == {"isotonic", "kneedle"}
    assert two["onset"] is None
    assert (tmp_path / "run" / "plam" / "one" / PLATEAU).read_bytes() == before


def test_a_wider_tolerance_moves_the_onset_forward(tmp_path, capsys):
    save(tmp_path / "task")
    onsets = []
    for tolerance in (1, 10):
        plam_plateau(tmp_path, "--tolerance", tolerance, "--draws", 100, "--json")
        onsets.append(json.loads(capsys.readouterr().out)[0]["onset"])
    assert onsets[1] < onsets[0]


def test_the_table_shows_verdict_and_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    save(tmp_path / "task")
    plam_plateau(tmp_path, "--draws", 200)
    shown = capsys.readouterr().out
    assert "plateau" in shown
    assert "kneedle" in shown
    assert "the score stays within" in shown


def test_write_replaces_record_curve_and_pictures(tmp_path):
    save(tmp_path / "task")
    plam_plateau(tmp_path, "--rule", "kneedle", "--draws", 100, "--write")
    assert json.loads((tmp_path / "task" / PLATEAU).read_text())["rule"]["method"] == "kneedle"
    assert sorted(path.name for path in (tmp_path / "task").iterdir()) == sorted(
        [MATRIX, CURVE, PLATEAU, "curve.png", "curve.svg"]
    )


def test_pooling_adds_a_row_and_refuses_mixed_models(tmp_path, capsys):
    save(tmp_path / "a" / "one")
    save(tmp_path / "a" / "two", ramp(6, 14, 0.4, 0.6), seed=1)
    save(tmp_path / "b" / "other", model="xyz")
    plam_plateau(tmp_path / "a", "--pool", "--draws", 300, "--json")
    pooled = json.loads(capsys.readouterr().out)[-1]
    assert (pooled["task"], pooled["n_documents"], pooled["fingerprint"]["data"]) == ("pooled", 1200, None)
    assert pooled["rise"] == pytest.approx(1, abs=0.1)
    with pytest.raises(DataError, match="mixed matrices: one is of model abc, other of model xyz"):
        plam_plateau(tmp_path, "--pool", "--draws", 100)


def test_a_pooled_record_says_what_its_probes_have_in_common(tmp_path):
    probes = [save(tmp_path / "one"), save(tmp_path / "two", ramp(6, 14, 0.4, 0.6), seed=1)]
    origins = [replace(probe.origin, without_image=40, weights="w") for probe in probes]
    origins[1] = replace(origins[1], metric="percent")
    record = pool([replace(probe, origin=origin) for probe, origin in zip(probes, origins, strict=True)]).to_dict()
    assert (record["metric"], record["n_without_image"]) == ("mean, percent", 80)
    assert record["fingerprint"]["weights"] == "w"


def test_cuts_that_were_not_asked_below_the_onset_are_said(tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    cuts = [0, 4, 8, 18, *range(20, 29)]
    matrix_of(documents(ramp(8, 18), 600)[:, cuts], cuts).write(folder / MATRIX)
    found = analyse(folder / MATRIX, Origin("task")).plateau
    assert found.onset == 18
    assert "(cuts 9 to 17 were not asked)" in found.reason
    cuts = [0, 4, 8, 12, 16, 18, *range(20, 29)]
    matrix_of(documents(ramp(8, 18), 600)[:, cuts], cuts).write(folder / MATRIX)
    assert "(cut 17 was not asked)" in analyse(folder / MATRIX, Origin("task")).plateau.reason
    assert "not asked" not in save(tmp_path / "every").plateau.reason


def test_pooling_takes_two_benchmarks_and_a_path_that_exists(tmp_path):
    save(tmp_path / "task")
    with pytest.raises(DataError, match="at least two benchmarks"):
        plam_plateau(tmp_path, "--pool", "--draws", 50)
    with pytest.raises(DataError, match=r"no file or folder .*nowhere"):
        plam_plateau(tmp_path / "nowhere")


def test_pooling_counts_a_benchmark_once(tmp_path, capsys):
    save(tmp_path / "a" / "one")
    save(tmp_path / "b" / "one", seed=1)
    one = tmp_path / "a" / "one"
    plam_plateau(tmp_path / "a", one, one / MATRIX, "--draws", 50, "--json")
    assert len(json.loads(capsys.readouterr().out)) == 1
    with pytest.raises(DataError, match="one is there twice"):
        plam_plateau(tmp_path, "--pool", "--draws", 50)


def test_pooling_refuses_other_queries(tmp_path):
    probes = [save(tmp_path / name, seed=place) for place, name in enumerate(("one", "two"))]
    last = replace(probes[1], origin=replace(probes[1].origin, queries="last"))
    with pytest.raises(DataError, match="one hides vision from all queries, two from last"):
        pool([probes[0], last])


def test_words_in_brackets_are_no_markup(tmp_path, capsys):
    save(tmp_path / "task", task="[bold]x[/foo]")
    plam_plateau(tmp_path, "--draws", 50)
    assert "[bold]x[/foo]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--tolerance", "nan", "tolerance"),
        ("--tolerance", "inf", "tolerance"),
        ("--seed", -1, "seed"),
        ("--draws", 2_000_000_000, "too many"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(tmp_path, option, value, words):
    save(tmp_path / "task")
    with pytest.raises((ConfigError, DataError), match=words):
        plam_plateau(tmp_path, option, value)


def test_the_record_is_not_taken_for_the_matrix(tmp_path):
    save(tmp_path / "task")
    with pytest.raises(DataError, match=r"plateau\.json is no matrix\.parquet"):
        plam_plateau(tmp_path / "task" / PLATEAU)


def test_matrices_of_other_experiments_are_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    folder = tmp_path / "compare"
    folder.mkdir()
    matrix_of(np.ones((10, 2)), ["base", "merged"]).write(folder / MATRIX)
    with pytest.raises(DataError, match=r"holds no matrix\.parquet of a masking probe"):
        plam_plateau(tmp_path)
    with pytest.raises(DataError, match="no masking probe's matrix"):
        plam_plateau(folder / MATRIX)
    save(tmp_path / "probe")
    assert plam_plateau(tmp_path, "--draws", 50) == 0


@pytest.mark.parametrize("curve", [ramp(8, 18), np.full(29, 0.4), ramp(8, 18) - 0.05 * np.clip((CUTS - 22) / 6, 0, 1)])
def test_the_picture_says_the_verdict(tmp_path, curve):
    probe = save(tmp_path / "task", curve)
    draw_curve(probe, tmp_path / "pictures")
    assert (tmp_path / "pictures" / "curve.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "pictures" / "curve.svg").read_text()
    words = " ".join(line for line in drawn.splitlines() if "<!--" in line)  # drawn texts, as comments
    assert probe.plateau.verdict.split()[-1] in words
    assert probe.origin.task in words
    assert ("onset k*" in words) == (probe.plateau.onset is not None)
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_curve_of_four_points_is_refused_with_its_file(tmp_path):
    (tmp_path / "task").mkdir()
    matrix_of(documents(ramp(8, 18), 50)[:, :4], range(4)).write(tmp_path / "task" / MATRIX)
    with pytest.raises(DataError, match=r"task/matrix\.parquet: a plateau can't be told from 4 points"):
        analyse(tmp_path / "task" / MATRIX, Origin("task"), OnsetRule())
