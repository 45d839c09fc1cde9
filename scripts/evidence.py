"""Writes the README's evidence: a star, a landscape, and the paper's constants and Figure 7.

    make evidence                                                   # CIFAR-10, downloaded
    make evidence FLAGS='--dataset=imagefolder --data_dir=DIR'      # images in folders

Interrupted and started again it trains what is missing. Flags go to ``lowrank sweep``, which trains
runs of one batch size as packs. Figure 7 alone takes five hours of a core.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowrank import Run, load_run, load_sweep
from lowrank.cli import main as lowrank
from lowrank.common.errors import InputError
from lowrank.common.texts import one_of
from lowrank.views.published import constants
from lowrank.views.published.comparison import compare
from lowrank.views.published.figures import of_figure
from lowrank.views.published.table import Tolerance, as_csv, as_markdown, notes, summary, title
from lowrank.views.table.effort import efolds
from lowrank.views.table.listing import to_csv
from lowrank.views.table.rows import Definition, read_row

ROOT = Path(__file__).resolve().parent.parent
SWEEP, LANDSCAPE = "sweeps/smoke_cifar10.yaml", "sweeps/landscape_cifar10.yaml"
PUBLISHED, FIGURE = "7 B 128", "sweeps/fig07_b128.yaml"
CENTRE = {"weight_decay": 4e-3, "lr": 0.2, "batch_size": 16}
NAMES = {"weight_decay": "weight decay", "lr": "learning rate", "batch_size": "batch size"}
FALLS = {"weight_decay": "stronger", "lr": "larger", "batch_size": "smaller"}
"""Which way along each arm the rank should fall."""
DECAY = {
    "dataset": "digits", "model": "mlp", "depth": 3, "width": 100, "batch_size": 32, "lr": 0.1,
    "weight_decay": 2e-3, "epochs": 60, "milestones": "[20,40]", "measure_every": 5,
    "tracking": "disabled", "run_id": "digits",
}  # fmt: skip
"""A network that interpolates within a minute, and whose rate is cut twice from there on."""


@dataclass(frozen=True)
class Result:
    """What one run came to.

    Attributes:
        weight_decay: Of the run.
        lr: Of the run.
        batch_size: Of the run.
        seed: Of the run.
        state: How it ended.
        efolds: Forgetting e-folds, the sum of lr × weight_decay over all steps.
        full_rank: Mean of the smaller dimensions of the counted matrices.
        rank_first: ``rank_mean`` at initialisation.
        rank_last: ``rank_mean`` after the last epoch; NaN where a matrix collapsed.
        train_accuracy: After the last epoch, 0..1.
        test_accuracy: After the last epoch, 0..1.
    """

    weight_decay: float
    lr: float
    batch_size: int
    seed: int
    state: str
    efolds: float
    full_rank: float
    rank_first: float
    rank_last: float
    train_accuracy: float
    test_accuracy: float


def result_of(run: Run) -> Result:
    """Takes the numbers of the table from a run record.

    Args:
        run: A run of the sweep, with ``train_size`` set.

    Returns:
        Its numbers.
    """
    config, row = run.config, read_row(run, Definition())
    return Result(
        weight_decay=config["weight_decay"],
        lr=config["lr"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        state=run.state,
        efolds=efolds(run),
        full_rank=row.full_rank,
        rank_first=float(row.ranks[0]),
        rank_last=float(row.ranks[-1]),
        train_accuracy=float(row.train_accuracy[-1]),
        test_accuracy=float(row.test_accuracy[-1]),
    )


def arm(results: Sequence[Result], field: str) -> dict[float, list[Result]]:
    """Chooses the runs in which all but one parameter have the value of the centre.

    Args:
        results: Of all runs.
        field: The parameter that varies.

    Returns:
        The runs by its value, in the order in which the rank should fall.
    """
    found: dict[float, list[Result]] = {}
    for result in results:
        if all(getattr(result, name) == value for name, value in CENTRE.items() if name != field):
            found.setdefault(getattr(result, field), []).append(result)
    return dict(sorted(found.items(), reverse=FALLS[field] == "smaller"))


def verdict(results: Sequence[Result], field: str) -> str:
    """Says whether the mean rank falls at every step along an arm.

    Args:
        results: Of all runs.
        field: The parameter that varies.

    Returns:
        A sentence.
    """
    means = {
        value: statistics.fmean(result.rank_last for result in members)
        for value, members in arm(results, field).items()
    }
    values = list(means)
    rises = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(values) if not means[b] < means[a]]
    name = f"a {FALLS[field]} {NAMES[field]}"
    if rises:
        return f"With {name} it does not fall from {', '.join(rises)}."
    first, last = means[values[0]], means[values[-1]]
    return f"With {name} it falls at every step, from {first:.1f} to {last:.1f}."


def table(results: Sequence[Result]) -> str:
    """Makes the README's table: a row for each value of each arm.

    Args:
        results: Of all runs.

    Returns:
        Markdown.
    """
    lines = [
        "| | value | e-folds | rank | % of full | train accuracy % | test accuracy % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for field, name in NAMES.items():
        for value, members in arm(results, field).items():
            full = members[0].full_rank
            cells = [
                name,
                f"{value:g}",
                f"{statistics.fmean(r.efolds for r in members):.3g}",
                mean_and_spread([r.rank_last for r in members]),
                f"{100 * statistics.fmean(r.rank_last for r in members) / full:.1f}",
                mean_and_spread([100 * r.train_accuracy for r in members]),
                mean_and_spread([100 * r.test_accuracy for r in members]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
            name = ""
    return "\n".join(lines)


def section(results: Sequence[Result], where: str) -> str:
    """Makes what stands in the README between the marks.

    Args:
        results: Of all runs.
        where: Machine and versions.

    Returns:
        Markdown.
    """
    seeds = sorted({result.seed for result in results})
    first = [result.rank_first for result in results]
    ended = sorted({result.state for result in results})
    images = " ".join(
        f'<img src="docs/evidence/curves-{field}.png" width="32%" '
        f'alt="Average rank and accuracy over epochs by {name}">'
        for field, name in NAMES.items()
    )
    return "\n\n".join([
        images,
        table(results),
        f"Rank: `rank_mean` at ε = 1e-3 after the last epoch, mean ± sample standard deviation "
        f"over {len(seeds)} seeds; at initialisation {mean_and_spread(first)}, full "
        f"{results[0].full_rank:g}. {' '.join(verdict(results, field) for field in NAMES)} "
        f"E-folds: the sum of learning rate × weight decay over all steps. Each arm varies one "
        f"parameter around weight decay {CENTRE['weight_decay']:g}, learning rate "
        f"{CENTRE['lr']:g} and batch size {CENTRE['batch_size']}: {len(results)} runs, all "
        f"{' or '.join(ended)}. {where}",
    ])  # fmt: skip


def describe_machine(runs: Sequence[Run]) -> str:
    """Says what the runs were made on, and how.

    Args:
        runs: All of them.

    Returns:
        A sentence.
    """
    environment, config = runs[0].environment, runs[0].config
    versions = environment["versions"]
    listed = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "wandb"))
    threads = "1 thread" if environment["threads"] == 1 else f"{environment['threads']} threads"
    data = "CIFAR-10 as JPEG files in folders" if config["dataset"] == "imagefolder" else "CIFAR-10"
    data += f", {config['train_size']:,} images to train" if config["train_size"] else ""
    packs = {pack["id"] for run in runs if (pack := run.environment.get("pack"))}
    how = f"a pack, {len(packs)} packs" if packs else "a run"
    compiled = ", compiled" if config["compile"] else ""
    return (
        f"{data}; {environment['device_name']}, "
        f"{environment['cores']} cores, {threads} {how}{compiled}, Python {versions['python']}, "
        f"{listed}."
    )


def swept(file: Path, place: str, flags: Sequence[str], look: Sequence[str] = ()) -> list[Run]:
    """Trains what is missing of a sweep, and draws it.

    Args:
        file: The sweep file.
        place: Where its runs go.
        flags: For ``lowrank sweep``.
        look: Flags for ``lowrank figures``; without, nothing is drawn.

    Returns:
        The runs.

    Raises:
        StoppedError: The sweep or the figures fail.
    """
    code = lowrank(["sweep", str(file), *flags, f"--output_dir={place}"])
    if look:
        code = code or lowrank(["figures", place, "--format=png", *look])
    if code:
        raise StoppedError(code)
    return load_sweep(place)


class StoppedError(Exception):
    """A part failed, with an exit code."""


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Takes the numbers from records, in the order of their settings.

    Args:
        runs: The runs.

    Returns:
        Their numbers.
    """
    return sorted(
        (result_of(run) for run in runs),
        key=lambda r: (r.weight_decay, r.lr, r.batch_size, r.seed),
    )


