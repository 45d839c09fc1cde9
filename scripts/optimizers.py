"""Writes which optimiser keeps which rank into docs/optimizers.md: sweeps/optimizers_rank.yaml.

    python scripts/optimizers.py    # with the flags of scripts/evidence.py; make evidence runs it

An hour of a core. Interrupted and started again it trains what is missing.
"""

from __future__ import annotations

import csv
import io
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evidence import StoppedError, describe_machine, mean_and_spread, placed, swept, written
from matplotlib.figure import Figure

from lowrank import Run
from lowrank.common.texts import one_of
from lowrank.config.optimizers import OPTIMIZERS
from lowrank.runs.lost import lost
from lowrank.views.table.effort import efolds
from lowrank.views.table.listing import to_csv

ROOT = Path(__file__).resolve().parent.parent
SWEEP, PAGE = "sweeps/optimizers_rank.yaml", "docs/optimizers.md"
COLUMNS = {
    "efolds": "e-folds",
    "rank_mean": "rank",
    "stable_rank_mean": "stable rank",
    "effective_rank_mean": "effective rank",
    "train_accuracy": "train accuracy %",
    "test_accuracy": "test accuracy %",
}
"""What is told of a network after its last epoch, and its words."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00")
MARKS = ("o", "s", "^")


@dataclass(frozen=True)
class Result:
    """What one network came to.

    Attributes:
        optimizer: Its name.
        lr: Learning rate.
        weight_decay: As the optimiser takes it.
        seed: Of the run.
        values: Those of `COLUMNS`; NaN where there is none. Accuracies in percent.
    """

    optimizer: str
    lr: float
    weight_decay: float
    seed: int
    values: dict[str, float]

    @property
    def point(self) -> tuple[str, float]:
        """Optimiser and weight decay, over whose seeds means are taken."""
        return self.optimizer, self.weight_decay


def result_of(run: Run) -> Result:
    """Takes the numbers from a run record.

    Args:
        run: Of the sweep, finished.

    Returns:
        Its numbers; of a collapsed or dead network only its accuracies.
    """
    config, gone = run.config, lost(run) is not None
    values = {"efolds": efolds(run)}
    for name in list(COLUMNS)[1:]:
        value, percent = float(run.metrics[name][-1]), name.endswith("accuracy")
        values[name] = 100 * value if percent else np.nan if gone else value
    return Result(config["optimizer"], config["lr"], config["weight_decay"], config["seed"], values)


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Takes the numbers from records, in the order of the table of optimisers.

    Args:
        runs: The runs.

    Returns:
        Their numbers.
    """
    order = list(OPTIMIZERS)
    found = [result_of(run) for run in runs]
    return sorted(found, key=lambda r: (order.index(r.optimizer), r.weight_decay, r.seed))


def as_csv(results: Sequence[Result]) -> str:
    """Writes results, a line for each network under a head.

    Args:
        results: Of all networks.

    Returns:
        The file.
    """
    return to_csv(
        [
            {"optimizer": r.optimizer, "lr": r.lr, "weight_decay": r.weight_decay, "seed": r.seed}
            | r.values
            for r in results
        ]
    )


def from_csv(text: str) -> list[Result]:
    """Reads what `as_csv` wrote.

    Args:
        text: The file.

    Returns:
        The results.
    """
    return [
        Result(
            row["optimizer"],
            float(row["lr"]),
            float(row["weight_decay"]),
            int(row["seed"]),
            {name: float(row[name]) for name in COLUMNS},
        )
        for row in csv.DictReader(io.StringIO(text))
    ]


def means_of(results: Sequence[Result]) -> dict[tuple[str, float], dict[str, list[float]]]:
    """Gathers the values of each point's seeds.

    Args:
        results: Of all networks.

    Returns:
        By point and name, a value for each seed.
    """
    points: dict[tuple[str, float], dict[str, list[float]]] = {}
    for result in results:
        values = points.setdefault(result.point, {name: [] for name in COLUMNS})
        for name, value in result.values.items():
            values[name].append(value)
    return points


