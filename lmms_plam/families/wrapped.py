"""A task as lmms-eval would load it, to look at its documents before a run."""

from __future__ import annotations

import inspect
from typing import Any

from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask

from lmms_plam.harness import host
from lmms_plam.scoring.declared import check_declared


class _Once(ConfigurableMessagesTask):
    """Asks for its data once, where lmms-eval asks five times 2 s apart."""

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        inspect.unwrap(ConfigurableTask.download)(self, dataset_kwargs)


def load_wrapped(name: str, backend: str) -> ConfigurableMessagesTask | None:
    """Return a task with its documents, or None where they aren't here or the task is a Python class.

    Args:
        name: the task's.
        backend: lmms-eval's model type, by which a task chooses its words.

    Raises:
        DataError: metadata that contradict the documents.
    """
    try:
        config = host.task_config(name)
        task = _Once(config=config, model_name=backend)
        documents = task.eval_docs_no_media
    except Exception:  # no class is common to what datasets raises of data that can't be had
        return None
    check_declared(name, config, documents)
    return task