def write_csv(file: Path, results: Sequence[Any]) -> None:
    """Writes numbers, a line for each result under a head.

    Args:
        file: Where they go.
        results: Of one dataclass.
    """
    file.write_text(to_csv([asdict(each) for each in results]), encoding="utf-8")


def star(flags: Sequence[str], root: Path) -> str:
    """Trains the star, draws its arms and writes its numbers beside them.

    Args:
        flags: For ``lowrank sweep``.
        root: The repository.

    Returns:
        The README's section.
    """
    place, flags = placed(flags, root)
    docs = root / "docs" / "evidence"
    look = ["--kind=curves", "--dpi=200", f"--output={docs}/"]
    runs = swept(root / SWEEP, place, flags, look)
    results = results_of(runs)
    write_csv(docs / "runs.csv", results)
    return section(results, describe_machine(runs))


def landscape(flags: Sequence[str], root: Path) -> str:
    """Trains the grid of learning rate and weight decay, and draws it.

    Args:
        flags: For ``lowrank sweep``.
        root: The repository.

    Returns:
        The README's section.
    """
    place, flags = placed(flags, root)
    docs = root / "docs" / "evidence"
    look = ["--kind=landscape", "--dpi=150", f"--output={docs}/landscape.png"]
    results = results_of(swept(root / LANDSCAPE, f"{place}/landscape", flags, look))
    write_csv(docs / "landscape.csv", results)
    return landscape_section(results)


