"""Several processes on a CPU answer as one does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from family_folders import of_model
from test_harness_runs import evaluate
from tiny_tasks import write_tasks

from lmms_plam.attention.record import AttentionRecord
from lmms_plam.stats.matrix import ScoreMatrix

FAMILIES = ("plam_probe_digits", "plam_compare_digits", "plam_attention_digits")
LIMIT = 15  # odd, so that lmms-eval pads one process's requests with repeated ones


def config_file(pair, folder: Path) -> Path:
    path = folder / "pair.yaml"
    content = {"vlm": str(pair.vlm), "base_lm": str(pair.base_lm), "merge": {"start_layer": 1}}
    path.write_text(yaml.safe_dump({**content, "backend_args": pair.backend_args}))
    return path


def run(config: Path, output: Path, *launch: str) -> dict[str, object]:
    """Run the harness in processes of its own; return its table, its answers, and what family tasks saved."""
    arguments = f"--model plam --model_args config={config} --tasks plam_digits,{','.join(FAMILIES)} --limit {LIMIT}"
    command = [sys.executable, *launch, "-m", "lmms_eval", *arguments.split(), "--output_path", str(output)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--log_samples"], env=variables, capture_output=True, text=True, check=False)
    found = list(output.glob("**/*_results.json"))
    assert found, done.stdout + done.stderr
    assert done.stderr.count("Running on rank") + done.stdout.count("Running on rank") == (2 if launch else 1)
    samples = [json.loads(line) for line in next(output.glob("**/*_samples_plam_digits.jsonl")).open()]
    answers = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
    matrices = {task: ScoreMatrix.read(of_model(output) / task / "matrix.parquet") for task in FAMILIES}
    saved = {
        task: (matrix.doc_ids.tolist(), matrix.variants, matrix.answers.tolist(), matrix.scores.tolist())
        for task, matrix in matrices.items()
    }
    record = AttentionRecord.read(of_model(output) / "plam_attention_digits" / "attention.parquet")
    saved["attention"] = tuple(
        np.nan_to_num(getattr(record, name), nan=-1).round(4).tolist() for name in ("mass", "inside", "entropy")
    )
    return {"results": json.loads(found[0].read_text())["results"], "answers": answers, "saved": saved}


def test_two_processes_answer_as_one_does_and_take_up_what_another_left(pairs, tmp_path, generated):
    config, probe = config_file(pairs["qwen2_5_vl"], tmp_path), FAMILIES[0]
    generated.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate("plam", f"config={config}", [probe], limit=LIMIT, output=tmp_path / "one")
    journal = of_model(tmp_path / "one") / probe / "answers.0.jsonl"
    journal.write_text(re.sub('"answer": ".*"', '"answer": "taken up"', journal.read_text()))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2")  # accelerate launch starts one on a CPU
    two = run(config, tmp_path / "two", *launch)
    assert two == run(config, tmp_path / "one")
    assert len(two["answers"]) == LIMIT
    answers = two["saved"][probe][2]
    assert sum({*given} == {"taken up"} for given in answers) == 3
    assert not list(tmp_path.rglob("answers.*.jsonl"))


def test_where_one_process_fails_the_others_end(pairs, tmp_path):
    config = config_file(pairs["qwen2_5_vl"], tmp_path)
    write_tasks(tmp_path)
    (tmp_path / "lone.py").write_text(
        "import os\nfrom tiny_tasks import ask\n\n\ndef ask_on_one(doc):\n"
        "    if os.environ['RANK'] == '1':\n        raise ValueError('only here')\n    return ask(doc)\n"
    )
    (tmp_path / "lone.yaml").write_text("include: tiny_look.yaml\ntask: lone\ndoc_to_text: !function lone.ask_on_one\n")
    arguments = f"--model plam --model_args config={config} --include_path {tmp_path} --tasks lone"
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "lmms_eval")
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *launch, *arguments.split()], env=variables, capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0
    assert "\nlmms-plam: ValueError: only here" in done.stderr
