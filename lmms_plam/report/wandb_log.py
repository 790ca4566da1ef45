"""Probes, comparisons, searches and attention in Weights & Biases: charts, numbers in the summary, tables, files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_plam.attention.findings import findings
from lmms_plam.attention.record import MEASURES, AttentionRecord
from lmms_plam.attention.shown import read_shown
from lmms_plam.attention.summary import AttentionFindings
from lmms_plam.probes.record import Probe
from lmms_plam.probes.visibility import Visibility
from lmms_plam.report.attention_curves import curve_files
from lmms_plam.report.attention_maps import document_layers
from lmms_plam.report.audit import audit_records, audit_sentences, audit_warnings
from lmms_plam.report.comparison import FOREST, records
from lmms_plam.report.curve import PICTURES
from lmms_plam.report.heatmap import SURFACE
from lmms_plam.report.overlays import overlay, strip
from lmms_plam.report.pictures import picture
from lmms_plam.report.search import ABLATION, numbers
from lmms_plam.report.sweep import SWEEP
from lmms_plam.report.visibility import PICTURES as VISIBILITY
from lmms_plam.scoring.audits import TaskAudit
from lmms_plam.scoring.changes import Changes
from lmms_plam.scoring.examples import Example
from lmms_plam.search.result import TUNED_HERE, Search
from lmms_plam.stats.matrix import ScoreMatrix
from lmms_plam.stats.results import Result


def log_probe(run: Any, probe: Probe, matrix: ScoreMatrix, folder: Path, examples: Sequence[Example] = ()) -> None:
    """Log a probe to a W&B run that is under way, online or offline.

    It logs score, band, fit, answers' mean length and the share cut off with the layer as their step
    (`TASK/curve/...`), the onset and what belongs to it in the summary (`TASK/onset`), the picture (`TASK/picture`), a
    table of the examples with each cut's answer (`TASK/answers`), and the folder's files as an artifact of type
    `masking-probe`.

    Args:
        run: `wandb.run`.
        probe: what was found.
        matrix: the scores and answers that it was found in.
        folder: holds matrix, curve, plateau and pictures.
        examples: documents of the table; `telling_documents` chooses them.
    """
    import wandb

    task = probe.origin.task
    step = f"{task}/curve/layer"
    run.define_metric(step, hidden=True)
    for name in ("score", "low", "high", "fit", "length", "cut_off", "divergence"):
        run.define_metric(f"{task}/curve/{name}", step_metric=step)
    for point in probe.plateau.points:
        values = {"score": point.score, "low": point.low, "high": point.high, "fit": point.fit}
        values |= {name: value for name, value in probe.answers.get(point.cut, {}).items() if value is not None}
        run.log({step: point.cut, **{f"{task}/curve/{name}": value for name, value in values.items()}})

    record = probe.to_dict()
    for name in ("onset", "interval", "verdict", "reason", "rise", "rise_error", "full"):
        run.summary[f"{task}/{name}"] = record[name]
    run.log({f"{task}/picture": wandb.Image(str(folder / PICTURES[0]))})
    if examples:
        run.log({f"{task}/answers": _answers(wandb, matrix, examples)})

    _log_files(run, task, "masking-probe", folder, record)


def log_visibility(run: Any, task: str, found: Visibility, numbers: Mapping[str, Any], folder: Path) -> None:
    """Log early hiding, windows or headroom to a W&B run that is under way, online or offline.

    It logs each kind's differences with the layer as their step (`TASK/early/...`), the numbers of lmms-eval's table
    and the findings in the summary, the picture (`TASK/picture`), and the folder's files as an artifact of type
    `visibility`.

    Args:
        run: `wandb.run`.
        task: its name.
        found: what was found.
        numbers: of lmms-eval's table.
        folder: holds matrix, record and pictures.
    """
    import wandb

    for kind, contrasts in found.contrasts.items():
        step = f"{task}/{kind}/layer"
        run.define_metric(step, hidden=True)
        run.define_metric(f"{task}/{kind}/*", step_metric=step)
        for one in contrasts:
            values = {"score": one.score, "difference": one.difference, "low": one.low, "high": one.high}
            run.log({step: one.place.border, **{f"{task}/{kind}/{name}": value for name, value in values.items()}})
    record = found.to_dict()
    for name, value in {**numbers, "findings": record["findings"]}.items():
        run.summary[f"{task}/{name}"] = value
    run.log({f"{task}/picture": wandb.Image(str(folder / VISIBILITY[0]))})
    _log_files(run, task, "visibility", folder, record)


def log_attention(run: Any, task: str, record: AttentionRecord, found: AttentionFindings, folder: Path) -> None:
    """Log attention to a W&B run that is under way, online or offline.

    It logs each measure with the layer as its step, under every variant and minus the reference with its band
    (`TASK/attention/QUERIES/MEASURE/VARIANT`, `.../VARIANT/difference`, `low`, `high`), the same as a table
    (`TASK/layers`), the curves (`TASK/curves/...`),
    the maps over pictures (`TASK/maps/DOCUMENT`), each variant's headline (`TASK/VARIANT/difference` and so on) and the
    findings in the summary, and the folder's files as an artifact of type `attention`.

    Args:
        run: `wandb.run`.
        task: its name.
        record: what was read.
        found: what it tells.
        folder: holds record, shown.json, curves and page.
    """
    import wandb

    step = f"{task}/attention/layer"
    run.define_metric(step, hidden=True)
    run.define_metric(f"{task}/attention/*", step_metric=step)
    for place, layer in enumerate(record.layers.tolist()):
        values: dict[str, float] = {}
        for one in found.growth:
            name = f"{task}/attention/{one.queries}/{one.measure}"
            change = one.difference
            values |= {f"{name}/{one.reference}": one.before[place], f"{name}/{one.variant}": one.after[place]}
            for what, by_layer in (("difference", change.value), ("low", change.low), ("high", change.high)):
                values[f"{name}/{one.variant}/{what}"] = by_layer[place]
        run.log({step: layer, **{name: float(value) for name, value in values.items() if math.isfinite(value)}})
    run.log({f"{task}/layers": native(layer_rows(found.to_dict()["growth"]))})
    headline = found.to_dict()["headline"]
    for variant, told in headline.items():
        for name, value in told.items():
            if name != "variant":
                run.summary[f"{task}/{variant}/{name}"] = value
    run.summary[f"{task}/findings"] = findings(found)
    for measure in MEASURES:
        drawn = folder / curve_files(measure)[0]
        if drawn.exists():
            run.log({f"{task}/curves/{measure}": wandb.Image(str(drawn))})
    for document in read_shown(folder):
        layers = [overlay(document, layer) for layer in document_layers(record, found, document)]
        painted = [one for one in layers if one is not None]
        if painted:
            image = wandb.Image(strip(document, painted), caption=f"{document.change}: {document.question}")
            run.log({f"{task}/maps/{document.doc_id}": image})
    _log_files(run, task, "attention", folder, {"headline": headline})


def log_comparison(run: Any, results: Sequence[Result], changes: Changes, folder: Path) -> None:
    """Log a comparison to a W&B run that is under way, online or offline.

    It logs the forest plot (`TASK/forest`), each metric's numbers as a table (`TASK/metrics`) and in the summary
    (`TASK/VARIANT/METRIC/difference` and so on), how many documents change each way (`TASK/changes`), a table of such
    documents with image, question and both answers (`TASK/changed_documents`), and the folder's files as an artifact of
    type `comparison`.

    Args:
        run: `wandb.run`.
        results: each metric of each variant.
        changes: documents on which a variant scores otherwise than the base.
        folder: holds matrix, comparison and pictures.
    """
    import wandb

    task = changes.task
    metrics = records(results, named=True)
    run.log({f"{task}/forest": wandb.Image(str(folder / FOREST)), f"{task}/metrics": native(metrics)})
    for result, record in zip(results, metrics, strict=True):
        for name in ("a", "b", "difference", "ci_low", "ci_high", "p_value", "n", "clusters"):
            run.summary[f"{task}/{result.comparison.variant}/{result.metric}/{name}"] = record[name]
    run.summary[f"{task}/changes"] = changes.counts()
    if changes.shown:
        columns = [
            "doc_id",
            "variant",
            "change",
            "image",
            "question",
            "target",
            "base",
            "answer",
            "base score",
            "score",
        ]
        table = wandb.Table(columns=columns)
        for change in changes.shown:
            example = changes.examples[change.doc_id]
            shown = (change.doc_id, change.variant, change.way, _image(example), example.question, example.target)
            table.add_data(*shown, *change.answers, *change.scores)
        run.log({f"{task}/changed_documents": table})
    _log_files(run, task, "comparison", folder, {"metrics": metrics})


def log_search(run: Any, search: Search, folder: Path) -> None:
    """Log a recipe search to a W&B run that is under way, online or offline.

    It logs the gain with the start layer as its step (`TASK/sweep/...`), the numbers of lmms-eval's table and what
    belongs to them in the summary (`TASK/gain_unseen` and so on), the surface as a table (`TASK/surface`), the pictures
    (`TASK/picture/...`), and the folder's files as an artifact of type `recipe-search`.

    Args:
        run: `wandb.run`.
        search: what was found.
        folder: holds matrix, search, recipe and pictures.
    """
    import wandb

    task, record = search.record.task, search.to_dict()
    step = f"{task}/sweep/layer"
    run.define_metric(step, hidden=True)
    run.define_metric(f"{task}/sweep/*", step_metric=step)
    for layer in search.layers:
        unseen = layer.unseen
        values = {"gain_unseen": unseen.gain, "low": unseen.ci_low, "high": unseen.ci_high}
        if layer.name is not None:
            values["gain_tuned_here"] = search.measured(layer.name).gain
        known = {f"{task}/sweep/{name}": value for name, value in values.items() if value is not None}
        run.log({step: layer.start_layer, **known})

    for name, value in {**numbers(search), "pick": search.pick, "recipe": str(search.in_sample.recipe)}.items():
        run.summary[f"{task}/{name}"] = value
    for name in ("any_better_p", "better_than_scaled_p", "at_border"):
        run.summary[f"{task}/{name}"] = record[name]
    if search.unseen is not None:
        run.summary[f"{task}/gain_unseen_standard_error"] = search.unseen.standard_error

    tuned = [f"{name} ({TUNED_HERE})" for name in ("score", "gain", "ci_low", "ci_high")]
    fields = ("name", "kind", "start_layer", "lambda_lm", "lambda_vlm", "other fields")
    table = wandb.Table(columns=[*fields, *tuned, "documents", "dropped"])
    for one in search.recipes:
        recipe = one.recipe
        place: tuple[Any, ...] = (None, None, None, "")
        if recipe.fields is not None:
            place = (recipe.start_layer, *recipe.coefficients, ", ".join(recipe.plane))
        measured = (one.score, one.gain, one.ci_low, one.ci_high, one.documents, recipe.dropped_why or "")
        table.add_data(recipe.name, recipe.kind, *place, *measured)
    run.log({f"{task}/surface": table})
    for name, kind in ((SURFACE[0], "surface"), (SWEEP[0], "sweep"), (ABLATION[0], "ablation")):
        if (folder / name).exists():
            run.log({f"{task}/picture/{kind}": wandb.Image(str(folder / name))})
    _log_files(run, task, "recipe-search", folder, {name: value for name, value in record.items() if name != "recipes"})


def log_audits(run: Any, audits: Sequence[TaskAudit]) -> None:
    """Log a task's format audit to a W&B run that is under way, online or offline.

    It logs each part of each metric as a table (`TASK/format_audit`); in the summary the headline's parts
    (`TASK/VARIANT/METRIC/audit/PART`), the audit in words and its warnings (`TASK/format_audit/...`) and each variant's
    share of answers cut off (`TASK/VARIANT/cut_off`); and an alert for each warning.

    Args:
        run: `wandb.run`.
        audits: each metric of each variant of one task.
    """
    import wandb

    task, rows = audits[0].task, audit_records(audits)
    if rows:
        run.log({f"{task}/format_audit": wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
    run.summary[f"{task}/format_audit/in_words"] = audit_sentences(audits)
    warnings = audit_warnings(audits)
    run.summary[f"{task}/format_audit/warnings"] = warnings
    for warning in warnings:
        run.alert(title=f"{task}: answers cut off", text=warning, level="WARN")
    for one in audits:
        if one.headline and one.found is not None:
            for part in one.found.parts:
                run.summary[f"{task}/{one.variant}/{one.metric}/audit/{part.kind}"] = part.difference.value
            for side in one.found.sides:
                run.summary[f"{task}/{side.variant}/cut_off"] = side.cut_off


def native(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return flat records as a table of W&B's, a column for each key of the first."""
    import wandb

    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])


