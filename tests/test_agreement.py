"""The plateau without labels: read off answers alone, whatever they score."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_harness_runs import evaluate

from lmms_plam.probes.agreement import agreement_curve
from lmms_plam.probes.record import Origin, analyse
from lmms_plam.stats.matrix import ScoreMatrix

DEPTH = 10


def answers_settle_at(cut, documents=400, score=0.0):
    """Answers that are all other than the full model's below a cut, and the same from it on; scores say nothing."""
    return [
        {"doc_id": doc, "variant": str(layer), "score": score, "answer": "same" if layer >= cut else f"other {layer}"}
        for doc in range(documents)
        for layer in range(DEPTH + 1)
    ]


def test_the_onset_is_where_answers_become_the_full_models(tmp_path):
    ScoreMatrix.from_rows(answers_settle_at(4)).write(tmp_path / "matrix.parquet")
    found = analyse(tmp_path / "matrix.parquet", Origin("a_task"), draws=100)
    assert found.plateau.onset is None, "no score tells"
    assert (found.agreement.onset, found.agreement.estimate.interval) == (4, (4, 4))
    record = found.to_dict()["agreement"]
    assert record["onset"] == 4
    assert record["curve"] == {str(cut): float(cut >= 4) for cut in range(DEPTH)}, "the full model is no point of it"


def test_answers_are_equal_up_to_case_and_white_space():
    rows = answers_settle_at(0, documents=4)
    for row in rows[: DEPTH + 1]:
        row["answer"] = " Same\n" if row["variant"] == "3" else "same"
    rows[1]["answer"] = "same thing"
    curve = agreement_curve(ScoreMatrix.from_rows(rows), draws=10)
    assert curve.scores.tolist() == [1.0, 0.75, *[1.0] * 8]


def test_a_probe_of_digits_gives_both_onsets(tmp_path):
    evaluate("plam", "config=digits", ["plam_probe_digits"], output=tmp_path, limit=60)
    record = json.loads(next(tmp_path.rglob("plateau.json")).read_text())
    matrix = ScoreMatrix.read(next(tmp_path.rglob("matrix.parquet")))
    full = matrix.answers[:, matrix.column("12")]
    shares = {cut: float((matrix.answers[:, matrix.column(cut)] == full).mean()) for cut in map(str, range(12))}
    assert record["agreement"]["curve"] == pytest.approx(shares)
    assert record["agreement"]["onset"] == record["onset"] == 1
    points = json.loads(next(tmp_path.rglob("curve.json")).read_text())
    assert points[0]["divergence"] > 0.5 > 0.1 > points[6]["divergence"]
    assert points[12]["divergence"] == 0


def test_the_simulated_interval_holds_its_own_truth():
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import agreement_onset
    finally:
        sys.path.remove(folder)
    world = agreement_onset.WORLDS["settled"]
    found = agreement_onset.measure("sharp rise", 1000, world, repetitions=20, draws=200)
    assert found["holds"] >= 0.75
    assert np.isfinite(found["later by"])