def landscape_section(results: Sequence[Result]) -> str:
    """Makes what the README says of learning rate and weight decay together.

    Args:
        results: Of the grid.

    Returns:
        Markdown.
    """
    diagonals: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.lr * r.weight_decay, r.lr)):
        diagonals.setdefault(f"{result.lr * result.weight_decay:.3g}", []).append(result)
    lines = ["| lr · weight decay | e-folds | rank, by growing lr |", "|---:|---:|---|"]
    for product, members in diagonals.items():
        ranks = ", ".join(
            "no rank" if math.isnan(r.rank_last) else f"{r.rank_last:.1f}" for r in members
        )
        lines.append(f"| {product} | {members[0].efolds:.3g} | {ranks} |")
    gone = [f"lr {r.lr:g} with {r.weight_decay:g}" for r in results if math.isnan(r.rank_last)]
    return "\n\n".join([
        '<img src="docs/evidence/landscape.png" width="80%" '
        'alt="Average rank and test accuracy over learning rate and weight decay">',
        "\n".join(lines),
        f"The same network and images at batch size {results[0].batch_size}, {len(results)} runs "
        "of one seed: ranks on a diagonal, where the product of learning rate and weight decay is "
        f"the same.{f' Collapsed: {one_of(gone)}.' if gone else ''}",
    ])  # fmt: skip


def checks(root: Path, *, wide: bool = True) -> str:
    """Compares the paper's constants with ours: at initialisation, and of pure decay.

    Args:
        root: The repository.
        wide: Also the network of width 10,000, which takes minutes.

    Returns:
        The README's section.

    Raises:
        StoppedError: The training fails.
    """
    output = root / "runs" / "evidence" / "pure_decay"
    flags = [f"--{name}={value}" for name, value in {**DECAY, "output_dir": output}.items()]
    program = [sys.executable, str(root / "train.py"), *flags]
    if code := subprocess.run(program, check=False).returncode:
        raise StoppedError(code)
    return checks_section(load_run(output / str(DECAY["run_id"])), wide=wide)


def checks_section(run: Run, *, wide: bool) -> str:
    """Makes what the README says of the paper's constants.

    Args:
        run: Of the network that interpolates.
        wide: As `checks` takes it.

    Returns:
        Markdown.
    """
    initial = list(constants.at_initialisation(wide=wide))
    decay, of_paper = constants.of_pure_decay(run), constants.published_ratios()
    held = [sum(check.holds for check in each) for each in (initial, decay, of_paper)]
    config = run.config
    return "\n\n".join([
        constants.as_markdown(initial, ("at initialisation", "", "published", "ours")),
        f"Means of {constants.DRAWS} draws of PyTorch's default initialisation"
        f"{' (one at width 10,000)' if wide else ''}; {held[0]} of "
        f"{len(initial)} are within the tolerance: averages ± 1, ranks of single layers ± 2.",
        constants.as_markdown(
            [*decay, *of_paper], ("norms over 10 epochs", "", "closed form", "measured"), ".5f"
        ),
        f"The first {len(decay)} are an MLP-BN-{config['depth']}-{config['width']} here that "
        f"interpolates the digits (lr {config['lr']:g}, weight decay {config['weight_decay']:g}, "
        f"B {config['batch_size']}), beside Π(1 − μ·wd); the others are published ratios beside "
        f"exp(−μ·γʲ·wd·steps). {held[1] + held[2]} of {len(decay) + len(of_paper)} are within "
        "2e-4: once a network interpolates and the rate was cut, its norms shrink by weight decay "
        "alone.",
    ])  # fmt: skip


