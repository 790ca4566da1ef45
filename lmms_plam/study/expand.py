"""A study's YAML to its cells: each model, step and benchmark one command of lmms-eval, and what each comes after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmms_plam.config import ModelConfig, folder_name, load_config
from lmms_plam.errors import ConfigError, about
from lmms_plam.paths import PACKAGE
from lmms_plam.study.benchmarks import Tasks
from lmms_plam.study.cell import START, STUDY, Cell, name_cell
from lmms_plam.study.estimate import disk, step_cost
from lmms_plam.study.plan import Plan
from lmms_plam.study.schema import Asked, Study

_BY_THEMSELVES = ("probe", "early", "window", "headroom")
_OF_RECIPES = ("compare", "attention")
_OF_STEPS = {
    "probe": _BY_THEMSELVES,
    "search": ("search",),
    "attention": ("attention",),
    "recipes": _OF_RECIPES,
}
"""Fields of a model's config that only some steps read: an edit of them changes no other step's cells."""

CHECKPOINT = "checkpoint"
"""The folder of an export in its cell."""


def plan_study(study: Study) -> Plan:
    """Return the cells of a study.

    Raises:
        ConfigError: unknown models or benchmarks, models of one name, or steps that nothing is left for.
    """
    tasks = Tasks(study.include_path)
    benchmarks = tasks.expand(study.benchmarks, study.steps)
    tune_on = tasks.expand(study.tune_on, ["search"])
    reported = [one for one in benchmarks if one not in tune_on]
    if tune_on and not reported:
        raise ConfigError("every benchmark is in tune_on, so that none is left to report on")
    if others := [step for step in study.steps if step != "search" or not tune_on]:
        tasks.expand(reported, others)
    cells: list[Cell] = []
    named: dict[str, str] = {}
    for reference in study.models:
        model = Model.of(reference, study)
        if model.name in named:
            raise ConfigError(
                f"models: '{named[model.name]}' and '{reference}' are both called {model.name}, so that two cells "
                "would write one folder: give one of the configs a name"
            )
        named[model.name] = reference
        cells += _Expansion(study, tasks, model, benchmarks, tune_on, reported).cells()
    there = {(cell.step, cell.tasks[0]) for cell in cells if cell.tasks}
    ranked = [one for one in reported if study.report_with and tasks.ranks(one, study.steps)]
    notes = [f"{one} isn't served: it ranks given texts, and vLLM is asked for answers alone" for one in ranked]
    notes += [
        f"no {step} of {benchmark}: there is no task plam_{step}_{benchmark}"
        for step in study.steps
        for benchmark in _wanted(step, benchmarks, tune_on, reported)
        if (step, f"plam_{step}_{benchmark}") not in there
    ]
    return Plan.of(cells, notes)


def _wanted(
    step: str, benchmarks: Sequence[str], tune_on: Sequence[str], reported: Sequence[str]
) -> tuple[str, ...] | Sequence[str]:
    """Return the benchmarks of which a step is wanted."""
    if step == "search":
        return tune_on or benchmarks
    return reported if step in _OF_RECIPES else tuple(dict.fromkeys((*benchmarks, *tune_on)))


@dataclass(frozen=True)
class Model:
    """A model of a study.

    Attributes:
        reference: its config as the YAML has it.
        settings: the same, resolved with the study's further fields.
    """

    reference: str
    settings: ModelConfig

    @classmethod
    def of(cls, reference: str, asked: Asked) -> Model:
        """Read a config.

        Raises:
            ConfigError: there is none, or a field that it doesn't have.
        """
        with about("models"):
            return cls(reference, load_config(reference, asked.model_args))

    @property
    def name(self) -> str:
        """What it is called in folders."""
        return folder_name(self.settings)

    def content(self, step: str) -> Any:
        """Return all that its config says of a step, wherever this package lies."""
        return _elsewhere(self.settings.model_dump(mode="json", exclude=set(_not_of(step))))


def _not_of(step: str) -> tuple[str, ...]:
    """Return the fields of a model's config that have no part in a step."""
    return tuple(field for field, steps in _OF_STEPS.items() if step not in steps)


def _word(name: str) -> str:
    """Return a benchmark's name as a part of a field's."""
    return re.sub(r"\W", "_", name)


def _elsewhere(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _elsewhere(one) for name, one in value.items()}
    return value.replace(str(PACKAGE), "plam:") if isinstance(value, str) else value


