"""Files that others wrote end in a result or in one sentence, whatever stands where in them: never in a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_compare_runs import mme, plain, write_run
from test_plateau import documents, matrix_of, ramp

from lmms_plam.cli import main
from lmms_plam.probes.record import MATRIX, PLATEAU, Origin, analyse

ODD = (None, True, 3, -1.5, "x", "", [], [[1]], {}, {"x": {"y": 1}}, float("inf"), 10**400)
"""A value of each of JSON's types; Python's writer and reader take infinity too."""


def replacements(content: Any) -> Iterator[Any]:
    """Yield copies of JSON content in each of which one of its nodes is another value."""

    def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield path
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield from places(node[key], (*path, key))

    for path in places(content):
        for value in ODD:
            changed = [copy.deepcopy(content)]
            node: Any = changed
            for key in (0, *path)[:-1]:
                node = node[key]
            node[(0, *path)[-1]] = value
            yield changed[0]


def run_well(capsys, *arguments: str) -> None:
    """Run a command that must end with a result or with one sentence."""
    code = main(arguments)
    last = (capsys.readouterr().err.strip().splitlines() or [""])[-1]
    assert code in (0, 1) or (code == 2 and last.startswith("plam: ") and len(last) > 20), last


def pope(doc_id: int) -> dict[str, Any]:
    row = {"question_id": str(doc_id + 1), "score": 1.0, "prediction": "yes", "ground_truth": "yes"}
    return {"pope_accuracy": row, "pope_f1_score": row}


def mmstar(doc_id: int) -> dict[str, Any]:
    row = {"question_id": doc_id, "l2_category": "statistics", "score": doc_id % 2}
    return {"average": row, "math": row}


def mmmu(doc_id: int) -> dict[str, Any]:
    kind = "open" if doc_id == 1 else "multiple-choice"
    row = {"id": f"validation_{doc_id}", "subdomain": "Art", "question_type": kind, "answer": "B", "parsed_pred": ["B"]}
    return {"input": "Which?\nA. one\nB. two", "mmmu_acc": row}


def mmbench(doc_id: int) -> dict[str, Any]:
    row = {"index": doc_id % 2 * 1_000_000 + doc_id // 2, "prediction": "A", "answer": "A", "category": "ocr"}
    row |= {"question": "?", "A": "stop", "B": "go", "C": "nan", "D": "nan"}
    return {"gpt_eval_score": row}


def hallusion(doc_id: int) -> dict[str, Any]:
    row = {"category": "VS", "subcategory": "map", "set_id": "0", "figure_id": str(doc_id), "question_id": "1"}
    return {"aAcc": row | {"gt_answer": "1", "model_prediction": "Yes.", "correct": 1}}


TASKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "pope": pope,
    "mmstar": mmstar,
    "mmmu_val": mmmu,
    "mmbench_en_dev_static": mmbench,
    "hallusion_bench_image": hallusion,
    "mathvision_testmini": lambda _: {"mathvision_standard_eval": {"response": ["x"], "scores": [True]}},
    "mathvista_testmini_cot_static": lambda doc_id: {
        "accuracy": {"question_id": str(doc_id), "score": 1.0, "rule": "number", "read": "meant", "task": "fqa"}
    },
    "mathvista_testmini_cot": lambda doc_id: {
        "llm_as_judge_eval": {
            "question_id": str(doc_id),
            "extraction": "7",
            "true_false": True,
            "metadata": {"task": "fqa"},
        }
    },
    "textvqa_val": lambda doc_id: {"exact_match": 0.9, "submission": {"question_id": doc_id, "answer": "x"}},
    "mine": lambda doc_id: {"exact_match": {"score": 1.0, "image": doc_id // 2, "part": "a", "id": doc_id}},
}
DECLARED = {"metadata": [{"version": 1.0, "plam": {"cluster": "image", "stratum": "part", "question": "id"}}]}


def logged(task: str, count: int = 4) -> list[dict[str, Any]]:
    if task == "mme":
        return mme(0.5, pairs=2)
    asked = plain(count)
    return [{**sample, **TASKS[task](sample["doc_id"])} for sample in asked]


@pytest.mark.parametrize("task", [*TASKS, "mme"])
def test_a_logged_sample_of_any_content_is_read_or_refused(task, tmp_path, capsys):
    samples, configs = logged(task), {task: DECLARED if task == "mine" else {}}
    base = write_run(tmp_path / "base", {task: samples}, configs=configs)
    merged = write_run(tmp_path / "merged", {task: samples}, configs=configs)
    arguments = [str(base), str(merged), "--draws", "1000", "--json"]
    assert main(["compare", *arguments]) == 0
    file = next(merged.rglob("*.jsonl"))
    rest = "".join(json.dumps(sample) + "\n" for sample in samples[1:])
    for sample in replacements(samples[0]):
        file.write_text(json.dumps(sample) + "\n" + rest)
        run_well(capsys, "compare", *arguments)


@pytest.mark.parametrize("command", ["compare", "leaderboard"])
def test_a_results_file_of_any_content_is_read_or_refused(command, tmp_path, capsys):
    more = {
        "filter_list": [{"name": "none", "filter": [{"function": "take_first"}]}],
        "cluster_key": "image",
        "score_key": "score",
        "dataset_path": "nowhere",
        "dataset_name": "nothing",
        "dataset_kwargs": {"data_files": {"test": "x.parquet"}},
        "test_split": "test",
        "validation_split": "val",
    }
    for name in ("base", "merged"):
        tasks = {"mine": logged("mine"), "gqa": plain(4)}
        configs = {"mine": DECLARED | more, "gqa": more}
        scores = {"mine": {"exact_match": 1.0, "exact_match_stderr": 0.1}}
        config = {"limit": 4, "offset": 0}
        write_run(tmp_path / name, tasks, configs=configs, scores=scores, asked=9, config=config)
    places = [str(tmp_path / "base"), str(tmp_path / "merged")] if command == "compare" else [str(tmp_path)]
    arguments = [command, *places, "--draws", "1000", "--json"]
    assert main(arguments) == 0
    file = next((tmp_path / "merged").rglob("*_results.json"))
    for results in replacements(json.loads(file.read_text())):
        file.write_text(json.dumps(results))
        run_well(capsys, *arguments)


@pytest.fixture
def probe(tmp_path) -> Path:
    """The folder of a saved probe."""
    folder = tmp_path / "plam_probe_mine"
    folder.mkdir()
    cuts = np.arange(9)
    matrix_of(documents(ramp(2, 5, cuts=cuts), 20), cuts).write(folder / MATRIX)
    analyse(folder / MATRIX, Origin("plam_probe_mine", "abc"), draws=50).write(folder)
    return folder


READ = ("task", "metric", "perfect_answer", "queries", "n_without_image", "fingerprint")


def test_a_probes_record_of_any_content_is_read_or_refused(probe, capsys):
    arguments = ["plateau", str(probe), "--draws", "50", "--json"]
    assert main(arguments) == 0
    read = {name: value for name, value in json.loads((probe / PLATEAU).read_text()).items() if name in READ}
    for record in replacements(read):
        (probe / PLATEAU).write_text(json.dumps(record))
        run_well(capsys, *arguments)
    (probe / PLATEAU).write_text("[" * 100_000)
    run_well(capsys, *arguments)


KINDS = (pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.string(), pa.binary(), pa.list_(pa.string()))


def test_a_matrix_of_any_columns_is_read_or_refused(probe, capsys):
    whole, path = pq.read_table(probe / MATRIX), probe / MATRIX
    (probe / PLATEAU).unlink()
    tables = [whole.slice(0, count) for count in (0, 1, 9, 20)]
    for place, name in enumerate(whole.column_names):
        tables += [whole.drop_columns([name]), whole.append_column(name, whole[name])]
        tables += [whole.set_column(place, name, pa.nulls(len(whole), kind)) for kind in KINDS]
        for value in ODD[1:-1]:
            with suppress(pa.ArrowException):
                tables.append(whole.set_column(place, name, pa.array([value] * len(whole))))
    for table in tables:
        with suppress(pa.ArrowNotImplementedError):
            pq.write_table(table, path)
        for place in (probe, path):
            run_well(capsys, "plateau", str(place), "--draws", "50", "--json")


def test_a_damaged_matrix_is_read_or_refused(probe, capsys):
    path = probe / MATRIX
    (probe / PLATEAU).unlink()
    whole = path.read_bytes()
    damaged = [whole[:count] for count in range(0, len(whole), 97)]
    damaged += [whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :] for place in range(0, len(whole), 23)]
    for content in [*damaged, b"x" * 5000]:
        path.write_bytes(content)
        for place in (probe, path):
            run_well(capsys, "plateau", str(place), "--draws", "50", "--json")
