"""Which tasks there are for a step and a benchmark, by the names in the YAML files of this package and of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmms_plam.errors import ConfigError, did_you_mean
from lmms_plam.paths import data_folder

_NAME = re.compile(r"^(task|group): *[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)
_OF = re.compile(r"^of: *[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)
_MEMBER = re.compile(r"^ *- +[\"']?([\w.+-]+)[\"']? *(?:#.*)?$", re.MULTILINE)


class Tasks:
    """The family tasks that lmms-eval will find, told from their files without importing anything of it.

    Args:
        include_path: a folder with tasks of one's own.
    """

    def __init__(self, include_path: str | None = None) -> None:
        self._groups: dict[str, tuple[str, ...]] = {}
        self._made_of: dict[str, str] = {}
        for path in _files(include_path):
            text = path.read_text(encoding="utf-8", errors="replace")
            found = dict(_NAME.findall(text))
            if "group" in found:
                self._groups[found["group"]] = tuple(_MEMBER.findall(text))
            elif "task" in found and (of := _OF.search(text)):
                self._made_of[found["task"]] = of[1]

    def find(self, step: str, benchmark: str) -> str | None:
        """Return the task of a step and a benchmark, if there is one."""
        name = f"plam_{step}_{benchmark}"
        return name if name in self._made_of else None

    def plain(self, benchmark: str, steps: Iterable[str]) -> str:
        """Return the task that those of the steps are made of, which asks a model once."""
        return next(self._made_of[name] for step in steps if (name := self.find(step, benchmark)))

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
