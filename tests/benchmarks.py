"""The papers' benchmarks for running upstream's unmodified tasks offline, and a model that answers them.

The tasks ask `datasets` for hub datasets such as `lmms-lab-encoder/POPE`. Where a folder of that name lies in the
working directory, `datasets` reads it instead, so a run in the folder that `write_benchmarks` fills needs neither hub
nor patches, also in a process of its own. The documents are in benchmark_tables.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark_tables as tables
import datasets
import pytest
import yaml
from benchmark_tables import LETTERS, Document, Table
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A task of lmms-eval.

    Attributes:
        table: its documents.
        right: the answer that counts as right.
        wrong: one that doesn't.
        beside: further tables that the task reads.
    """

    table: Table
    right: Callable[[Document], str]
    wrong: Callable[[Document], str]
    beside: tuple[Table, ...] = ()


def write_benchmarks(folder: Path) -> None:
    """Write every table as Parquet to `folder/<dataset's hub name>`, with the card that names configs and splits."""
    every = [table for benchmark in BENCHMARKS.values() for table in (benchmark.table, *benchmark.beside)]
    for path in dict.fromkeys(table.path for table in every):
        (folder / path).mkdir(parents=True)
        files: dict[str, list[dict[str, str]]] = {}
        parts = {(table.config, table.split): table for table in every if table.path == path}
        for table in parts.values():
            file = f"{table.config}-{table.split}.parquet"
            documents = datasets.Dataset.from_list(list(table.documents()), features=datasets.Features(table.columns))
            documents.to_parquet(folder / path / file)
            files.setdefault(table.config, []).append({"split": table.split, "path": file})
        configs = [{"config_name": name, "data_files": listed} for name, listed in files.items()]
        (folder / path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")


def scripted_answer(task: str, doc_id: int, document: Document, skill: float, seed: int = 0) -> str:
    """Return the right answer with probability `skill`, drawn from the document's id: the same at every call."""
    benchmark = BENCHMARKS[task]
    draw = zlib.crc32(f"{seed} {task} {doc_id}".encode()) / 2**32
    return benchmark.right(document) if draw < skill else benchmark.wrong(document)


class ScriptedModel(lmms):
    """A model for the harness that answers as `scripted_answer` does."""

    def __init__(self, skill: float = 0.6, seed: int = 0) -> None:
        super().__init__()
        self.skill, self.seed = skill, seed

    def generate_until(self, requests: list[Instance]) -> list[str]:
        answers = []
        for request in requests:
            doc_id, task, split = request.args[-3:]
            answers.append(scripted_answer(task, doc_id, self.task_dict[task][split][doc_id], self.skill, self.seed))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


@contextmanager
def benchmarks_at_hand(folder: Path) -> Iterator[None]:
    """Work in the folder that `write_benchmarks` filled, with a judge for HallusionBench in place of its service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("lmms_eval.tasks.hallusion_bench.utils.requests", ScriptedJudge())
        yield


class ScriptedJudge:
    """Stands in for `requests` where HallusionBench posts to a judge: a yes or no that agrees is correct."""

    def post(self, url: str, json: dict[str, Any], **_: Any) -> ScriptedJudge:
        text = json["messages"][0]["content"]
        reference = text.split("Reference answer: ")[1].split("\n")[0]
        prediction = text.split("Prediction answer:")[1].split("\n")[0]
        self._verdict = "correct" if prediction[:2].lower() == reference[:2].lower() else "incorrect"
        return self

    def raise_for_status(self) -> None:
        pass

    def json(self) -> dict[str, Any]:
        return {"choices": [{"message": {"content": self._verdict}}]}


def _another_letter(letter: str, among: str = LETTERS) -> str:
    return among[(among.index(letter) + 1) % len(among)]


def _opposite(answer: str) -> str:
    return {"yes": "no", "no": "yes"}[answer.lower()]


def _mmbench(table: Table) -> Benchmark:
    return Benchmark(
        table,
        right=lambda doc: doc["answer"],
        wrong=lambda doc: _another_letter(doc["answer"], "AB" if doc["C"] == "nan" else LETTERS),
    )


def _pope(table: Table) -> Benchmark:
    return Benchmark(
        table,
        right=lambda doc: doc["answer"].capitalize(),
        wrong=lambda doc: _opposite(doc["answer"]),
    )


def _mathvista(doc: Document) -> str:
    return LETTERS[doc["choices"].index(doc["answer"])] if doc["choices"] else doc["answer"]


BENCHMARKS: dict[str, Benchmark] = {
    "mmstar": Benchmark(
        tables.mmstar,
        right=lambda doc: doc["answer"],
        wrong=lambda doc: _another_letter(doc["answer"]),
    ),
    "mme": Benchmark(
        tables.mme,
        right=lambda doc: doc["answer"],
        wrong=lambda doc: _opposite(doc["answer"]),
    ),
    "mmmu_val": Benchmark(
        tables.mmmu,
        right=lambda doc: doc["answer"],
        wrong=lambda doc: "0" if doc["question_type"] == "open" else _another_letter(doc["answer"]),
    ),
    "mmbench_en_dev_static": _mmbench(tables.mmbench),
    "mmbench_cn_dev_static": _mmbench(tables.mmbench_cn),
    "mmbench_en_dev": _mmbench(tables.mmbench),
    "mmbench_cn_dev": _mmbench(tables.mmbench_cn),
    "mmbench_cn_cc": _mmbench(tables.mmbench_cc),
    "mmbench_ru_dev": _mmbench(tables.mmbench_ru),
    "seedbench_2_plus": Benchmark(
        tables.seedbench_2_plus,
        right=lambda doc: f"{doc['answer']}. {doc['choice_' + doc['answer']]}",
        wrong=lambda doc: _another_letter(doc["answer"]).lower(),
    ),
    "realworldqa": Benchmark(
        tables.realworldqa,
        right=lambda doc: doc["answer"],
        wrong=lambda doc: "D",
    ),
    "pope": _pope(tables.pope),
    "pope_adv": _pope(tables.pope_adversarial),
    "pope_pop": _pope(tables.pope_popular),
    "pope_random": _pope(tables.pope_random),
    "gqa": Benchmark(
        tables.gqa_questions,
        right=lambda doc: doc["answer"].capitalize() + ".",
        wrong=lambda doc: "a cat",
        beside=(tables.gqa_images,),
    ),
    "textvqa_val": Benchmark(
        tables.textvqa,
        right=lambda doc: doc["ocr_tokens"][0],
        wrong=lambda doc: "nothing",
    ),
    "scienceqa_img": Benchmark(
        tables.scienceqa,
        right=lambda doc: f"{LETTERS[doc['answer']]}.",
        wrong=lambda doc: _another_letter(LETTERS[doc["answer"]]),
    ),
    "hallusion_bench_image": Benchmark(
        tables.hallusion,
        right=lambda doc: "Yes." if doc["gt_answer"] == "1" else "No.",
        wrong=lambda doc: "No." if doc["gt_answer"] == "1" else "Yes.",
    ),
    "ai2d": Benchmark(
        tables.ai2d,
        right=lambda doc: f"{LETTERS[int(doc['answer'])]}. {doc['options'][int(doc['answer'])]}",
        wrong=lambda doc: _another_letter(LETTERS[int(doc["answer"])]),
    ),
    "mathvision_testmini": Benchmark(
        tables.mathvision,
        right=lambda doc: f"The answer is \\boxed{{{doc['answer']}}}.",
        wrong=lambda doc: "The answer is \\boxed{99}.",
    ),
    **dict.fromkeys(
        ("mathvista_testmini_cot_static", "mathvista_testmini_solution_static", "mathvista_testmini_format_static"),
        Benchmark(
            tables.mathvista,
            right=lambda doc: f"The answer is {_mathvista(doc)}.",
            wrong=lambda doc: "A" if doc["choices"] else "It may be 7 or 8.",
        ),
    ),
}
"""By lmms-eval's task name."""
