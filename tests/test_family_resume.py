"""What a killed run of a family task answered is taken up by the run it belongs to, and by no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from family_folders import of_model
from PIL import Image
from test_harness_runs import config_file, evaluate
from tiny_tasks import COUNT, picture

from lmms_plam.harness.journal import Journal, forget
from lmms_plam.harness.prompts import prompt_digest
from lmms_plam.stats.matrix import ScoreMatrix

MERGE = {"start_layer": 1, "lambda_lm": 1.0, "lambda_vlm": 0.0}
PROBE = "look_probe"


@pytest.fixture
def own(task_folder, tmp_path):
    """A folder of the user's own, with a probe of tiny_look."""
    folder = shutil.copytree(task_folder, tmp_path / "own")
    (folder / f"{PROBE}.yaml").write_text(
        f"task: {PROBE}\nclass: !function lmms_plam.families.MaskingProbe\nof: tiny_look\n"
    )
    return folder


@pytest.fixture
def run(own, generated):
    """Run the probe, stopped after some documents or to its end, and return how many were asked."""

    def go(config: Path, output: Path, stop_after: int | None = None, **options) -> int:
        generated.prompts, generated.stop_after = 0, stop_after
        options = {"limit": COUNT, "include": own, "output": output, **options}
        if stop_after is None:
            evaluate("plam", f"config={config}", [PROBE], **options)
        else:
            with pytest.raises(KeyboardInterrupt):
                evaluate("plam", f"config={config}", [PROBE], **options)
        return generated.prompts

    return go


def answers(output: Path) -> list[list[str]]:
    return ScoreMatrix.read(of_model(output) / PROBE / "matrix.parquet").answers.tolist()


def test_other_images_are_asked_again(pairs, own, run, tmp_path):
    config = config_file(pairs["qwen2_5_vl"], tmp_path)
    run(config, tmp_path / "runs", stop_after=4)
    documents = datasets.Dataset.from_parquet(str(own / "tiny.parquet"), keep_in_memory=True)
    others = [{**document, "image": picture(index + 7)} for index, document in enumerate(documents)]
    datasets.Dataset.from_list(others, features=documents.features).to_parquet(own / "tiny.parquet")
    run(config, tmp_path / "runs", stop_after=3)
    assert run(config, tmp_path / "runs") == COUNT - 3
    run(config, tmp_path / "whole")
    assert answers(tmp_path / "runs") == answers(tmp_path / "whole")


def test_chat_and_simple_prompts_do_not_mix(pairs, run, tmp_path):
    config = config_file(pairs["qwen2_5_vl"], tmp_path)
    cache = str(tmp_path / "cache")
    run(config, tmp_path / "runs", stop_after=4)
    assert run(config, tmp_path / "runs", force_simple=True, use_cache=cache) == COUNT
    assert run(config, tmp_path / "runs", use_cache=cache) == COUNT - 4


def test_a_run_that_ends_leaves_the_answers_of_others(pairs, run, tmp_path):
    configs = {}
    for name, merge in (("one", MERGE), ("other", {**MERGE, "start_layer": 2})):
        (tmp_path / name).mkdir()
        configs[name] = config_file(pairs["qwen2_5_vl"], tmp_path / name, merge=merge, probe={"weights": "merged"})
    run(configs["one"], tmp_path / "runs", stop_after=5)
    assert run(configs["one"], tmp_path / "runs", limit=2) == 0
    assert run(configs["other"], tmp_path / "runs") == COUNT
    assert run(configs["one"], tmp_path / "runs") == COUNT - 5
    assert not list(tmp_path.rglob("answers.*"))


def test_the_untouched_model_is_the_same_whatever_is_merged(pairs, run, tmp_path):
    config = config_file(pairs["qwen2_5_vl"], tmp_path, merge=MERGE)
    run(config, tmp_path / "runs", stop_after=2)
    config = config_file(pairs["qwen2_5_vl"], tmp_path, merge={**MERGE, "start_layer": 2})
    run(config, tmp_path / "runs", stop_after=2)
    config = config_file(pairs["qwen2_5_vl"], tmp_path, merge="none")
    assert run(config, tmp_path / "runs") == COUNT - 4


def test_a_backend_that_writes_into_its_requests_finds_its_answers_in_the_cache(pairs, run, tmp_path):
    config = config_file(pairs["llava"], tmp_path)
    assert run(config, tmp_path / "first", use_cache=str(tmp_path / "cache")) == COUNT
    assert run(config, tmp_path / "second", use_cache=str(tmp_path / "cache")) == 0
    assert answers(tmp_path / "first") == answers(tmp_path / "second")


@pytest.mark.parametrize(
    "line", [b"null", b"5", b"{}", b'{"doc_id": 1', b'{"doc_id": [], "variant": "x"}', b"\xff\xfe"]
)
def test_lines_that_are_no_answers_are_passed_over(tmp_path, line):
    with Journal(tmp_path) as journal:
        journal.write("prompt", {(0, "0"): "yes", (1, "0"): "no"})
    file = tmp_path / "answers.0.jsonl"
    file.write_bytes(line + b"\n" + file.read_bytes() + line)
    with Journal(tmp_path) as journal:
        assert journal.find((1, "0"), "prompt") == "no"
        assert journal.find((1, "0"), "another prompt") is None
        assert (2, "0") not in journal


def test_answers_are_forgotten_once_all_that_one_variant_gave_are_kept_elsewhere(tmp_path):
    with Journal(tmp_path) as journal, Journal(tmp_path, rank=1) as other:
        journal.write("prompt", {(0, "0"): "yes", (0, "1"): "no"})
        other.write("prompt", {(1, "0"): "yes"})
    forget(tmp_path, {(0, "0"), (0, "1")})
    with Journal(tmp_path) as journal:
        assert [key in journal for key in ((0, "0"), (0, "1"), (1, "0"))] == [True, False, True]
    forget(tmp_path, {(0, "0"), (1, "0")})
    assert not list(tmp_path.glob("answers.*"))


def painted(*palette: int) -> Image.Image:
    """A picture of a single colour, which its palette alone says."""
    image = Image.new("P", (4, 4))
    image.putpalette(palette)
    return image


def test_a_prompt_is_told_from_another_by_all_that_it_holds():
    prompts = [
        ("text", {"until": ["a"]}),
        ("text", {"until": ["b"]}),
        ("text", {"until": "a"}),
        (["text"], {"until": ["a"]}),
        ([{"type": "image", "url": Image.new("RGB", (4, 4))}],),
        ([{"type": "image", "url": Image.new("RGB", (4, 4), "red")}],),
        ([{"type": "image", "url": Image.new("RGB", (2, 8))}],),
        ([{"type": "image", "url": Image.new("L", (4, 12))}],),
        ([{"type": "image", "url": painted(255, 0, 0)}],),
        ([{"type": "image", "url": painted(0, 255, 0)}],),
        ([np.zeros(4)],),
        ([np.zeros(2)],),
        ([np.zeros((2, 2))],),
        ([np.zeros(4, dtype=np.int64)],),
        *(([torch.zeros(3000).index_fill(0, torch.tensor(place), 1)],) for place in (1000, 2000)),
        ([torch.zeros(3000, dtype=torch.bfloat16)],),
        ([torch.zeros(50, 60)],),
    ]
    assert len({prompt_digest(parts) for parts in prompts}) == len(prompts)
    assert [prompt_digest(parts) for parts in prompts] == [prompt_digest(parts) for parts in prompts]


def test_an_object_that_only_its_address_tells_is_never_taken_for_another():
    assert prompt_digest([one := object()]) != prompt_digest([one])