def figure(flags: Sequence[str], root: Path) -> str:
    """Trains the points of a published figure, and compares.

    Args:
        flags: For ``lowrank sweep``.
        root: The repository.

    Returns:
        The README's section.
    """
    place, flags = placed(flags, root)
    name = Path(FIGURE).stem
    runs = swept(root / FIGURE, f"{place}/{name}", flags)
    numbers = as_csv([compare(of_figure(PUBLISHED), runs)], Tolerance())
    (root / "docs" / "evidence" / f"{name}.csv").write_text(numbers, encoding="utf-8")
    return figure_section(runs)


def figure_section(runs: Sequence[Run]) -> str:
    """Makes what the README says of a published figure beside our runs.

    Args:
        runs: Of its sweep.

    Returns:
        Markdown: as many runs as have come to the figure's epoch, and what is missing.
    """
    points, tolerance = of_figure(PUBLISHED), Tolerance()
    ours = compare(points, runs)
    parts = [as_markdown(ours, tolerance), f"{title(ours)}: {summary(ours, tolerance)}."]
    for what, other in (
        ("At ε = 0.001", compare(points, runs, epsilon=1e-3)),
        ("With momentum 0.9", compare(points, runs, {"momentum": 0.9})),
    ):
        means = [row for row in other.rows if row.series == "mean"]
        at = "; ".join(
            f"weight decay {row.point.x:g} {row.mean:.1f} (published {row.published:.1f})"
            for row in means
        )
        if means:
            parts.append(f"{what}, mean rank at {at}.")
    told = [line for line in notes(ours) if not line.startswith("images: ")]  # these are said next
    return "\n\n".join([*parts, *(f"{line[:1].upper()}{line[1:]}." for line in told),
                         describe_machine(runs)])  # fmt: skip


def placed(flags: Sequence[str], root: Path) -> tuple[str, list[str]]:
    """Finds where the runs go.

    Args:
        flags: For ``lowrank sweep``.
        root: The repository.

    Returns:
        That place, and the flags without it but with packs.
    """
    place = [flag.partition("=")[2] for flag in flags if flag.startswith("--output_dir=")]
    others = [flag for flag in flags if not flag.startswith("--output_dir=")]
    packed = [] if any(flag.startswith("--pack") for flag in others) else ["--pack=auto"]
    return place[-1] if place else str(root / "runs" / "evidence"), [*others, *packed]


def mean_and_spread(values: Sequence[float]) -> str:
    """Writes mean ± sample standard deviation with a digit after the point.

    Args:
        values: At least one.

    Returns:
        Both, the latter nan for a single value.
    """
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.1f} ± {spread:.1f}"


def written(page: str, name: str, text: str) -> str:
    """Puts a section between its marks.

    Args:
        page: The README, or another page.
        name: Of the section, as in its first mark; empty for the star.
        text: Markdown.

    Returns:
        The page with it.

    Raises:
        InputError: If it has no such marks.
    """
    mark = f"<!-- written by make evidence{': ' if name else ''}{name} -->"
    block = re.compile(f"({mark}\n).*?(<!-- end -->)", re.DOTALL)
    page, found = block.subn(lambda match: f"{match[1]}{text}\n{match[2]}", page)
    if not found:
        raise InputError(f"the page has no place for the evidence: {mark} … <!-- end -->")
    return page


def main(argv: Sequence[str] | None = None, root: Path = ROOT, *, wide: bool = True) -> int:
    """Makes the evidence anew and rewrites the README's sections.

    Args:
        argv: Flags for ``lowrank sweep``; by default those of the process.
        root: The repository.
        wide: As `checks` takes it.

    Returns:
        The exit code: that of what fails first.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    readme = root / "README.md"
    sections: dict[str, Callable[[], str]] = {
        "": lambda: star(flags, root),
        "landscape": lambda: landscape(flags, root),
        "constants": lambda: checks(root, wide=wide),
        "figure": lambda: figure(flags, root),
    }
    for name, make in sections.items():
        try:
            text = make()
        except StoppedError as stopped:
            return int(stopped.args[0])
        page = written(readme.read_text(encoding="utf-8"), name, text)
        readme.write_text(page, encoding="utf-8")
        print(f"\n{text}\n\nwritten: {readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
