"""The places where lmms-eval must notice which model runs, and has no hook for it.

* A task picks its prompt by the literal `--model` name: it must see the backend's.
* The response cache's key holds the text of `--model_args`, not what the named files and weights contain; and of a
  prompt its leading text, not the pictures and whatever else is asked.
* A results folder must say what was merged; once it is written, answers kept for resuming can go.
* A failed evaluation is printed and forgotten, files that can't be written are a warning: a script must see both.

Each seam wraps one method or function of the host, once, and does nothing for other models than ours. They are written
against lmms-eval 0.7.3 and refuse to install on a host that lacks one, rather than let a stale answer pass.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sqlite3
import sys
import weakref
from argparse import Namespace
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import yaml
from lmms_eval.api.instance import Instance
from lmms_eval.caching import response_cache
from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from lmms_plam.errors import ConfigError, PlamError, UnsupportedError, did_you_mean
from lmms_plam.files import write_text
from lmms_plam.harness import outcome


class Guest(Protocol):
    """What the host's seams need to know of our model."""

    backend_name: str
    failures: dict[str, str]
    """By task, why it has no result although others may."""

    @property
    def fingerprint(self) -> str:
        """Equal where the same answers can be expected."""

    def prompt(self, request: Instance) -> str:
        """Return a digest of all that a request asks."""

    def record(self) -> dict[str, Any]:
        """Return what belongs beside the results, as JSON can hold it."""

    def results_written(self) -> None:
        """Be told that the results are on disk."""


_running: weakref.ref[Guest] | None = None
"""The `plam` model that was built last: lmms-eval runs one model at a time."""

_manager: TaskManager | None = None
"""The host's task manager, which knows the tasks of the user's own folders too."""

_prompts: dict[int, str] | None = None
"""While our requests go through the response cache: digests of what was asked, by the identity of their arguments."""
_ours = False
"""Whether the evaluation that the host's command line has begun last is of our model."""


def announce(model: Guest) -> None:
    """Make the host see this model's backend name, fingerprint and record from now on.

    Raises:
        UnsupportedError: the host has changed where we meet it.
    """
    global _running
    for owner, method, seam in _SEAMS:
        _wrap(owner, method, seam)
    _running = weakref.ref(model)


def running() -> Guest | None:
    """Return the `plam` model that the host runs, if any."""
    return _running() if _running is not None else None


def evaluation_begins(model_name: str) -> Namespace | None:
    """Be told that the host's command line begins an evaluation, whose failure must be seen if it is of our model.

    Returns:
        The command line's arguments; None for other models, and for a --config file, which holds several evaluations.

    Raises:
        UnsupportedError: the host has changed where we meet it.
    """
    global _ours
    _ours = model_name == "plam"
    if not _ours:
        return None
    main: Any = sys.modules["lmms_eval.__main__"]
    if not isinstance(main.traceback, SimpleNamespace):
        if "print_exc" not in main.cli_evaluate.__code__.co_names:
            raise UnsupportedError(_lacks("command line", "print_exc"))
        main.traceback = SimpleNamespace(print_exc=functools.partial(_note_failure, main.traceback.print_exc))
        outcome.watch_reader()
        outcome.watch_keyboard()
    arguments: Namespace = main.parse_eval_args()[1]
    return None if arguments.config else arguments


def _note_failure(print_exc: Callable[[], None]) -> None:
    """Where the host prints a failed evaluation's traceback and goes on: write the failure down, and end the run.

    Other evaluations of a --config file still get their turn, unless other processes wait for this one.
    """
    error = sys.exc_info()[1]
    if not _ours or error is None:
        print_exc()
        return
    outcome.failed(error)
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    if not (alone and sys.modules["lmms_eval.__main__"].parse_eval_args()[1].config):
        sys.exit(1)


def find_tasks(names: Collection[str], manager: TaskManager, option: str = "--tasks") -> list[str]:
    """Return the tasks, none of them a group, that names and patterns (`mme*`) of the command line stand for.

    Raises:
        ConfigError: a name that stands for none.
    """
    global _manager
    _manager = manager
    found: dict[str, None] = {}
    for name in names:
        matching = manager.match_tasks([name])
        if not matching and not Path(name).exists():
            hint = did_you_mean(name, manager.all_tasks)
            raise ConfigError(
                f"{option}: there is no task '{name}'.{hint} `lmms-eval tasks list` shows lmms-eval's own"
            )
        for task in matching:
            found |= dict.fromkeys(_members(task, manager))
    return list(found)


def _members(name: str, manager: TaskManager) -> list[str]:
    entry = manager.task_index.get(name, {"type": None})
    if entry["type"] not in ("group", "tag"):
        return [name] if entry["type"] else []
    listed = entry["task"] if entry["task"] != -1 else load_yaml_config(entry["yaml_path"], mode="simple")["task"]
    names = [one.get("task") if isinstance(one, dict) else one for one in listed]
    return [task for one in names if isinstance(one, str) for task in _members(one, manager)]


def family_config(name: str) -> dict[str, Any] | None:
    """Return the YAML of a task that is a Python class, with that class; None for any other task."""
    entry = (_manager or TaskManager()).task_index[name]
    if entry["type"] != "python_task":
        return None
    config: dict[str, Any] = load_yaml_config(entry["yaml_path"])
    return config


