"""Scoring an answer by the wrapped task, tried again only where that may help.

lmms-eval tries a task's `process_results` five times, 2 s apart, whatever it raises. That is for judges over the
network; an error in code or data would cost those 8 s for each document, and end nameless.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lmms_eval.api.task import ConfigurableTask

from lmms_plam.errors import DataError
from lmms_plam.harness import outcome
from lmms_plam.scoring.scorer import DOC_ID

_COMES_AGAIN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What is wrong in code or data, whereas a judge over the network may answer the next time."""


def process_results(task: ConfigurableTask, of: str, doc: Mapping[str, Any], results: list[Any]) -> Mapping[str, Any]:
    """Return what the wrapped task's `process_results` makes of an answer.

    Args:
        task: the family task.
        of: the wrapped task's name.
        doc: the document.
        results: its answers.

    Raises:
        DataError: what it raised, and of which document.
    """
    try:
        try:
            values: Mapping[str, Any] = inspect.unwrap(ConfigurableTask.process_results)(task, doc, results)
        except _COMES_AGAIN:
            raise
        except Exception:
            values = ConfigurableTask.process_results(task, doc, results)
    except Exception as error:
        raise DataError(
            f"{task.config.task}: document {doc[DOC_ID]}: {of}'s process_results fails on {results[0]!r}: "
            f"{outcome.sentence(error)}"
        ) from error
    return values
