"""`plam check`: what is wrong with a config and tasks, and what they will cost, before any weight is loaded."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmms_plam.cli.arguments import add_model_args, read_model_args
from lmms_plam.cli.doctor import Finding
from lmms_plam.errors import PlamError

if TYPE_CHECKING:
    from lmms_plam.families.cost import Prompt
    from lmms_plam.harness.preflight import Outline

NAME = "check"
HELP = "say what is wrong with a config and tasks, and what they will cost, without loading weights"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_args(parser)
    parser.add_argument("--tasks", default="", help="comma-separated tasks, as for lmms-eval")
    parser.add_argument("--include_path", help="a folder with tasks of your own")
    parser.add_argument("--limit", type=int, default=1, help="documents whose prompts are measured for each task (1)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if something is off. Weights and data that aren't here are not fetched."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    findings = list(_look(arguments))
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.well else 'off'}  {finding.subject}: {finding.detail}")
    return 0 if all(finding.well for finding in findings) else 1


def _look(arguments: argparse.Namespace) -> Iterator[Finding]:
    try:
        settings = read_model_args(arguments)
    except PlamError as error:  # before anything heavy is imported
        yield Finding("config", False, str(error))
        return
    from lmms_eval.tasks import TaskManager
    from loguru import logger

    from lmms_plam.harness import host, preflight

    logger.remove()  # lmms-eval speaks of each file it doesn't like
    yield Finding("config", True, f"{settings.name}: {settings.vlm} <- {settings.base_lm or 'nothing to merge'}")
    try:
        outline = preflight.outline_model(settings, fetch=False)
    except PlamError as error:
        yield Finding("model", False, str(error))
        return
    yield from _describe(outline)
    manager = TaskManager(include_path=arguments.include_path, model_name=outline.backend)
    for name in filter(None, arguments.tasks.split(",")):
        try:
            tasks = host.find_tasks([name], manager)
        except PlamError as error:
            yield Finding(name, False, str(error))
            continue
        for task in tasks:
            try:
                preflight.check_task(task, outline)
                yield Finding(task, True, "; ".join(_look_at_data(task, outline, arguments.limit)))
            except PlamError as error:
                yield Finding(task, False, str(error))


def _describe(outline: Outline) -> Iterator[Finding]:
    skeleton, settings = outline.skeleton, outline.settings
    if skeleton is None:
        yield Finding(
            "model", True, f"backend {outline.backend}; transformers can't build it from its config alone, so that "
            "layers and merges show when it is loaded"
        )  # fmt: skip
        return
    size = sum(parameter.numel() for parameter in skeleton.parameters())
    width = 4 if str(settings.backend_args.get("dtype", "")).endswith("float32") else 2
    yield Finding(
        "model", True, f"backend {outline.backend}, {outline.depth} decoder layers, {size / 1e6:,.0f} million weights: "
        f"{size * width / 2**30:,.2f} GiB in {8 * width} bits, {settings.family_memory:g} GiB more at most for probes "
        "and comparisons, and what lmms-eval's backend takes for a prompt"
    )  # fmt: skip
    for name, plan in outline.plans.items():
        layers = f"layers {plan.layers.start} to {plan.layers.stop - 1}"
        warnings = "".join(f"; {warning}" for warning in plan.warnings)
        yield Finding(name, True, f"{len(plan.merged)} tensors ({', '.join(plan.modules)}) in {layers}{warnings}")

    if settings.merge is not None and "merge" not in outline.plans:
        yield Finding(
            "merge", True, f"sizes fit; the tensors of {settings.base_lm} aren't here, so that the rest shows in a run"
        )  # fmt: skip


def _look_at_data(name: str, outline: Outline, limit: int) -> Iterator[str]:
    """Say what a task's documents show, if they are here.

    Raises:
        PlamError: metadata that can't be meant.
    """
    from lmms_plam.families.wrapped import load_wrapped
    from lmms_plam.harness import host

    family = host.family_config(name)
    task = load_wrapped(family["of"] if family and "of" in family else name, outline.backend)
    if task is None:
        yield "its documents aren't here, so that metadata, images and cost show in its run"
        return
    documents = task.eval_docs
    yield f"{len(documents):,} documents"
    prompts = _measure(task, outline, limit)
    if not prompts:
        yield "its prompts can't be built without the backend, so that the cost shows in its run"
        return
    prompt = max(prompts, key=lambda one: one.tokens)
    yield f"prompts of {prompt.tokens:,} tokens ({prompt.text_after} of text after the first image's start)"
    if family and outline.depth:
        yield from _cost(family, outline, prompt)


def _measure(task: Any, outline: Outline, limit: int) -> list[Prompt]:
    from transformers import AutoProcessor

    from lmms_plam.families.cost import measure_prompt

    sizes = {name: value for name, value in outline.settings.backend_args.items() if name.endswith("_pixels")}
    try:
        processor = AutoProcessor.from_pretrained(outline.settings.vlm, **sizes)
        documents = task.eval_docs
        return [
            measure_prompt(outline.skeleton, processor, task.doc_to_messages(documents[index]))
            for index in range(min(limit, len(documents)))
        ]
    except Exception:  # an estimate that can't be made is no fault of the run
        return []


def _cost(family: Mapping[str, Any], outline: Outline, prompt: Prompt) -> Iterator[str]:
    from lmms_plam.families.cost import decoder_share

    assert outline.skeleton is not None
    share = decoder_share(outline.skeleton, prompt)
    cost = family["class"].cost(family, outline, prompt, share)
    yield f"its prompts cost about {cost:.1f} ordinary runs, and its answers come on top"
