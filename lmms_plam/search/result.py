"""What a search found: the frozen record that `search.json` holds, every in-sample number marked as such."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lmms_plam.errors import DataError
from lmms_plam.files import write_text
from lmms_plam.search.crossfit import Plan, Unseen
from lmms_plam.search.pick import NOISE
from lmms_plam.search.record import Recipe, SearchRecord, recipe_fields
from lmms_plam.stats.bootstrap import MOST_DRAWS

SEARCH = "search.json"

TUNED_HERE = "tuned on this benchmark's own documents"
"""Stands next to every number of a recipe that was chosen on the documents it is scored on."""

Criterion = Literal["metric", "label-free"]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a recipe is chosen and judged.

    Attributes:
        criterion: `metric`, the benchmark's own; or `label-free`, the answers' agreement with the neighbours'.
        plan: folds, repeats and halvings of the cross-fitting.
        level: confidence level.
        draws: bootstrap draws, and random flips of the tests.
        seed: start of all random streams.
        noise: paired standard errors within which recipes count as equally good.
    """

    criterion: Criterion = "metric"
    plan: Plan = field(default_factory=Plan)
    level: float = 0.95
    draws: int = 10_000
    seed: int = 0
    noise: float = NOISE

    def __post_init__(self) -> None:
        plan = self.plan
        for wrong, said in (
            (plan.folds < 2, f"cross-fitting takes at least 2 folds, not {plan.folds}"),
            (not 1 <= plan.repeats <= 1000, f"cross-fitting is repeated 1 to 1,000 times, not {plan.repeats}"),
            (not 10 <= plan.halvings <= 10_000, f"a standard error takes 10 to 10,000 halvings, not {plan.halvings}"),
            (not 0 < self.level < 1, f"a confidence level lies between 0 and 1, such as 0.95, not {self.level:g}"),
            (not 100 <= self.draws <= MOST_DRAWS, f"{self.draws:,} bootstrap draws are too few or too many"),
            (self.seed < 0, f"a seed is 0 or more, not {self.seed}"),
        ):
            if wrong:
                raise DataError(said)


@dataclass(frozen=True, slots=True)
class Measured:
    """One recipe's score and gain on the documents that it was asked on: in-sample where it was picked for it.

    Attributes:
        recipe: what it is.
        score: the benchmark's metric; None without a whole cluster.
        gain: by how much that is better than the base's on the same documents.
        standard_error: of the gain, cluster-robust; None if racing dropped it.
        ci_low: lower end of the interval that holds for all merges at once; None if it is no merge or was dropped.
        ci_high: upper end.
        documents: how many it was asked on.
    """

    recipe: Recipe
    score: float | None
    gain: float | None
    standard_error: float | None
    ci_low: float | None
    ci_high: float | None
    documents: int


@dataclass(frozen=True, slots=True)
class Scaled:
    """The control: the VLM's own weights, scaled.

    Attributes:
        name: the best scaled VLM, or the base, chosen like the pick.
        unseen: its gain on documents that its choice did not see.
        merge_unseen: by how much the merge is better, both chosen on other documents.
    """

    name: str
    unseen: Unseen
    merge_unseen: Unseen


@dataclass(frozen=True, slots=True)
class LabelFree:
    """The pick that looks at no score.

    Attributes:
        name: the recipe.
        agreement: share of its neighbours' answers that equal its own.
        gain: what it would have gained; an ordinary estimate, since no score chose it.
        ci_low: lower end of its bootstrap interval; None where there is none.
        ci_high: upper end.
    """

    name: str
    agreement: float
    gain: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One start layer, where all else but the coefficients is as in the pick.

    Attributes:
        start_layer: k0.
        recipes: such merges asked on all documents that start there.
        name: the one with the pick's coefficients; None if it wasn't asked on all documents.
        unseen: the gain where the coefficients are chosen on other documents, among those asked at this layer.
    """

    start_layer: int
    recipes: int
    name: str | None
    unseen: Unseen


@dataclass(frozen=True, slots=True)
class Stability:
    """How much the choice hangs on which documents there are.

    Attributes:
        by_bootstrap: share of the bootstrap draws that pick each recipe, the most frequent first.
        by_fold: share of the cross-fitting's choices.
        by_seed: the cross-fitted gain of each dealing of the documents.
        neighbours: names of the recipes one layer or one step of the coefficients away.
    """

    by_bootstrap: Mapping[str, float]
    by_fold: Mapping[str, float]
    by_seed: tuple[float, ...]
    neighbours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a recipe tuned on one benchmark gains on another, no document used twice.

    Attributes:
        tuned_on: the one task.
        scored_on: the other; the same for a gain by cross-fitting.
        name: the recipe; None where the folds chose several.
        gain: None if the recipe wasn't asked there on all documents.
        ci_low: lower end of its interval.
        ci_high: upper end.
        how: in words.
    """

    tuned_on: str
    scored_on: str
    name: str | None
    gain: float | None
    ci_low: float | None
    ci_high: float | None
    how: str


