"""Prompts of any task as a backend renders them for its model, to do something else with than answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager, get_task_dict
from torch import Tensor

from lmms_plam.errors import ConfigError, DataError, UnsupportedError
from lmms_plam.harness import host
from lmms_plam.harness.backends import one_at_a_time, own_copies
from lmms_plam.harness.intercept import Generate, intercept_generate, no_silent_failure
from lmms_plam.harness.prompts import prompt_digest, request_digest

_SINGLE = "generate_until"


@dataclass(frozen=True, slots=True)
class Questions:
    """The first documents of a task, as requests.

    Attributes:
        task: its name.
        splits: its documents, by split.
        requests: one for each document.
    """

    task: str
    splits: Mapping[str, Any]
    requests: Sequence[Instance]

    @property
    def texts(self) -> list[str]:
        """What is asked, in words: pictures and chat template left aside."""
        return [request.args[0] for request in self.requests]

    def digest(self) -> str:
        """Digest all that prompts are made of: texts, pictures, generation arguments."""
        return prompt_digest(
            [request_digest(one, self.splits[one.metadata["split"]][one.doc_id]) for one in self.requests]
        )

    def put_to(self, backend: lmms, ask: Callable[[Mapping[str, Any]], None]) -> None:
        """Have a backend render the prompts one by one.

        Args:
            backend: the lmms-eval backend.
            ask: gets each prompt as the arguments of `model.generate`.

        Raises:
            GenerationError: the backend failed, or `ask` did.
        """
        backend.task_dict[self.task] = self.splits
        with no_silent_failure(backend, self.requests) as in_hand:

            def answer(generate: Generate, **inputs: Any) -> Tensor:
                ask(inputs)
                in_hand.answered(1)
                return torch.cat((inputs["input_ids"], inputs["input_ids"][:, -1:]), dim=1)

            with one_at_a_time(backend), intercept_generate(backend.model, answer):
                backend.generate_until(own_copies(self.requests))


def load_questions(name: str, backend: str, limit: int, include_path: str | None = None) -> Questions:
    """Load a task as lmms-eval does, and build requests of its first documents.

    Args:
        name: the task's.
        backend: lmms-eval's model type, by which a task chooses its words.
        limit: how many documents at most.
        include_path: a folder with further tasks.

    Raises:
        ConfigError: no such task, or a name that stands for several.
        UnsupportedError: a task that asks for no answers.
        DataError: documents that can't be had.
    """
    manager = TaskManager(include_path=include_path, model_name=backend)
    tasks = host.find_tasks([name], manager, "--task")
    if tasks != [name]:
        raise ConfigError(f"--task {name} stands for {', '.join(tasks)}: name one of them")
    kind = host.task_config(name).get("output_type", _SINGLE)
    if kind != _SINGLE:
        raise UnsupportedError(
            f"--task {name} is of type {kind}: its prompts are given texts, and no answers asked for"
        )
    style = "simple" if get_model(backend).is_simple else "chat"
    try:
        task = get_task_dict([name], manager, style)[name]
        task.build_all_requests(limit=limit)
    except Exception as error:  # no class is common to what datasets raises of data that can't be had
        raise DataError(f"--task {name}: its documents can't be had ({type(error).__name__}: {error})") from error
    return Questions(name, task.dataset, task.instances)
