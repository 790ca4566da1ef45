"""lmms-eval's `--use_cache` serves an answer of ours only to the very question that it answered."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import datasets
import numpy as np
import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.caching.response_cache import ResponseCache
from PIL import Image
from test_harness_runs import config_file, evaluate
from tiny_tasks import COUNT, picture

from lmms_plam.harness import host
from lmms_plam.harness.model import Plam

PROBE = "task: look_probe\nclass: !function lmms_plam.families.MaskingProbe\nof: tiny_look\n"


@pytest.mark.parametrize("simple", [False, True])
@pytest.mark.parametrize("task", ["tiny_look", "look_probe"])
def test_a_picture_corrected_in_place_is_asked_again(pairs, task_folder, tmp_path, generated, task, simple):
    own = shutil.copytree(task_folder, tmp_path / "own")
    (own / "look_probe.yaml").write_text(PROBE)
    config = config_file(pairs["qwen2_5_vl"], tmp_path)

    def asked() -> int:
        before = generated.prompts
        evaluate(
            "plam",
            f"config={config}",
            [task],
            limit=COUNT,
            include=own,
            use_cache=str(tmp_path / "cache"),
            force_simple=simple,
        )
        return generated.prompts - before

    assert [asked(), asked()] == [COUNT, 0]
    documents = datasets.Dataset.from_parquet(str(own / "tiny.parquet"), keep_in_memory=True)
    corrected = [{**row, "image": picture(17)} if row["index"] in (1, 4) else row for row in documents]
    datasets.Dataset.from_list(corrected, features=documents.features).to_parquet(own / "tiny.parquet")
    assert [asked(), asked()] == [2, 0]


class Asked:
    """Stands in for a model: counts what reaches it."""

    backend_name, fingerprint = "none", "same"
    prompt = Plam.prompt

    def __init__(self, document: dict[str, Any]) -> None:
        self.task_dict, self.count = {"task": {"test": [document]}}, 0

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.count += len(requests)
        return ["an answer"] * len(requests)

    generate_until_multi_round = generate_until


def say(doc: dict[str, Any], after: str = "") -> list[dict[str, Any]]:
    content = [{"type": "video", "url": doc.get("video")}, {"type": "text", "text": doc["question"] + after}]
    return [{"role": "system", "content": doc.get("system", "")}, {"role": "user", "content": content}]


def show(doc: dict[str, Any]) -> list[Any]:
    return [doc[name] for name in ("image", "video", "audio") if name in doc]


def later(doc: dict[str, Any], previous: list[str] | None = None, **options: Any) -> str:
    return doc["then"] if previous else doc["question"]


def chat(doc: dict[str, Any], **arguments: Any) -> tuple[str, tuple[Any, ...]]:
    return "generate_until", ("context", say, arguments, 0, "task", "test")


def simple(doc: dict[str, Any], **arguments: Any) -> tuple[str, tuple[Any, ...]]:
    return "generate_until", ("context", arguments, show, 0, "task", "test")


def rounds(doc: dict[str, Any], **arguments: Any) -> tuple[str, tuple[Any, ...]]:
    return "generate_until_multi_round", ("context", arguments, show, partial(later, tone="dry"), 0, "task", "test")


@pytest.fixture
def reaches(tmp_path, monkeypatch):
    """Say whether a question reaches the model, as none that was asked before is the same."""

    def ask(document: dict[str, Any], form: Any, *, ours: bool = True, **arguments: Any) -> bool:
        model, another = Asked(document), Asked(document)
        host.announce(model)
        answering = model if ours else another
        kind, built = form(document, **arguments)
        metadata = {"task": "task", "doc_id": 0, "repeats": 1, "split": "test"}
        cache.execute(answering, kind, [Instance(kind, built, 0, metadata)])
        return bool(answering.count)

    monkeypatch.setattr(host, "_running", None)
    cache = ResponseCache(str(tmp_path / "answers.db"), str(tmp_path / "answers.jsonl"))
    yield ask
    cache.close()


QUESTION = {"question": "What?", "video": "clip.mp4", "then": "And then?"}


@pytest.mark.parametrize(
    ("form", "change", "arguments"),
    [
        (chat, {"question": "Who?"}, {}),
        (chat, {"system": "Be brief."}, {}),
        (chat, {"video": "other.mp4"}, {}),
        (chat, {}, {"min_new_tokens": 3}),
        (chat, {}, {"length_penalty": 2}),
        (simple, {"image": Image.new("RGB", (4, 4), "red")}, {}),
        (simple, {"audio": {"array": np.ones(8), "sampling_rate": 8000}}, {}),
        (rounds, {"then": "And why?"}, {}),
    ],
)
def test_whatever_else_is_asked_is_another_question(reaches, form, change, arguments):
    """lmms-eval's own keys hold none of this; those of other models stay as they are."""
    for ours in (True, False):
        assert reaches(QUESTION, form, ours=ours)
        assert reaches(QUESTION | change, form, ours=ours, **arguments) is ours
        assert not reaches(QUESTION | change, form, ours=ours, **arguments)


@pytest.mark.parametrize("form", [chat, simple, rounds])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_that_a_prompt_names_counts_by_what_it_holds(reaches, tmp_path, form, scheme):
    clip = tmp_path / "clip.mp4"
    question = QUESTION | {"video": f"{scheme}{clip}", "audio": f"{scheme}{clip}"}
    clip.write_bytes(b"one")
    assert [reaches(question, form), reaches(question, form)] == [True, False]
    clip.write_bytes(b"two")
    assert [reaches(question, form), reaches(question, form)] == [True, False]
