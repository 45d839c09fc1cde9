"""The workspace: which panels there are, in which order, and what they show.

W&B draws panels only once it has a project with runs. What is built here needs no server: a
specification, made with wandb-workspaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.workspaces import Section, Workspace

from lowrank.common.quantities import TABLE

MOST_RUNS = 100
"""Runs that a panel draws at once; W&B's own default of ten hides most of a sweep."""

MOST_CURVES = 4
"""Swept parameters that get a panel of their own."""

RANK = "average rank (first ε)"

_LOGARITHMIC = ("lr", "batch_size", "width")  # never 0, and swept by factors


def build_workspace(
    entity: str,
    project: str,
    swept: Sequence[str],
    *,
    sweep_id: str | None = None,
    local_sweep: str | None = None,
    name: str | None = None,
) -> Workspace:
    """Builds the rank dashboard of a project, or of one sweep in it.

    Args:
        entity: W&B user or team.
        project: W&B project.
        swept: Configuration fields that differ between the runs, the most interesting first.
        sweep_id: Shows only the runs of this W&B sweep.
        local_sweep: Shows only the runs of this sweep, made by ``lowrank sweep``; with `sweep_id`
            those of either, where it is not known which of them there is.
        name: What the workspace is called; by default it says what it shows.

    Returns:
        The workspace, not saved. One of the same project and sweep always has the same place in
        W&B, so that saving it again replaces it.

    Example:
        >>> workspace = build_workspace("me", "lowrank", ["weight_decay"])
        >>> [section.name for section in workspace.sections]
        ['Rank', 'Accuracy', 'Parameters', 'Spectra', 'Theory']
    """
    shown = sweep_id or local_sweep
    either = [expr.Metric("Sweep") == sweep_id] if sweep_id else []
    either += [expr.Config("sweep.value") == local_sweep] if local_sweep else []
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=name or f"lowrank: {shown or project}",
        sections=[_rank(swept), _accuracy(swept), _parameters(swept), _spectra(), _theory()],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=expr.Or(*either) if either else "",
            pinned_columns=[
                "run:displayName",
                *(f"config:{field}.value" for field in swept),
                *(f"summary:{metric}" for metric in ("rank_mean", "test_accuracy", "state")),
            ],
        ),
    )
    # The library draws a new name at every save; this is the one that it would look up.
    workspace._internal_name = view_name(entity, project, shown)
    return workspace


def _rank(swept: Sequence[str]) -> Section:
    """Returns what the project is about: ranks by what was varied, then layer by layer."""
    by_parameter = [_curve("rank_mean", RANK, field) for field in swept[:MOST_CURVES]]
    return _section(
        "Rank",
        [
            *(by_parameter or [_curve("rank_mean", RANK)]),
            _of_layers("Rank of every layer", "^rank/", "rank"),
            *_others(swept),
        ],
        is_open=True,
    )


def _accuracy(swept: Sequence[str]) -> Section:
    """Returns what tells whether low rank costs accuracy."""
    return _section(
        "Accuracy",
        [
            wr.ScatterPlot(
                title="Test accuracy against rank",
                x=wr.SummaryMetric("rank_mean"),
                y=wr.SummaryMetric("test_accuracy"),
            ),
            _curve("test_accuracy", "test accuracy", *swept[:1]),
            _curve("train_accuracy", "train accuracy", *swept[:1]),
            _lines(
                "Runs that died or collapsed",
                "dead (0 or 1), collapsed matrices",
                y=["dead", "collapsed"],
            ),
        ],
        is_open=True,
    )


def _parameters(swept: Sequence[str]) -> Section:
    """Returns all parameters at once, and which of them matter."""
    ends = ("test_accuracy", "rank_mean")
    columns = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(field), log=field in _LOGARITHMIC or None)
        for field in swept
    ]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(end)) for end in ends]
    return _section(
        "Parameters",
        [
            wr.ParallelCoordinatesPlot(title="Parameters, accuracy and rank", columns=columns),
            wr.ParameterImportancePlot(with_respect_to="rank_mean"),
        ],
        is_open=True,
        columns=2,
    )


def _spectra() -> Section:
    """Returns the pictures that each run ends with."""
    pictures = {
        "Rank of every layer over epochs": "rank_heatmap",
        "Singular values over epochs": "spectrum_over_time",
    }
    return _section(
        "Spectra",
        [
            wr.MediaBrowser(title=title, media_keys=[key], num_columns=1)
            for title, key in pictures.items()
        ],
        columns=2,
    )


def _theory() -> Section:
    """Returns the bound beside what it bounds; vacuous bounds are not logged."""
    return _section(
        "Theory",
        [
            _of_layers(
                "Rank bound beside measured rank, where the bound is not vacuous",
                "^(rank|rank_bound)/",
                "rank",
                most_runs=1,
            ),
            _lines("Learning rate", "learning rate", y=["lr_now"], log_y=True),
        ],
        columns=2,
    )


def _others(swept: Sequence[str]) -> list[Any]:
    """Returns a panel of each further quantity that is to have one."""
    return [
        _curve(entry.mean, f"average {entry.words}", *swept[:1])
        if entry.mean
        else _of_layers(f"{_capital(entry.words)} of every layer", f"^{entry.name}/", entry.meaning)
        for entry in TABLE.values()
        if entry.on_dashboard
    ]


def _of_layers(title: str, metrics: str, label: str, most_runs: int = 5) -> Any:
    """Returns metrics of every layer over epochs, found by a regular expression."""
    return _lines(title, label, metric_regex=metrics, max_runs_to_show=most_runs)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _curve(metric: str, label: str, field: str | None = None) -> Any:
    """Returns a metric over epochs: of every run, or mean ± sd for each value of a field."""
    grouped: dict[str, Any] = {}
    if field is not None:
        grouped = {
            "groupby": wr.Config(field),
            "groupby_aggfunc": "mean",
            "groupby_rangefunc": "stddev",
        }
    title = _capital(label) + (f" by {field}" if field else "")
    return _lines(title, label, y=[metric], **grouped)


def _lines(title: str, label: str, **options: Any) -> Any:
    usual = {"x": "epoch", "title_x": "epoch", "max_runs_to_show": MOST_RUNS}
    return wr.LinePlot(title=title, title_y=label, **usual | options)


def _section(name: str, panels: list[Any], *, is_open: bool = False, columns: int = 3) -> Section:
    layout = ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
    return ws.Section(name=name, panels=panels, is_open=is_open, layout_settings=layout)


def view_name(entity: str, project: str, shown: str | None) -> str:
    """Returns W&B's name of a dashboard, which depends on nothing but what it shows.

    Args:
        entity: W&B user or team.
        project: W&B project.
        shown: The sweep; None for the whole project.

    Returns:
        ``nw-``, eleven letters and digits as W&B draws them, ``-v``.
    """
    place = f"{entity}/{project}/{shown or ''}"
    return f"nw-{hashlib.sha256(place.encode()).hexdigest()[:11]}-v"