def layer_rows(growth: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return measures by layer, as `attention.json` holds them, as flat records."""
    return [
        {
            "queries": one["queries"],
            "measure": one["measure"],
            "variant": one["variant"],
            "layer": layer,
            "before": one["before"][place],
            "after": one["after"][place],
            **{name: one["difference"][key][place] for name, key in _CHANGE.items()},
        }
        for one in growth
        for place, layer in enumerate(one["layers"])
    ]


_CHANGE = {"difference": "value", "low": "low", "high": "high"}


def _log_files(run: Any, name: str, kind: str, folder: Path, metadata: dict[str, Any]) -> None:
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", name), type=kind, metadata=metadata)
    for path in sorted(folder.iterdir()):
        if path.suffix != ".jsonl":  # answers kept for a resumed run, which are in the matrix
            artifact.add_file(str(path))
    run.log_artifact(artifact)


def _image(example: Example) -> Any:
    import wandb

    return None if example.image is None else wandb.Image(picture(example.image))


def _answers(wandb: Any, matrix: ScoreMatrix, examples: Sequence[Example]) -> Any:
    cuts = sorted(matrix.variants, key=int)
    columns = [matrix.column(cut) for cut in cuts]
    row_of = {int(doc_id): row for row, doc_id in enumerate(matrix.doc_ids)}
    table = wandb.Table(columns=["doc_id", "image", "question", "target", *(f"cut {cut}" for cut in cuts)])
    for example in examples:
        answers = matrix.answers[row_of[example.doc_id], columns]
        table.add_data(example.doc_id, _image(example), example.question, example.target, *answers)
    return table
