"""What lmms-eval loads at start: the entry point of the model type, and our task folder in its search path.

lmms-eval reads this on every start, `lmms-eval models` too, so nothing heavy is imported here.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lmms_plam.harness import outcome
from lmms_plam.paths import data_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmms_eval.models.registry_v2 import ModelManifest

TASKS_MODULE = "lmms_eval.tasks"
COMMAND_LINE = "lmms_eval.cli.dispatch"
"""The module through which lmms-eval's commands, and no programs, come."""


def manifest() -> ModelManifest:
    """Entry point (group `lmms_eval.models`): declare the model type `plam` and make our tasks findable."""
    from lmms_eval.models.registry_v2 import ModelManifest

    make_tasks_findable()
    if COMMAND_LINE in sys.modules:
        outcome.watch()
        if "plam" in sys.argv:
            outcome.watch_reader()
    return ModelManifest(
        model_id="plam",
        simple_class_path="lmms_plam.harness.model.PlamSimple",
        chat_class_path="lmms_plam.harness.model.Plam",
    )


def make_tasks_findable() -> None:
    """Add our task folder to lmms-eval's task search path, now or as soon as its task module is imported.

    lmms-eval has an entry point for models, none for tasks. Should this stop working with a later lmms-eval,
    `--include_path` with the folder that `plam doctor` prints does the same.
    """
    module = sys.modules.get(TASKS_MODULE)
    if module is not None and hasattr(module, "TaskManager"):
        _extend_search_path(module)
    elif not any(isinstance(finder, _OnTasksImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnTasksImport())


class _OnTasksImport(importlib.abc.MetaPathFinder):
    """Lets the import of lmms-eval's task module take its course, then extends the module; once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != TASKS_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _extend_search_path(module)
                if outcome.is_watched():
                    _watch_evaluations(module)
                    _name_runs_without_commas()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _extend_search_path(module: ModuleType) -> None:
    manager = module.TaskManager
    original = manager.initialize_tasks
    if getattr(original, "finds_plam_tasks", False):
        return

    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> Any:
        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        if include_defaults:
            paths.append(str(data_folder("tasks")))
        return original(self, include_path=paths or None, include_defaults=include_defaults)

    initialize_tasks.finds_plam_tasks = True  # type: ignore[attr-defined]
    manager.initialize_tasks = initialize_tasks


def _watch_evaluations(module: ModuleType) -> None:
    """Look after each evaluation that lmms-eval's command line begins: the first thing it makes is a task manager."""
    manager = module.TaskManager
    original = manager.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, model_name: str | None = None, **kwargs: Any) -> None:
        if model_name is None:
            original(self, *args, **kwargs)
            return
        from lmms_plam.harness import arguments, host, preflight  # as heavy as lmms-eval, all of which is loaded by now

        given = host.evaluation_begins(model_name)
        settings = arguments.read_settings(given.model_args) if given else None
        original(self, *args, model_name=model_name, **kwargs)
        if given and settings:
            preflight.check_run(given, settings, self)

    manager.__init__ = __init__


def _name_runs_without_commas() -> None:
    """Let `--wandb_args project=plam` do: lmms-eval names the run by --model_args, and parts the name at commas."""
    utils = sys.modules["lmms_eval.utils"]
    shorten = getattr(utils, "sanitize_long_string", None)
    if shorten is None:
        return  # then a later lmms-eval names its runs otherwise

    def sanitize_long_string(text: str, *args: Any, **kwargs: Any) -> Any:
        return shorten(text.replace(",", "+") if text.startswith("plam_") else text, *args, **kwargs)

    utils.sanitize_long_string = sanitize_long_string  # type: ignore[attr-defined]
