"""Everything that a record of attention tells of a merge, in one result: `attention.json`, the table, the sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from lmms_plam.attention.growth import Growth, growth
from lmms_plam.attention.jackknife import number
from lmms_plam.attention.prediction import Prediction, prediction
from lmms_plam.attention.record import MEASURES, AttentionRecord, Measure
from lmms_plam.attention.regions import RightPlace, right_place
from lmms_plam.attention.relation import Among, Relation, relation
from lmms_plam.errors import DataError
from lmms_plam.stats.comparison import Settings

SCALED = "scaled"
"""The variant whose attention weights are the VLM's times a factor: what scaling does.

The factor is the sum of the merge's coefficients, unless a recipe of this name says another.
"""


@dataclass(frozen=True, slots=True)
class Scaled:
    """What the scaled VLM of a record is, as far as its recipe is known.

    Attributes:
        factor: what the VLM's weights are multiplied by; None where that isn't known, or isn't all that is done.
        control_of: the merges that differ from it in nothing but the base LM: their coefficients have the same sum.
    """

    factor: float | None = None
    control_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headline:
    """The numbers of one merge that go into a table: attention mass from the question, mean over the late layers.

    Attributes:
        variant: the merge.
        untouched: mass under the reference; None where no document tells.
        merged: mass under the merge.
        difference: merged - untouched.
        low: of its interval; None where too few clusters tell.
        high: its other end.
        p_value: that it is none.
        relation: probability that of two documents whose scores change differently the one that gains has the greater
            growth; None where nobody can tell.
        relation_low: of its interval.
        relation_high: its other end.
        relation_p: that it is one half.
    """

    variant: str
    untouched: float | None
    merged: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    relation: float | None
    relation_low: float | None
    relation_high: float | None
    relation_p: float | None


@dataclass(frozen=True, slots=True, eq=False)
class AttentionFindings:
    """What a record of attention tells; p-values and intervals are corrected for layers, not for variants or questions.

    Attributes:
        reference: the variant that the others are compared with, the untouched VLM.
        variants: the others.
        queries: the sets of query tokens of which anything is known.
        late: the late layers: those that are merged.
        documents: how many there are.
        without: of them, without any attention on a picture, as those that have none.
        clusters: what they form.
        growth: each variant against the reference, for each set of queries and each measure that is known.
        control: each variant but the scaled VLM against the scaled VLM, alike; empty where that wasn't asked.
        predictions: does attention predict being right, for each variant, the reference among them.
        relations: do documents whose attention grows gain score, overall and among the reference's failures.
        places: attention inside the right region; empty where no region is known.
        settings: level, draws, seed.
        scaled: what the scaled VLM is.
    """

    reference: str
    variants: tuple[str, ...]
    queries: tuple[str, ...]
    late: tuple[int, ...]
    documents: int
    without: int
    clusters: int
    growth: tuple[Growth, ...]
    control: tuple[Growth, ...]
    predictions: tuple[Prediction, ...]
    relations: tuple[Relation, ...]
    places: tuple[RightPlace, ...]
    settings: Settings
    scaled: Scaled

    def growth_of(self, variant: str, queries: str, measure: Measure = "mass") -> Growth | None:
        """Return a variant against the reference; None where it isn't known."""
        return _one(self.growth, variant=variant, queries=queries, measure=measure)

    def control_of(self, variant: str, queries: str, measure: Measure = "mass") -> Growth | None:
        """Return a variant against the scaled VLM; None where it isn't known."""
        return _one(self.control, variant=variant, queries=queries, measure=measure)

    def prediction_of(self, variant: str, queries: str, measure: Measure = "mass") -> Prediction | None:
        """Return whether a variant's attention predicts being right; None where it isn't known."""
        return _one(self.predictions, variant=variant, queries=queries, measure=measure)

    def relation_of(
        self, variant: str, queries: str, measure: Measure = "mass", among: Among = "all"
    ) -> Relation | None:
        """Return whether growth and gain go together; None where it isn't known."""
        return _one(self.relations, variant=variant, queries=queries, measure=measure, among=among)

    def place_of(self, variant: str, queries: str) -> RightPlace | None:
        """Return a variant's attention inside the right region; None where it isn't known."""
        return _one(self.places, variant=variant, queries=queries)

    def headlines(self) -> list[Headline]:
        """Return the numbers for a table, a variant each."""
        first = self.queries[0]
        return [
            _headline(one, self.relation_of(one.variant, first))
            for one in self.growth
            if (one.queries, one.measure) == (first, "mass")
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what `attention.json` holds, without the sentences."""
        return {
            "reference": self.reference,
            "variants": list(self.variants),
            "queries": list(self.queries),
            "late": list(self.late),
            "n_documents": self.documents,
            "n_without_attention": self.without,
            "n_clusters": self.clusters,
            "headline": {one.variant: asdict(one) for one in self.headlines()},
            **{
                name: [one.to_dict() for one in getattr(self, name)]
                for name in ("growth", "control", "predictions", "relations", "places")
            },
            "scaled": asdict(self.scaled),
            **asdict(self.settings),
        }


def summarise(
    record: AttentionRecord,
    reference: str | None = None,
    late: Sequence[int] | None = None,
    settings: Settings | None = None,
    scaled: Scaled | None = None,
) -> AttentionFindings:
    """Ask a record of attention all questions.

    Args:
        record: the attention.
        reference: the untouched VLM; by default the first variant.
        late: the layers that are merged; by default the last third of the record's.
        settings: level, draws, seed.
        scaled: what the scaled VLM is; left out, nobody knows.

    Raises:
        DataError: no such variant or layer, no attention on any picture, or a single cluster.
    """
    settings = settings or Settings()
    reference = record.variants[0] if reference is None else reference
    record.column(reference)
    layers = record.layers.tolist()
    late = layers[-max(1, len(layers) // 3) :] if late is None else record.layers[record.columns(late)].tolist()
    seen = np.asarray(np.isfinite(record.mass).any(axis=(1, 3)))  # (n_docs, n_queries)
    queries = [name for place, name in enumerate(record.queries) if seen[:, place].any()]
    if not queries:
        raise DataError("no document has any attention on a picture: do the prompts show pictures?")
    clusters = int(record.clusters.max()) + 1
    if clusters < 2:
        raise DataError("all documents form one cluster: how attention varies can't be told from it")
    others = [variant for variant in record.variants if variant != reference]
    measures = [measure for measure in MEASURES if np.isfinite(getattr(record, measure)).any()]
    claims: list[Measure] = [measure for measure in ("mass", "inside") if measure in measures]
    merges = [variant for variant in others if variant != SCALED] if SCALED in others else []
    places = [right_place(record, name, each, late, settings=settings) for name in record.variants for each in queries]
    return AttentionFindings(
        reference=reference,
        variants=tuple(others),
        queries=tuple(queries),
        late=tuple(late),
        documents=len(record.doc_ids),
        without=int((~seen.any(axis=1)).sum()),
        clusters=clusters,
        growth=tuple(
            growth(record, reference, name, each, late, measure=measure, settings=settings)
            for name in others
            for each in queries
            for measure in measures
        ),
        control=tuple(
            growth(record, SCALED, name, each, late, measure=measure, settings=settings)
            for name in merges
            for each in queries
            for measure in measures
        ),
        predictions=tuple(
            prediction(record, name, each, late, measure=measure, settings=settings)
            for name in record.variants
            for each in queries
            for measure in claims
        ),
        relations=tuple(
            relation(record, reference, name, each, late, measure=measure, among=among, settings=settings)
            for name in others
            for each in queries
            for measure in claims
            for among in _AMONG
        ),
        places=tuple(place for place in places if place is not None),
        settings=settings,
        scaled=scaled or Scaled(),
    )


_AMONG: tuple[Among, ...] = ("all", "failures")
_Result = TypeVar("_Result")


def _one(results: Iterable[_Result], **named: str) -> _Result | None:
    """Return the result whose fields have these values; None without one."""
    return next((one for one in results if all(getattr(one, name) == value for name, value in named.items())), None)


def _headline(of_growth: Growth, of_relation: Relation | None) -> Headline:
    change, order = of_growth.late.difference, of_relation.order if of_relation else None
    return Headline(
        variant=of_growth.variant,
        untouched=number(of_growth.late.before),
        merged=number(of_growth.late.after),
        difference=number(change.value),
        low=change.estimate.ci_low,
        high=change.estimate.ci_high,
        p_value=change.p_value,
        relation=order.value if order else None,
        relation_low=order.estimate.ci_low if order else None,
        relation_high=order.estimate.ci_high if order else None,
        relation_p=order.p_value if order else None,
    )
