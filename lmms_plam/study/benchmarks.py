"""Which tasks there are for a step and a benchmark, by the names in the YAML files of this package and of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from lmms_plam.errors import ConfigError, did_you_mean
from lmms_plam.paths import data_folder

_NAME = re.compile(r"^(task|group): *[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)
_RANKS = re.compile(r"^class: *!function +lmms_plam\.families\.Ranked", re.MULTILINE)
_INCLUDE = re.compile(r"^include: *[\"']?([^\s\"'#]+)", re.MULTILINE)
_LIMIT = re.compile(r"^ +max_new_tokens: *\d", re.MULTILINE)
_OF = re.compile(r"^of: *[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)
_MEMBER = re.compile(r"^ *- +[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)


class Tasks:
    """The family tasks that lmms-eval will find, told from their files without importing anything of it.

    Args:
        include_path: a folder with tasks of one's own.
    """

    def __init__(self, include_path: str | None = None) -> None:
        self._include_path = include_path
        self._groups: dict[str, tuple[str, ...]] = {}
        self._made_of: dict[str, str] = {}
        self._ranked: set[str] = set()
        for path in _files(include_path):
            text = path.read_text(encoding="utf-8", errors="replace")
            found = dict(_NAME.findall(text))
            if "group" in found:
                self._groups[found["group"]] = tuple(_MEMBER.findall(text))
            elif "task" in found and (of := _OF.search(text)):
                self._made_of[found["task"]] = of[1]
                if _RANKS.search(text):
                    self._ranked.add(found["task"])

    def find(self, step: str, benchmark: str) -> str | None:
        """Return the task of a step and a benchmark, if there is one."""
        name = f"plam_{step}_{benchmark}"
        return name if name in self._made_of else None

    def plain(self, benchmark: str, steps: Iterable[str]) -> str:
        """Return the task that those of the steps are made of, which asks a model once."""
        return next(self._made_of[name] for step in steps if (name := self.find(step, benchmark)))

    def ranks(self, benchmark: str, steps: Iterable[str]) -> bool:
        """Whether the task that those of the steps are made of ranks given texts, in place of asking for answers."""
        return any(f"plam_{step}_{benchmark}" in self._ranked for step in steps)

    def limits_answers(self, task: str) -> bool:
        """Whether a task of lmms-eval's, this package's or one's own says how many tokens an answer may have."""
        path, seen = self._file_of.get(task), set[Path]()
        while path is not None and path not in seen and path.is_file():
            seen.add(path)
            text = path.read_text(encoding="utf-8", errors="replace")
            if _LIMIT.search(text):
                return True
            included = _INCLUDE.search(text)
            path = path.parent / included[1] if included else None
        return False

    @cached_property
    def _file_of(self) -> dict[str, Path]:
        """The files of tasks by name, those of lmms-eval included."""
        spec = find_spec("lmms_eval")
        theirs = [Path(place) / "tasks" for place in (spec and spec.submodule_search_locations) or ()]
        files = [*(path for folder in theirs for path in folder.rglob("*.yaml")), *_files(self._include_path)]
        return {
            name: path
            for path in files
            for kind, name in _NAME.findall(path.read_text(encoding="utf-8", errors="replace"))
            if kind == "task"
        }

    def expand(self, benchmarks: Iterable[str], steps: Sequence[str]) -> tuple[str, ...]:
        """Return benchmarks without `plam_` before them, and those in place of a group that are in it.

        Raises:
            ConfigError: a benchmark of which no step has a task.
        """
        names = [name.removeprefix("plam_") for name in benchmarks]
        return tuple(dict.fromkeys(one for name in names for one in self._expand(name, steps)))

    def _expand(self, benchmark: str, steps: Sequence[str]) -> Iterator[str]:
        for step in steps:
            members = self._groups.get(f"plam_{step}_{benchmark}")
            if members is not None:
                for member in members:
                    yield from self._expand(member.removeprefix(f"plam_{step}_"), [step])
                return
        if not any(self.find(step, benchmark) for step in steps):
            starts = [f"plam_{step}_" for step in steps]
            known = sorted({name.removeprefix(one) for name in self._made_of for one in starts if name.startswith(one)})
            raise ConfigError(
                f"no benchmark '{benchmark}' for {', '.join(steps)}: there is no task plam_{steps[0]}_{benchmark}."
                f"{did_you_mean(benchmark, known)} Any task of lmms-eval's becomes one by three lines of YAML in the "
                "folder that include_path names"
            )
        yield benchmark


def _files(include_path: str | None) -> Iterator[Path]:
    yield from data_folder("tasks").glob("*.yaml")
    if include_path is not None:
        folder = Path(include_path).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"include_path: no folder {folder}")
        yield from folder.rglob("*.yaml")
