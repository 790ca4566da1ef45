"""How answers ended: what the engine says, what a resumed run keeps, and what is read off finished runs' logs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from family_folders import of_model
from test_compare_runs import write_run
from test_family_resume import PROBE, own, run  # noqa: F401 (fixtures)
from test_harness_runs import config_file, evaluate

from lmms_plam.cli import main
from lmms_plam.harness.journal import Journal
from lmms_plam.scoring.record import Ending
from lmms_plam.stats.matrix import ScoreMatrix

DIGITS = "plam_compare_digits"


def digits(folder: Path, limit: int) -> ScoreMatrix:
    model = "config=digits,merge.start_layer=4,merge.lambda_lm=0.9,merge.lambda_vlm=0.1"
    evaluate("plam", model, [DIGITS], output=folder, limit=70, gen_kwargs=f"max_new_tokens={limit}")
    return ScoreMatrix.read(of_model(folder) / DIGITS / "matrix.parquet")


def test_an_answer_is_cut_off_just_where_a_higher_limit_lets_it_go_on(tmp_path):
    short, long = digits(tmp_path / "short", 2), digits(tmp_path / "long", 8)
    assert not long.formats.is_cut_off().any()
    cut = short.formats.is_cut_off()
    assert cut.any()
    assert not cut.all()
    np.testing.assert_array_equal(cut, long.formats.length > 2)
    assert set(short.formats.length[cut]) == {2.0}
    np.testing.assert_array_equal(short.formats.length[~cut], long.formats.length[~cut])
    assert (short.answers[~cut] == long.answers[~cut]).all()
    (audit, *_) = json.loads((of_model(tmp_path / "short") / DIGITS / "audit.json").read_text())
    assert [side["cut_off"] for side in audit["sides"]] == cut.mean(axis=0).tolist()
    assert [side["sure"] for side in audit["sides"]] == [True, True]
    assert "max_new_tokens=64" in audit["warnings"][0]
    assert "Warning: plam_compare_digits: " in (of_model(tmp_path / "short") / DIGITS / "comparison.html").read_text()


@pytest.mark.usefixtures("own")
def test_a_resumed_run_keeps_how_answers_ended(pairs, run, tmp_path):  # noqa: F811
    config = config_file(pairs["qwen2_5_vl"], tmp_path)
    run(config, tmp_path / "runs", stop_after=3)
    run(config, tmp_path / "runs")
    run(config, tmp_path / "whole")
    one, whole = (ScoreMatrix.read(of_model(tmp_path / name) / PROBE / "matrix.parquet") for name in ("runs", "whole"))
    assert not np.isnan(whole.formats.length).any()
    np.testing.assert_array_equal(one.formats.length, whole.formats.length)
    assert (one.formats.cut_off == whole.formats.cut_off).all()
    points = json.loads((of_model(tmp_path / "whole") / PROBE / "curve.json").read_text())
    lengths = dict(zip(map(int, whole.variants), whole.formats.length.mean(axis=0), strict=True))
    assert {point["cut"]: point["length"] for point in points} == pytest.approx(lengths)


def test_a_journal_of_before_says_nothing_of_endings(tmp_path):
    with Journal(tmp_path) as journal:
        journal.write("prompt", {(0, "0"): "yes"})
        journal.write("prompt", {(1, "0"): "no"}, {(1, "0"): Ending(4, True)})
    with Journal(tmp_path) as journal:
        assert journal.find((0, "0"), "prompt") == "yes"
        assert journal.ending((0, "0")) is None
        assert journal.ending((1, "0")) == Ending(4, True)


def star(answer: str, doc_id: int, **more: object) -> dict[str, object]:
    row = {"question_id": doc_id, "l2_category": f"part {doc_id % 2}", "score": float(answer[:1] == "A")}
    return {"doc_id": doc_id, "target": "A", "filtered_resps": [answer], "math": row, "average": row, **more}


def compared(capsys, tmp_path: Path, base: list, merged: list, **config: object) -> tuple[str, str, list]:
    for name, samples in (("base", base), ("merged", merged)):
        write_run(tmp_path / name, {"mmstar": samples}, configs={"mmstar": config})
    folder = tmp_path / "out"
    assert (
        main(["compare", str(tmp_path / "base"), str(tmp_path / "merged"), "--draws", "1000", "--out", str(folder)])
        == 0
    )
    printed = capsys.readouterr()
    return printed.out, printed.err, json.loads((folder / "audit.json").read_text())


BASE = ["A"] * 30 + ["B"] * 20 + ["To find the total"] * 8 + ["Hm"] * 2
MERGED = ["A"] * 26 + ["B"] * 24 + ["A"] * 6 + ["To find the total"] * 2 + ["A"] * 2


def test_without_a_limit_in_the_logs_answers_as_long_as_the_longest_are_likely_cut_off(capsys, tmp_path):
    base, merged = ([star(answer, place) for place, answer in enumerate(side)] for side in (BASE, MERGED))
    out, err, (audit, *_) = compared(capsys, tmp_path, base, merged)
    parts = {part["part"]: (part["documents"], part["gained"], part["lost"]) for part in audit["parts"]}
    assert parts == {"bare": (50, 0, 4), "one_read": (2, 2, 0), "cut_off": (8, 6, 0)}
    assert sum(part["difference"] for part in audit["parts"]) == pytest.approx(audit["difference"])
    assert "13.3% of the answers of base are likely cut off by the limit on new tokens: raise it" in err
    assert "the logs don't say the limit on new tokens" in " ".join(out.split())
    said = (tmp_path / "out" / "audit.md").read_text()
    assert "mmstar: the benchmark's parser can't read 16.7% of the answers of base" in said
    assert "+0.1000, 150% of it, where one or both are cut off (6 gained, 0 lost" in said
    assert (tmp_path / "out" / "audit.csv").exists()
    assert "Format audit" in (tmp_path / "out" / "comparison.html").read_text()


def test_a_limit_far_above_the_longest_answer_cuts_nothing_off(capsys, tmp_path):
    base, merged = ([star(answer, place) for place, answer in enumerate(side)] for side in (BASE, MERGED))
    _, err, (audit, *_) = compared(capsys, tmp_path, base, merged, generation_kwargs={"max_new_tokens": 128})
    assert {part["part"] for part in audit["parts"]} == {"bare", "one_read", "neither_read"}
    assert "cut off" not in err


def test_a_log_without_a_limit_whose_answers_look_whole_says_so(capsys, tmp_path):
    short = [star("AB"[place % 2], place) for place in range(40)]
    out, err, (audit, *_) = compared(capsys, tmp_path, short, short)
    assert "the logs don't say the limit on new tokens, and no answers look as if one had cut them off" in " ".join(
        out.split()
    )
    assert [side["cut_off"] for side in audit["sides"]] == [0, 0]
    assert "cut off" not in err


def test_a_limit_that_the_longest_answers_can_have_reached_is_taken_for_reached(capsys, tmp_path):
    base, merged = ([star(answer, place) for place, answer in enumerate(side)] for side in (BASE, MERGED))
    _, err, _ = compared(capsys, tmp_path, base, merged, generation_kwargs={"max_new_tokens": 4})
    assert "13.3% of the answers of base are likely cut off" in err


def test_counted_tokens_are_held_against_the_logged_limit(capsys, tmp_path):
    def side(answers):
        return [
            star(answer, place, token_counts=[{"output_tokens": 5 if len(answer) > 2 else 2}])
            for place, answer in enumerate(answers)
        ]

    _, _, (audit, *_) = compared(capsys, tmp_path, side(BASE), side(MERGED), generation_kwargs={"max_new_tokens": 5})
    assert [round(one["cut_off"] * 60) for one in audit["sides"]] == [8, 2]
    assert audit["sides"][0]["length"] == pytest.approx((8 * 5 + 52 * 2) / 60)
    assert not audit["sides"][0]["sure"]


def test_a_benchmark_whose_parser_nobody_knows_has_no_audit_rather_than_zeros(capsys, tmp_path):
    for name in ("base", "merged"):
        samples = [
            {"doc_id": place, "target": "A", "filtered_resps": "A", "exact_match": float(place % 2)}
            for place in range(30)
        ]
        write_run(tmp_path / name, {"mine": samples})
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "merged"), "--draws", "1000"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "mine: format audit not available: nobody says which answers its scoring can read" in out
    assert "the answers' part in the difference" not in out