@dataclass
class _Expansion:
    """One model's cells."""

    study: Study
    tasks: Tasks
    model: Model
    benchmarks: Sequence[str]
    tune_on: Sequence[str]
    reported: Sequence[str]
    _probes: dict[str, Cell] = field(default_factory=dict)
    _searches: dict[str, Cell] = field(default_factory=dict)

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, those first that others need."""
        steps = self.study.steps
        for step in _BY_THEMSELVES:
            if step in steps:
                yield from self._by_themselves(step)
        if "search" in steps:
            yield from self._search()
        for step in _OF_RECIPES:
            if step in steps:
                yield from self._of_recipes(step)
        if self.study.report_with:
            yield from self._served()

    def _by_themselves(self, step: str) -> Iterator[Cell]:
        for benchmark in _wanted(step, self.benchmarks, self.tune_on, self.reported):
            if task := self.tasks.find(step, benchmark):
                cell = self._cell(step, benchmark, task)
                if step == "probe":
                    self._probes[benchmark] = cell
                yield cell

    def _search(self) -> Iterator[Cell]:
        for benchmark in self.tune_on or self.benchmarks:
            task = self.tasks.find("search", benchmark)
            if task is None:
                continue
            probe = self._probes.get(benchmark)
            if probe is None or "merge.start_layer" in self.study.model_args:
                cell = self._cell("search", benchmark, task)
            else:
                plateau = probe.file(probe.tasks[0], "plateau.json")
                cell = self._cell("search", benchmark, task, START, (probe.name,), plateau=plateau)
            if benchmark in self.tune_on:
                self._searches[benchmark] = cell
            yield cell

    def _of_recipes(self, step: str) -> Iterator[Cell]:
        for benchmark in self.reported:
            if task := self.tasks.find(step, benchmark):
                yield self._cell(step, benchmark, task, self._found(), self._after())

    def _served(self) -> Iterator[Cell]:
        """Yield the export of the recipe, and vLLM's runs of it."""
        if self.model.settings.merge is None and not self._searches:
            raise ConfigError(f"{self.model.name}: merge is none, so there is nothing to export for report_with")
        served = [one for one in self.reported if not self.tasks.ranks(one, self.study.steps)]
        if not served:
            return
        found = [f"merge={path}" for _, path in self._recipes()[:1]]
        extras = self.study.extras(but=(*_not_of("export"), *(["merge"] if found else [])))
        fields = [f"config={self.model.reference}", *found, *extras.split(",")[1:]]
        words = ("export", self.model.name)
        after = self._after()[:1]
        name = name_cell(words, ["plam merge", fields, self.model.content("export")])
        out = f"{STUDY}/cells/{name}/{CHECKPOINT}"
        export = Cell(
            name, self.model.name, "export", (), "plam", ("merge", *fields, "--out", out), after, needs=("vllm",),
            cost=step_cost("export", self.model.settings), disk=disk(None, self.model.settings, "export"),
        )  # fmt: skip
        yield export
        for benchmark in served:
            task = self.tasks.plain(benchmark, self.study.steps)
            given = self.study.served(limited=self.tasks.limits_answers(task))
            options = ("--model", "vllm", "--model_args", f"model={out}{given}", "--tasks", task, "--log_samples")
            yield self._named("serve", benchmark, task, options, (export.name,), None, ("vllm",))

    def _recipes(self) -> list[tuple[str, str]]:
        """Return, by benchmark, where its search leaves the recipe."""
        return [
            (benchmark, f"{STUDY}/{cell.file(cell.tasks[0], 'recipe.yaml')}")
            for benchmark, cell in self._searches.items()
        ]

    def _found(self) -> str:
        """Return the recipes of the searches as a part of `--model_args`: the first is `merge`."""
        recipes = self._recipes()
        fields = [f"merge={path}," for _, path in recipes[:1]]
        return "".join([*fields, *(f"recipes.tuned_on_{_word(name)}={path}," for name, path in recipes[1:])])

    def _after(self) -> tuple[str, ...]:
        return tuple(cell.name for cell in self._searches.values())

    def _cell(
        self,
        step: str,
        benchmark: str,
        task: str,
        fields: str = "",
        after: tuple[str, ...] = (),
        plateau: str | None = None,
    ) -> Cell:
        """Return a family task's cell.

        Args:
            step: of the study.
            benchmark: what it is about.
            task: the family task.
            fields: what of `--model_args` other cells find, each with a comma behind it.
            after: these cells.
            plateau: a file of one of them, whose onset START stands for.
        """
        found = ("merge",) if fields.startswith("merge=") else ()
        extras = self.study.extras(but=(*_not_of(step), *found))
        given = f"config={self.model.reference},{fields}name={self.model.name}{extras}"
        options = ("--model", "plam", "--model_args", given, "--tasks", task)
        return self._named(step, benchmark, task, options, after, plateau)

    def _named(
        self,
        step: str,
        benchmark: str,
        task: str,
        options: tuple[str, ...],
        after: tuple[str, ...],
        plateau: str | None,
        needs: tuple[str, ...] = (),
    ) -> Cell:
        model = self.model
        arguments = (*options, *(self.study.served_options() if step == "serve" else self.study.options()))
        name = name_cell((step, model.name, benchmark), [arguments, plateau, after, model.content(step)])
        return Cell(
            name, model.name, step, (task,), "lmms_eval", (*arguments, "--output_path", f"{STUDY}/cells/{name}"),
            after, plateau, needs, step_cost(step, model.settings, len(self._searches)),
            disk(self.study.limit, model.settings, step),
        )  # fmt: skip
