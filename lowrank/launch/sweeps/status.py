"""How a sweep stands, for a second terminal: nothing is started and nothing changed."""

from __future__ import annotations

import math
from pathlib import Path

from lowrank.common.terminal import aligned, duration
from lowrank.launch.stand import stand_of
from lowrank.launch.sweeps.best import best_lines, shown
from lowrank.launch.sweeps.points import run_id_of
from lowrank.launch.sweeps.search import described
from lowrank.launch.sweeps.standing import Standing
from lowrank.launch.sweeps.trials import is_running, tally_of


def status_lines(standing: Standing, output_dir: Path, max_retries: int) -> list[str]:
    """Returns what is known of a sweep.

    Args:
        standing: The sweep.
        output_dir: Where its runs are on this machine.
        max_retries: How often a failed point is run again.

    Returns:
        Lines: points by state, those that run, those that failed, and the best.
    """
    search, points = standing.search, standing.points
    head = f"sweep {search.sweep.name}: {search.size} points, {search.sweep.method}"
    if not standing.begun:
        return [f"{head}, not begun"]
    tally = tally_of(points, search.size, max_retries)
    counts = {
        "finished": tally.done - len(tally.lost),
        **tally.losses,
        "running": tally.running,
        "failed": len(tally.failed),
    }
    counts["waiting"] = search.size - sum(counts.values())
    lines = [head, *aligned([(name, f"{count}") for name, count in counts.items() if count])]
    running = [n for n, trials in sorted(points.items()) if is_running(trials)]
    rows, left = [("run", "epoch", "left", search.metric, "")], []
    for number in running:
        run_id, values = run_id_of(standing.prefix, number), points[number][-1].params
        point = search.point(number, values)
        swept = described({n: shown(value) for n, value in point.items() if n in search.varied})
        epoch, epochs, value, seconds = stand_of(output_dir / run_id, search.metric)
        left.append(seconds)
        at = "-" if epoch is None else f"{epoch}/{epochs}"
        known = f"{value:.4g}" if math.isfinite(value) else "-"
        rows.append((run_id, at, duration(seconds), known, swept))
    if running:
        lines += ["", *aligned(rows, left=(0, 4))]
        lines.append(f"left: {duration(_seconds_left(standing, counts['waiting'], left))}")
    if tally.failed:
        lines.append("")
    for number, ended in sorted(tally.failed.items()):
        run_id = run_id_of(standing.prefix, number)
        lines.append(f"{run_id} failed too often, see {ended.log}")
    best = best_lines(search, points, output_dir, standing.prefix)
    return [*lines, *([""] if best else []), *best]


def _seconds_left(standing: Standing, waiting: int, running: list[float]) -> float:
    """Returns the time left if as many points go on running at once, as fast as those before."""
    spans = [
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        for trials in standing.points.values()
        for trial in trials
        if trial.state.name == "COMPLETE" and trial.datetime_start and trial.datetime_complete
    ]
    each = sum(spans) / len(spans) if spans else math.nan
    rest = sum(each if math.isnan(seconds) else seconds for seconds in running)
    return (rest + (waiting * each if waiting else 0.0)) / len(running)
