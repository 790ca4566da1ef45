"""What a card may say of a merged model's scores: the comparisons of its own recipe with the untouched VLM."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from lmms_plam.config import MergeRecipe, recipe_in_words
from lmms_plam.errors import DataError, first_problem
from lmms_plam.scoring.saved import RECORD, ComparisonRecord

COMPARISON = "comparison.json"


class Measured(BaseModel):
    """One metric of one task, of the merged model and the untouched VLM, as `comparison.json` holds it.

    Attributes:
        task: the comparison's task.
        of: the task that it asked; the same where the comparison was of two runs.
        metric: the harness's name of the metric.
        reference: what was compared with.
        variant: what the merged model is called there.
        a: the reference's score.
        b: the merged model's.
        difference: b - a.
        ci_low: lower end of its interval; None where there is none.
        ci_high: upper end.
        level: confidence level.
        p_value: that there is no difference, two-sided.
        n: documents.
        higher_is_better: whether a higher score is.
    """

    task: str
    of: str = ""
    metric: str
    reference: str
    variant: str
    a: float
    b: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    level: float
    p_value: float | None
    n: int
    higher_is_better: bool = True


_MEASURED = TypeAdapter(list[Measured])


def read_measured(folders: Iterable[Path], vlm: str, recipe: MergeRecipe) -> list[Measured]:
    """Return the comparisons of a recipe that lie in or below folders, each task and metric once.

    Those that comparison tasks wrote say what their variants are; what `plam compare` wrote of two runs counts as it
    stands.

    Args:
        folders: of comparison tasks, or of whole runs, or what `plam compare --out` wrote.
        vlm: the VLM, as the config names it.
        recipe: the merged model's.

    Raises:
        DataError: a folder without a comparison, or with those of other models or recipes alone.
    """
    found: dict[tuple[str, str], Measured] = {}
    for folder in folders:
        paths = sorted(folder.rglob(COMPARISON))
        if not paths:
            raise DataError(f"{folder} holds no {COMPARISON}: give the folder of a comparison")
        told = [path for path in paths if (path.parent / RECORD).is_file()] or paths
        for path in told:
            for one in _of_recipe(path, vlm, recipe):
                found.setdefault((one.task, one.metric), one)
    return list(found.values())


def _of_recipe(path: Path, vlm: str, recipe: MergeRecipe) -> list[Measured]:
    try:
        measured = _MEASURED.validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is no comparison: {first_problem(error)}") from error
    if not (path.parent / RECORD).is_file():
        variants = {one.variant for one in measured}
        if len(variants) > 1:
            raise DataError(f"{path} compares {', '.join(sorted(variants))}: which of them is the recipe's isn't said")
        return [one.model_copy(update={"of": one.task}) for one in measured]
    record, words = ComparisonRecord.read(path.parent), recipe_in_words(recipe)
    known = record.recipes
    names = [name for name, recipe_words in known.items() if recipe_words == words]
    if not names or known.get(record.reference) != f"{vlm}, untouched":
        others = "; ".join(f"{name}: {recipe_words}" for name, recipe_words in known.items())
        raise DataError(f"{path} isn't of {vlm} merged by {words}: it compares {others}")
    return [one.model_copy(update={"of": record.of}) for one in measured if one.variant == names[0]]
