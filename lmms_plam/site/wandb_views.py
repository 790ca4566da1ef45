"""A study's report and workspace in Weights & Biases as code, by wandb-workspaces: what the page shows, in its place.

Both are built without a network, and saved where the study's runs have been synced.
"""

from __future__ import annotations

import importlib
from typing import Any

from lmms_plam.errors import UnsupportedError
from lmms_plam.site.boards import Board
from lmms_plam.site.found import Study
from lmms_plam.site.model_part import in_words


def build_report(study: Study, boards: list[Board], project: str, group: str) -> Any:
    """Return a `wandb_workspaces.reports.v2.Report` of a study's group of runs.

    Args:
        study: what was found.
        boards: its leaderboards.
        project: as ENTITY/NAME.
        group: the study's name.

    Raises:
        UnsupportedError: wandb-workspaces isn't installed.
    """
    wr = _module("wandb_workspaces.reports.v2")
    entity, _, name = project.rpartition("/")
    blocks: list[Any] = [wr.TableOfContents()]
    for model in study.models:
        blocks += [wr.H1(model), wr.P(" ".join(in_words(study, model)))]
        for title, panels in _sections(wr, study, model).items():
            blocks += [wr.H2(title), wr.PanelGrid(runsets=[_runs_of(wr, group)], panels=panels)]
    tables = [wr.WeavePanelSummaryTable(table_name=f"study/{board.name}") for board in boards]
    blocks += [wr.H1("Over all"), wr.PanelGrid(runsets=[_runs_of(wr, group)], panels=tables)] if tables else []
    return wr.Report(entity=entity, project=name, title=group, description="made by plam report", blocks=blocks)


def build_workspace(study: Study, boards: list[Board], project: str, group: str) -> Any:
    """Return a `wandb_workspaces.workspaces.Workspace` of a study's group; the rest as for `build_report`."""
    wr, ws = _module("wandb_workspaces.reports.v2"), _module("wandb_workspaces.workspaces")
    entity, _, name = project.rpartition("/")
    sections = [
        ws.Section(name=f"{model}: {title}", panels=panels, is_open=True)
        for model in study.models
        for title, panels in _sections(wr, study, model).items()
    ]
    tables = [wr.WeavePanelSummaryTable(table_name=f"study/{board.name}") for board in boards]
    sections += [ws.Section(name="over all", panels=tables, is_open=True)] if tables else []
    settings = ws.RunsetSettings(filters=f"Group = '{group}'")
    return ws.Workspace(entity=entity, project=name, name=group, sections=sections, runset_settings=settings)


def save_views(study: Study, boards: list[Board], project: str, group: str) -> list[str]:
    """Save report and workspace, and return where they are; arguments as for `build_report`.

    Raises:
        UnsupportedError: wandb-workspaces isn't installed, or W&B can't be reached.
    """
    views = build_report(study, boards, project, group), build_workspace(study, boards, project, group)
    try:
        return [str(view.save().url) for view in views]
    except Exception as error:  # whatever the network or the login says
        raise UnsupportedError(f"W&B doesn't take the report of {project}: {error}") from error


def _sections(wr: Any, study: Study, model: str) -> dict[str, list[Any]]:
    """Return a model's panels by what they show, without what the study hasn't."""
    probes = [one.record.task for one in study.probes if one.place.model == model]
    searches = [one.record.task for one in study.searches if one.place.model == model]
    comparisons = [one.place.task for one in study.comparisons if one.place.model == model]
    attention = [one.record.task for one in study.attention if one.place.model == model]

    def curve(task: str) -> Any:
        return wr.LinePlot(title=task, x=f"{task}/curve/layer", y=[f"{task}/curve/score"])

    def sweep(task: str) -> Any:
        return wr.LinePlot(title=task, x=f"{task}/sweep/layer", y=[f"{task}/sweep/gain_unseen"])

    def both(task: str, picture: str, table: str) -> list[Any]:
        return [wr.MediaBrowser(title=task, media_keys=[f"{task}/{picture}"]), _table(wr, task, table)]

    found = {
        "masking curves": [curve(task) for task in probes],
        "searches": [panel for task in searches for panel in (sweep(task), _table(wr, task, "surface"))],
        "gains": [panel for task in comparisons for panel in both(task, "forest", "metrics")],
        "attention": [panel for task in attention for panel in both(task, "curves/mass", "layers")],
    }
    return {title: panels for title, panels in found.items() if panels}


def _table(wr: Any, task: str, name: str) -> Any:
    return wr.WeavePanelSummaryTable(table_name=f"{task}/{name}")


def _runs_of(wr: Any, group: str) -> Any:
    """Return the runs of the study, of the project in which the report is saved."""
    return wr.Runset(name=group, filters=f"Group = '{group}'")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsupportedError(
            f"a report in W&B needs wandb-workspaces: pip install 'lmms-plam[workspaces]' ({error})"
        ) from error