@dataclass(frozen=True, slots=True)
class Search:
    """A search's result. Gains are in the benchmark's own unit, above 0 where better.

    Attributes:
        record: what was asked.
        settings: how it was judged.
        estimand: what the benchmark's metric is, in words.
        perfect: the metric where every document scores its best; a point is a hundredth of it.
        documents: number of them.
        clusters: that they form.
        strata: parts that are resampled separately.
        base: the base's score.
        recipes: all that were asked, in the record's order.
        pick: the picked one's name.
        in_sample: the picked one, on the documents that it was picked on.
        critical: standard errors on either side that make an interval hold for all merges at once.
        unseen: the gain on documents that the choice did not see; None with a single cluster.
        near_best: recipes that the documents can't tell from the pick, itself among them.
        borders: edges of the space at which the pick lies.
        any_better_p: is any merge better than the base? Adjusted for looking at all; None with a single cluster.
        better_than_scaled_p: is any merge better than the VLM scaled by the sum of its coefficients?
        n_controlled: merges that have such a control.
        scaled: the best scaled VLM; None if none was asked on all documents.
        label_free: the pick without scores; None where no recipe has a neighbour.
        layers: by start layer, in ascending order.
        stability: of the choice; None with a single cluster.
        transfer: to and from the other benchmarks of a run; empty if there are none.
        notes: what a reader must know.
    """

    record: SearchRecord
    settings: SearchSettings
    estimand: str
    perfect: float
    documents: int
    clusters: int
    strata: int
    base: float
    recipes: tuple[Measured, ...]
    pick: str
    critical: float | None
    unseen: Unseen | None
    near_best: tuple[str, ...]
    borders: tuple[str, ...]
    any_better_p: float | None
    better_than_scaled_p: float | None
    n_controlled: int
    scaled: Scaled | None
    label_free: LabelFree | None
    layers: tuple[Layer, ...]
    stability: Stability | None
    transfer: tuple[Transfer, ...]
    notes: tuple[str, ...]

    def measured(self, name: str) -> Measured:
        """Return a recipe's row."""
        return next(one for one in self.recipes if one.recipe.name == name)

    @property
    def in_sample(self) -> Measured:
        """The pick on the documents that it was picked on."""
        return self.measured(self.pick)

    @property
    def points(self) -> float:
        """Factor that turns the metric into points, hundredths of its perfect value."""
        return 100 / self.perfect

    def to_dict(self) -> dict[str, Any]:
        """Return what `search.json` holds."""
        record, picked = self.record, self.in_sample
        return {
            "task": record.task,
            "metric": record.metric,
            "estimand": self.estimand,
            "higher_is_better": record.higher_is_better,
            "perfect": self.perfect,
            "space": record.space,
            "n_documents": self.documents,
            "n_clusters": self.clusters,
            "n_strata": self.strata,
            "base": self.base,
            "pick": {
                "name": self.pick,
                "fields": recipe_fields(picked.recipe),
                "score": picked.score,
                "score_is": TUNED_HERE,
                "criterion": self.settings.criterion,
            },
            "in_sample": {
                "gain": picked.gain,
                "ci_low": picked.ci_low,
                "ci_high": picked.ci_high,
                "standard_errors_either_side": self.critical,
                "gain_is": TUNED_HERE,
                "interval_is": "simultaneous over all merges (max-T)",
            },
            "unseen": asdict(self.unseen) if self.unseen else None,
            "near_best": list(self.near_best),
            "at_border": bool(self.borders),
            "borders": list(self.borders),
            "any_better_p": self.any_better_p,
            "better_than_scaled_p": self.better_than_scaled_p,
            "n_controlled": self.n_controlled,
            "scaled": asdict(self.scaled) if self.scaled else None,
            "label_free": asdict(self.label_free) if self.label_free else None,
            "start_layers": [asdict(layer) for layer in self.layers],
            "stability": asdict(self.stability) if self.stability else None,
            "transfer": [asdict(cell) for cell in self.transfer],
            "recipes": [_row(one) for one in self.recipes],
            "recipes_are": TUNED_HERE,
            "racing": record.racing.model_dump() if record.racing else None,
            "probe": record.probe.model_dump(mode="json") if record.probe else None,
            "notes": list(self.notes),
            "settings": asdict(self.settings),
            "model": record.model,
            "config": record.config,
            "fingerprint": {"data": record.matrix},
            "date": record.date,
            "versions": {**record.versions, **{name: version(name) for name in ("lmms-plam", "numpy")}},
        }

    def write(self, folder: Path) -> None:
        """Write `search.json`."""
        write_text(folder / SEARCH, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")


def _row(one: Measured) -> dict[str, Any]:
    recipe = one.recipe
    return {
        "name": recipe.name,
        "kind": recipe.kind,
        "fields": recipe_fields(recipe),
        "score": one.score,
        "gain": one.gain,
        "standard_error": one.standard_error,
        "ci_low": one.ci_low,
        "ci_high": one.ci_high,
        "documents": one.documents,
        "dropped_after": recipe.dropped_after,
        "dropped_why": recipe.dropped_why,
    }