def task_config(name: str) -> dict[str, Any]:
    """Return the full YAML config of a task that lmms-eval or the user's --include_path has.

    Raises:
        ConfigError: no such task, or a name that stands for several.
        UnsupportedError: a task that is a Python class, or whose modules can't be imported here.
    """
    manager = _manager or TaskManager()
    if name not in manager.task_index:
        raise ConfigError(f"no task '{name}'.{did_you_mean(name, manager.all_tasks)}")
    entry = manager.task_index[name]
    if entry["type"] == "python_task":
        raise UnsupportedError(f"task '{name}' is a Python class, whose prompts and scoring can't be taken from a YAML")
    if entry["type"] != "task":
        raise ConfigError(f"'{name}' is a {entry['type']} of tasks: name one of them")
    try:
        config: dict[str, Any] = load_yaml_config(entry["yaml_path"])
    except yaml.YAMLError:
        raise
    except Exception as error:  # any, of a task's own modules: a package that is missing, a judge's key
        static = f"{name}_static"
        instead = f"; '{static}' asks no judge" if static in manager.task_index else ""
        raise UnsupportedError(
            f"task '{name}' can't be loaded here ({type(error).__name__}: {error}){instead}"
        ) from error
    return config


def wandb_run() -> Any:
    """Return the W&B run that lmms-eval has started (--wandb_args), or None."""
    wandb = sys.modules.get("wandb")
    return wandb.run if wandb is not None else None


def _wrap(owner: type | ModuleType, name: str, seam: Callable[..., Any]) -> None:
    original = getattr(owner, name, None)
    if original is None:
        raise UnsupportedError(_lacks(owner.__name__, name))
    if getattr(original, "seam", None) is seam:
        return

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return seam(original, *args, **kwargs)

    method.seam = seam  # type: ignore[attr-defined]
    setattr(owner, name, staticmethod(method) if inspect.ismethod(original) else method)


def _lacks(owner: str, name: str) -> str:
    return f"lmms-eval's {owner} has no '{name}': this lmms-plam is made for lmms-eval 0.7"


def _load_with_backend_name(load: Callable[..., Any], manager: TaskManager, *args: Any, **kwargs: Any) -> Any:
    global _manager
    _manager = manager
    model = running()
    if model is not None and manager.model_name == "plam":
        manager.model_name = model.backend_name
    return load(manager, *args, **kwargs)


def _cache_by_fingerprint(
    create: Callable[..., Any], *args: Any, model: Any = "", model_args: Any = "", **kwargs: Any
) -> Any:
    ours = running()
    if ours is not None and (model == "plam" or model is ours):
        model, model_args = "plam", {"fingerprint": ours.fingerprint}
    try:
        return create(*args, model=model, model_args=model_args, **kwargs)
    except (OSError, sqlite3.Error) as error:
        raise PlamError(
            f"can't write the response cache in {args[0] if args else kwargs.get('cache_root')}: {error}"
        ) from error


def _execute_by_prompt(
    execute: Callable[..., Any], cache: ResponseCache, lm: Any, request_type: str, requests: list[Instance]
) -> Any:
    global _prompts
    if lm is not running():
        return execute(cache, lm, request_type, requests)
    _prompts = {}
    try:
        return execute(cache, lm, request_type, requests)
    finally:
        _prompts = None


def _digest_whole_prompt(digest: Callable[..., Any], request: Instance) -> Any:
    model = running()
    if _prompts is None or model is None:
        return digest(request)
    key = id(request.arguments)  # which all requests of a family share, and the requests keep alive meanwhile
    if key not in _prompts:
        _prompts[key] = model.prompt(request)
    return _prompts[key]


def _save_with_record(
    save: Callable[..., Any], tracker: EvaluationTracker, results: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    model = running()
    if model is None:
        return save(tracker, results, *args, **kwargs)
    if model.failures:
        results["plam_failures"] = dict(model.failures)
    saved = save(tracker, results, *args, **kwargs)
    folder = Path(tracker.output_path or "") / tracker.general_config_tracker.model_name_sanitized
    if tracker.output_path:
        _require_written(folder / f"{_date(tracker)}_results.json", lambda text: bool(json.loads(text)))
        model.results_written()
    if tracker.general_config_tracker.model_source != "plam":
        return saved
    record = model.record()
    if tracker.output_path:
        write_text(folder / f"{tracker.date_id}_plam.json", json.dumps(record, indent=2))
    if (run := wandb_run()) is not None:
        run.config.update({"plam": record})
    return saved


def _save_samples(
    save: Callable[..., Any], tracker: EvaluationTracker, task_name: str, samples: Collection[Any]
) -> Any:
    saved = save(tracker, task_name=task_name, samples=samples)
    if running() is not None and tracker.output_path:
        folder = Path(tracker.output_path) / tracker.general_config_tracker.model_name_sanitized
        file = f"{_date(tracker)}_samples_{task_name}.jsonl"
        _require_written(folder / file, lambda text: text.count("\n") >= len(samples) and text.endswith("\n"))
    return saved


def _date(tracker: EvaluationTracker) -> str:
    return getattr(tracker, "date_id", "DATE")  # the host sets it only once it has got so far as to write


def _require_written(path: Path, is_whole: Callable[[str], bool]) -> None:
    """Make an error of what the host warns of, or overlooks: results that aren't on disk, or not to their end."""
    try:
        well = is_whole(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        well = False
    if not well:
        raise PlamError(
            f"lmms-eval couldn't write {path} to its end: is the disk full, or may the folder not be written? Answers "
            "of probes and comparisons are kept in plam/MODEL/TASK beside it, and the same command goes on from there"
        )


_SEAMS: tuple[tuple[type | ModuleType, str, Callable[..., Any]], ...] = (
    (TaskManager, "load_task_or_group", _load_with_backend_name),
    (TaskManager, "load_config", _load_with_backend_name),
    (ResponseCache, "create", _cache_by_fingerprint),
    (ResponseCache, "execute", _execute_by_prompt),
    (response_cache, "_extract_content_hash", _digest_whole_prompt),
    (EvaluationTracker, "save_results_aggregated", _save_with_record),
    (EvaluationTracker, "save_results_samples", _save_samples),
)
