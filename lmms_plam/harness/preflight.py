"""What can be known of a run before any weight is loaded: names, fields, files, shapes, places to write.

lmms-eval loads the model first and looks at the rest afterwards. Whatever a config, a task's YAML, the VLM's config and
the headers of the files already show to be wrong is an error here, in seconds.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from lmms_plam.config import ModelConfig
from lmms_plam.errors import CheckpointError, ConfigError, PlamError, about
from lmms_plam.harness import host
from lmms_plam.harness.backends import backend_name, check_arguments, check_batch_size
from lmms_plam.harness.model_types import BACKENDS
from lmms_plam.merge import Checkpoint, FurtherFiles, MergePlan, plan_merge, read_vocabulary
from lmms_plam.merge.at_hand import AtHand, NotHere

_TOKENIZERS = ("tokenizer.*", "vocab.*", "tekken.*", "*.model", "*.tiktoken")


@dataclass(frozen=True, slots=True)
class Outline:
    """A model before its weights are loaded.

    Attributes:
        settings: its config.
        backend: lmms-eval's model type that will run it.
        skeleton: the VLM on the meta device, shapes without weights; None for one that transformers can't build from
            its config alone.
        plans: what each recipe will merge, by its place in the config (`merge`, `recipes.NAME`), as far as it is known.
    """

    settings: ModelConfig
    backend: str
    skeleton: PreTrainedModel | None
    plans: Mapping[str, MergePlan]

    @property
    def depth(self) -> int | None:
        """The number of decoder layers L, where it is known."""
        config = self.skeleton.config.get_text_config(decoder=True) if self.skeleton is not None else None
        return getattr(config, "num_hidden_layers", None)


class Foreseeing(Protocol):
    """A family task's class, as far as it can say what is wrong before a model is loaded."""

    def foresee(self, config: Mapping[str, Any], outline: Outline) -> None:
        """Check a task's YAML."""


def check_run(arguments: Namespace, settings: ModelConfig, manager: TaskManager) -> None:
    """Check what a command line of lmms-eval asks for.

    Raises:
        PlamError: the first thing that is wrong.
    """
    if arguments.tasks is None:
        raise ConfigError("--tasks is missing: which tasks?")
    if arguments.tasks.startswith("list") or Path(arguments.tasks).is_dir():
        return
    check_batch_size(arguments.batch_size)
    if arguments.output_path:
        check_output(Path(arguments.output_path))
    tasks = host.find_tasks(arguments.tasks.split(","), manager)
    outline = outline_model(settings)
    for task in tasks:
        check_task(task, outline)


def outline_model(settings: ModelConfig, *, fetch: bool = True) -> Outline:
    """Look at a model's config and files, and plan its merges.

    Args:
        settings: the model's config.
        fetch: whether the base LM's weights may be fetched from the hub, as a run will do.

    Raises:
        PlamError: what doesn't fit, or can't be read.
    """
    vlm = AtHand(settings.vlm, settings.vlm_revision)
    backend = backend_name(settings, vlm)
    check_arguments(settings, get_model(backend))
    if backend in BACKENDS.values():
        check_files(vlm)
    skeleton = _skeleton(vlm)
    recipes = {f"recipes.{name}": recipe for name, recipe in settings.recipes.items()}
    if settings.merge is not None:
        recipes["merge"] = settings.merge
    plans = {}
    if skeleton is not None and settings.base_lm is not None:
        checkpoint = Checkpoint if fetch else AtHand
        with checkpoint(settings.base_lm, settings.base_lm_revision) as base_lm:
            for name, recipe in recipes.items():
                by_token = "embeddings" in recipe.modules
                with about(name), suppress(NotHere):
                    vocabulary = read_vocabulary(vlm.place) if by_token else None
                    with FurtherFiles.of(recipe, checkpoint) as further:
                        plans[name] = plan_merge(skeleton, base_lm, recipe, vocabulary, further, loaded=False)
    return Outline(settings, backend, skeleton, plans)


def check_task(name: str, outline: Outline) -> None:
    """Let a family task look at its YAML, whatever model it will vary.

    Raises:
        PlamError: what the task will refuse.
    """
    config = host.family_config(name)
    foresee = getattr(config["class"], "foresee", None) if config else None
    if foresee is not None:
        foresee(config, outline)


def check_files(vlm: Checkpoint) -> None:
    """Look at what transformers will read of a VLM's folder: weights as far as their headers, and a tokenizer.

    What lies on the hub is looked at when it is fetched.

    Raises:
        CheckpointError: a file that is missing, damaged or truncated. (Without a tokenizer's files transformers makes
            one that knows no word.)
        UnsupportedError: a LoRA adapter, or a distributed checkpoint.
    """
    if vlm.place.commit is not None:
        return
    folder = vlm.place.folder
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise CheckpointError(f"{folder} has no tokenizer (tokenizer.json, vocab.json or the like); fetch it again")
    with vlm:
        for key in {file: key for key, file in vlm.files.items()}.values():
            vlm.describe(key)


def check_output(folder: Path) -> None:
    """Make the folder for results and see that files can be written there.

    Raises:
        PlamError: they can't.
    """
    trial = folder / f".{os.getpid()}.trial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        raise PlamError(f"--output_path {folder} can't be written: {error.strerror or error}") from error


def _skeleton(vlm: Checkpoint) -> PreTrainedModel | None:
    try:
        config = AutoConfig.from_pretrained(vlm.place.folder)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
        return model
    except Exception:  # a class of its own, say, which the backend knows; what is really wrong shows when it is loaded
        return None
