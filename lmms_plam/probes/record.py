"""A masking probe on disk: `matrix.parquet`, the `curve.json` and `plateau.json` read off it, and their fingerprints.

    {"task": "plam_probe_mmstar", "verdict": "plateau", "onset": 18, "interval": [17, 19], ...}

`merge.start_layer` takes such a `plateau.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmms_plam.errors import DataError, about, first_problem
from lmms_plam.files import digest, write_text
from lmms_plam.probes.agreement import agreement_curve
from lmms_plam.probes.curve import FEWEST_CUTS, MaskingCurve, is_cut, masking_curve, pool_curves
from lmms_plam.probes.onset import OnsetRule
from lmms_plam.probes.plateau import Plateau, find_plateau
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.metrics import find_metric

MATRIX, CURVE, PLATEAU = "matrix.parquet", "curve.json", "plateau.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a score matrix doesn't say of itself.

    Attributes:
        task: name of the probe's task.
        model: fingerprint of what answered (model, recipe, versions); None if nobody knows.
        metric: name of the benchmark's metric (`lmms_plam.stats.metrics`); of a pool, of all of them.
        perfect_answer: a document's best possible score.
        weights: digest of the weights that answered; None if nobody knows.
        queries: from which queries vision was hidden (lmms_plam.model.QueryScope).
        without_image: documents whose prompt shows nothing to hide: they count in the score, the same at every cut.
        name: what the model is called.
        date: when it answered, in ISO format.
        recipe: the first layer that the model's recipe merges.
        chance: the benchmark's score of an answer chosen at random.
    """

    task: str
    model: str | None = None
    metric: str = "mean"
    perfect_answer: float = 1.0
    weights: str | None = None
    queries: str = "all"
    without_image: int = 0
    name: str | None = None
    date: str | None = None
    recipe: int | None = None
    chance: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A masking probe, analysed.

    Attributes:
        origin: where its matrix comes from.
        data: SHA-256 of the matrix; None for a pool.
        curve: the masking curve.
        plateau: of that curve.
        agreement: of the curve of agreement with the full model, which knows no labels; None for a pool, or of too few
            cuts.
        answers: by cut, how long the answers are: `length`, the mean in new tokens, and `cut_off`, the share that the
            limit on them cut off; hidden vision hurts long answers first (2604.09425). And `divergence`, how far their
            first token's distribution is from the full model's (Kullback-Leibler, nats). None where nobody counted.
    """

    origin: Origin
    data: str | None
    curve: MaskingCurve
    plateau: Plateau
    agreement: Plateau | None = None
    answers: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what `plateau.json` holds; scores are in the benchmark's units, cuts count decoder layers."""
        found, curve = self.plateau, self.curve
        return {
            "task": self.origin.task,
            "model": self.origin.name,
            "date": self.origin.date,
            "verdict": found.verdict,
            "reason": found.reason,
            "onset": found.onset,
            "interval": list(found.estimate.interval),
            "level": found.level,
            "median": found.estimate.median,
            "probability": {str(cut): share for cut, share in found.estimate.probability.items()},
            "rule": asdict(found.rule),
            "tolerance": found.tolerance,
            "full": found.full,
            "rise": found.rise,
            "rise_error": found.rise_error,
            "depth": int(curve.cuts[-1]),
            "cuts": curve.cuts.tolist(),
            "stages": {stage.name: [stage.first, stage.end] for stage in found.stages},
            "cross_checks": {
                name: {"onset": check.value, "interval": list(check.interval)}
                for name, check in found.cross_checks.items()
            },
            "late": asdict(found.late) if found.late else None,
            "agreement": None if self.agreement is None else _agreement(self.agreement),
            "metric": self.origin.metric,
            "perfect_answer": self.origin.perfect_answer,
            "perfect": curve.perfect,
            "queries": self.origin.queries,
            "recipe_start": self.origin.recipe,
            "chance": self.origin.chance,
            "n_documents": curve.n_documents,
            "n_without_image": self.origin.without_image,
            "n_clusters": curve.n_clusters,
            "draws": len(curve.draws),
            "seed": curve.seed,
            "fingerprint": {"data": self.data, "model": self.origin.model, "weights": self.origin.weights},
            "versions": {name: version(name) for name in ("lmms-plam", "numpy")},
        }

    def write(self, folder: Path) -> None:
        """Write `curve.json`, then `plateau.json`."""
        points = [asdict(point) | dict(self.answers.get(point.cut, {})) for point in self.plateau.points]
        write_text(folder / CURVE, _dump(points))
        write_text(folder / PLATEAU, _dump(self.to_dict()))