def comparisons(results: Sequence[Result]) -> list[str]:
    """Says which rank each optimiser keeps with equal e-folds, and with its strongest decay.

    Args:
        results: Of all networks.

    Returns:
        A sentence for each number of e-folds above 0 that several optimisers have, and one of the
        strongest decays.
    """
    told: dict[str, list[str]] = {}
    last: dict[str, str] = {}
    for (optimizer, _), values in means_of(results).items():
        mean = {name: statistics.fmean(each) for name, each in values.items()}
        last[optimizer] = f"{optimizer} {mean['rank_mean']:.1f} ({mean['test_accuracy']:.1f} %)"
        if mean["efolds"] > 0:
            told.setdefault(f"{mean['efolds']:.3g} e-folds", []).append(last[optimizer])
    told["its strongest decay"] = list(last.values())
    return [
        f"Rank (and test accuracy) with {what}: {', '.join(each)}."
        for what, each in told.items()
        if len(each) > 1
    ]


def section(results: Sequence[Result], where: str) -> str:
    """Makes what stands between the marks.

    Args:
        results: Of all networks.
        where: Machine and versions.

    Returns:
        Markdown.
    """
    names = [name for name in COLUMNS if name != "efolds"]
    head = ["optimiser", "lr", "weight decay", *COLUMNS.values()]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    rates = {result.point: result.lr for result in results}
    for (optimizer, decay), values in means_of(results).items():
        folds = values["efolds"][0]
        cells = [optimizer, f"{rates[optimizer, decay]:g}", f"{decay:g}"]
        cells += ["-" if np.isnan(folds) else f"{folds:.3g}"]
        cells += [mean_and_spread(values[name]) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    seeds = len({result.seed for result in results})
    absent = [name for name in OPTIMIZERS if name not in {r.optimizer for r in results}]
    return "\n\n".join([
        '<img src="evidence/optimizers.png" width="70%" '
        'alt="Test accuracy over average rank, by optimiser and weight decay">',
        "\n".join(lines),
        f"After the last epoch, mean ± sample standard deviation over {seeds} seeds; `rank_mean` "
        f"at ε = 1e-3, full rank 100; {len(results)} networks"
        f"{f', none of {one_of(absent)}' if absent else ''}. {' '.join(comparisons(results))}",
        where,
    ])  # fmt: skip


def picture(results: Sequence[Result]) -> Figure:
    """Draws accuracy over rank, a mark for each network.

    Args:
        results: Of all networks.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    colours = dict(zip(OPTIMIZERS, COLOURS, strict=True))
    decays = {
        optimizer: sorted({r.weight_decay for r in results if r.optimizer == optimizer})
        for optimizer in OPTIMIZERS
    }
    for (optimizer, decay), values in means_of(results).items():
        mark = MARKS[decays[optimizer].index(decay)]
        axes.plot(
            values["rank_mean"],
            values["test_accuracy"],
            mark,
            color=colours[optimizer],
            markersize=5,
            label=f"{optimizer}, {decay:g}",
        )
    axes.set_xlabel("rank_mean at ε = 0.001")
    axes.set_ylabel("test accuracy in %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        title="optimiser, weight decay", frameon=False, loc="outside right center", fontsize=8
    )
    return figure


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Trains what is missing, draws and writes.

    Args:
        argv: Flags for ``lowrank sweep``; by default those of the process.
        root: The repository.

    Returns:
        The exit code: that of a sweep that fails, else 0.
    """
    place, flags = placed(list(sys.argv[1:] if argv is None else argv), root)
    try:
        runs = swept(root / SWEEP, f"{place}/{Path(SWEEP).stem}", flags)
    except StoppedError as stopped:
        return int(stopped.args[0])
    results = results_of(runs)
    docs = root / "docs" / "evidence"
    (docs / "optimizers.csv").write_text(as_csv(results), encoding="utf-8")
    picture(results).savefig(docs / "optimizers.png", dpi=150)
    page = root / PAGE
    text = written(page.read_text(encoding="utf-8"), "", section(results, describe_machine(runs)))
    page.write_text(text, encoding="utf-8")
    print(f"written: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
