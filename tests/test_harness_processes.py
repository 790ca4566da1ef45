"""Several processes on a CPU answer as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml


def run(pair, folder: Path, *launch: str) -> dict[str, object]:
    config = folder / "pair.yaml"
    content = {"vlm": str(pair.vlm), "base_lm": str(pair.base_lm), "merge": {"start_layer": 1}}
    config.write_text(yaml.safe_dump({**content, "backend_args": pair.backend_args}))
    output = folder / f"runs{len(launch)}"
    arguments = f"--model plam --model_args config={config} --tasks plam_digits,plam_probe_digits --limit 15"
    command = [sys.executable, *launch, "-m", "lmms_eval", *arguments.split(), "--output_path", str(output)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--log_samples"], env=variables, capture_output=True, text=True, check=False)
    found = list(output.glob("**/*_results.json"))
    assert found, done.stdout + done.stderr
    samples = [json.loads(line) for line in next(output.glob("**/*_samples_plam_digits.jsonl")).open()]
    answers = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
    return {"results": json.loads(found[0].read_text())["results"], "answers": answers}


def test_two_processes_answer_as_one_does(pairs, tmp_path):
    pair = pairs["qwen2_5_vl"]
    two = run(pair, tmp_path, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    assert two == run(pair, tmp_path)
    assert len(two["answers"]) == 15