def analyse(
    path: Path,
    origin: Origin,
    rule: OnsetRule | None = None,
    *,
    level: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
) -> Probe:
    """Read a saved score matrix and find its plateau.

    Args:
        path: the Parquet file.
        origin: what the file doesn't say.
        rule: by default the tolerance rule on the isotonic fit.
        level: nominal coverage of intervals and band.
        draws: bootstrap draws.
        seed: of the resampling.

    Raises:
        DataError: no score matrix, one whose variants are no cuts, or one that has too few.
    """
    matrix, metric = ScoreMatrix.read(path), find_metric(origin.metric)
    with about(str(path)):
        curve = masking_curve(matrix, metric, perfect_answer=origin.perfect_answer, draws=draws, seed=seed)
        agreement = agreement_curve(matrix, draws=draws, seed=seed) if len(curve.cuts) > FEWEST_CUTS else None
    return Probe(
        origin,
        digest(path),
        curve,
        find_plateau(curve, rule, level),
        None if agreement is None else find_plateau(agreement, rule, level),
        _answers(matrix),
    )


def _answers(matrix: ScoreMatrix) -> dict[int, dict[str, float | None]]:
    """Return, for each cut, how its answers ended, and how far their first tokens are from the full model's."""
    formats = matrix.formats
    if formats is None:
        return {}
    told = zip(matrix.variants, formats.mean_length(), formats.share_cut_off(), formats.mean_divergence(), strict=True)
    return {
        int(cut): {"length": length, "cut_off": cut_off, "divergence": divergence}
        for cut, length, cut_off, divergence in told
    }


def pool(probes: Sequence[Probe], rule: OnsetRule | None = None, level: float = 0.9) -> Probe:
    """Find the plateau of several benchmarks' rise-normalised mean curve; the tolerance is the rule's share alone.

    Raises:
        DataError: other models, query scopes, cuts or draws, a benchmark that is there twice or doesn't rise.
    """
    rule = rule or OnsetRule()
    first = probes[0].origin
    for place, probe in enumerate(probes):
        origin = probe.origin
        if origin.model != first.model:
            raise DataError(
                f"mixed matrices: {first.task} is of model {first.model}, {origin.task} of model {origin.model};"
                " pool benchmarks of one model"
            )
        if origin.queries != first.queries:
            raise DataError(
                f"mixed matrices: {first.task} hides vision from {first.queries} queries, {origin.task} from"
                f" {origin.queries}; pool probes of one kind"
            )
        if any(probe.data == other.data or origin.task == other.origin.task for other in probes[:place]):
            raise DataError(f"{origin.task} is there twice; pool different benchmarks")
    curve = pool_curves([(probe.origin.task, probe.curve) for probe in probes], rule.top_points)
    origins = [probe.origin for probe in probes]
    origin = Origin(
        task="pooled",
        model=first.model,
        metric=", ".join(dict.fromkeys(each.metric for each in origins)),
        weights=first.weights if all(each.weights == first.weights for each in origins) else None,
        queries=first.queries,
        without_image=sum(each.without_image for each in origins),
        name=first.name,
        date=first.date,
        recipe=first.recipe,
    )
    return Probe(origin, None, curve, find_plateau(curve, replace(rule, tolerance=0), level))


def is_probe(path: Path) -> bool:
    """Say whether the variants of a saved score matrix are cuts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        variants = pq.read_table(path, columns=["variant"])["variant"].unique().to_pylist()
    except (OSError, pa.ArrowException, LookupError, ValueError):
        return True  # reading it whole says what is wrong
    return all(is_cut(str(name)) for name in variants)


def read_origin(matrix: Path) -> Origin:
    """Say where a matrix comes from, by the `plateau.json` beside it if there is one, else by its folder's name.

    Raises:
        DataError: `plateau.json` is damaged or was read off another matrix.
    """
    path = matrix.with_name(PLATEAU)
    return _checked_origin(path, matrix) if path.exists() else Origin(task=matrix.resolve().parent.name)


class _Fingerprint(BaseModel):
    data: str | None
    model: str | None
    weights: str | None


class _Record(BaseModel):
    """What of a `plateau.json` is read again."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    task: str
    metric: str
    perfect_answer: Annotated[float, Field(gt=0)]
    queries: str = "all"
    model: str | None = None
    date: str | None = None
    recipe_start: int | None = None
    chance: float | None = None
    n_without_image: Annotated[int, Field(ge=0)]
    fingerprint: _Fingerprint


def _checked_origin(path: Path, matrix: Path) -> Origin:
    try:
        record = _Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        what = first_problem(error) if isinstance(error, ValidationError) else error
        raise DataError(f"{path} is no record of a masking probe: {what}") from None
    found = record.fingerprint
    if found.data != digest(matrix):
        raise DataError(
            f"{path} was read off another matrix: its fingerprint is {str(found.data)[:12]}..., and that of"
            f" {matrix.name} is {digest(matrix)[:12]}...; run the probe again, or delete {PLATEAU} if the matrix is"
            " right"
        )
    return Origin(
        task=record.task,
        model=found.model,
        metric=record.metric,
        perfect_answer=record.perfect_answer,
        weights=found.weights,
        queries=record.queries,
        without_image=record.n_without_image,
        name=record.model,
        date=record.date,
        recipe=record.recipe_start,
        chance=record.chance,
    )


def _agreement(found: Plateau) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "onset": found.onset,
        "interval": list(found.estimate.interval),
        "curve": {str(point.cut): point.score for point in found.points},
    }


def _dump(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
