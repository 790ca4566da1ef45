"""A folder of lmms-eval tasks with a handful of documents each, for running the harness offline.

| task | what it has |
|---|---|
| tiny_look | six documents, an image each |
| tiny_compare | two images, interleaved with text for chat backends |
| tiny_polite | a prompt that depends on the model's name |
| tiny_choice | multiple choice, ranked by log-likelihood; upstream asks simple backends only |

Random models answer gibberish, so a document counts as right where its answer's checksum says so: about half do, and
another answer is likely to score otherwise.
"""

from __future__ import annotations

import ast
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "white", "black", "orange")
BACKENDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_hf", "internvl_hf")
COUNT = 6


def write_tasks(folder: Path) -> None:
    """Write the tasks' YAML, their documents as Parquet, and this file, whose functions the YAML names."""
    rows = [_row(index) for index in range(COUNT)]
    features = datasets.Features(
        {
            "index": datasets.Value("int64"),
            "image": datasets.Image(),
            "second": datasets.Image(),
            "question": datasets.Value("string"),
            "colour": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "tiny.parquet")
    shutil.copy(__file__, folder)
    for name, content in _YAML.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{_COMMON}{content}")


def picture(index: int, side: int = 84) -> Image.Image:
    """Return a circle on a coloured ground; neighbouring indices differ in colour, place and size."""
    image = Image.new("RGB", (side, side), COLOURS[index % len(COLOURS)])
    corner, size = 4 + 5 * index % 20, 30 + 7 * index % 25
    ImageDraw.Draw(image).ellipse((corner, 10, corner + size, 10 + size), fill=COLOURS[(index + 3) % len(COLOURS)])
    return image


def _row(index: int) -> dict[str, Any]:
    questions = ("What is the colour of the circle?", "Is there a circle?", "How large is it? Answer in a word.")
    return {
        "index": index,
        "image": picture(index),
        "second": picture(index + 1),
        "question": questions[index % len(questions)],
        "colour": COLOURS[index % len(COLOURS)],
    }


def one_image(doc: Mapping[str, Any]) -> list[Image.Image]:
    return [doc["image"].convert("RGB")]


def both_images(doc: Mapping[str, Any]) -> list[Image.Image]:
    return [doc["image"].convert("RGB"), doc["second"].convert("RGB")]


def ask(doc: Mapping[str, Any], kwargs: Mapping[str, str] | None = None) -> str:
    return doc["question"] + (kwargs or {}).get("post_prompt", "")


def ask_interleaved(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    first, second = both_images(doc)
    content = [
        {"type": "text", "text": "The first picture:"},
        {"type": "image", "url": first},
        {"type": "text", "text": " The second picture:"},
        {"type": "image", "url": second},
        {"type": "text", "text": doc["question"]},
    ]
    return [{"role": "user", "content": content}]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"luck": float((zlib.crc32(results[0].encode()) + doc["index"]) % 2)}


def rank(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Take the likeliest choice. lmms-eval 0.7.3 hands log-likelihoods on as text, on which its own scoring fails."""
    likelihoods = [ast.literal_eval(result)[0] for result in results]
    return {"acc": float(COLOURS[likelihoods.index(max(likelihoods))] == doc["colour"])}


def mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


_COMMON = """\
dataset_path: parquet
dataset_kwargs:
  data_files: {test: tiny.parquet}
test_split: test
doc_to_visual: !function tiny_tasks.one_image
doc_to_text: !function tiny_tasks.ask
doc_to_target: colour
metadata:
  version: 0
"""
_GENERATE = """\
output_type: generate_until
generation_kwargs: {max_new_tokens: 6, temperature: 0, do_sample: false}
process_results: !function tiny_tasks.score
metric_list:
  - {metric: luck, aggregation: !function tiny_tasks.mean, higher_is_better: true}
"""
_COMPARE = """\
doc_to_visual: !function tiny_tasks.both_images
doc_to_messages: !function tiny_tasks.ask_interleaved
"""
_POLITE = "lmms_eval_specific_kwargs:\n  default: {post_prompt: ' Please.'}\n" + "".join(
    f"  {backend}: {{post_prompt: ' Please, {backend}.'}}\n" for backend in BACKENDS
)
_CHOICE = """\
output_type: multiple_choice
doc_to_choice: [red, green, blue, white, black, orange]
process_results: !function tiny_tasks.rank
metric_list:
  - {metric: acc, aggregation: !function tiny_tasks.mean, higher_is_better: true}
"""
_YAML = {
    "tiny_look": _GENERATE,
    "tiny_compare": _GENERATE + _COMPARE,
    "tiny_polite": _GENERATE + _POLITE,
    "tiny_choice": _CHOICE,
}
