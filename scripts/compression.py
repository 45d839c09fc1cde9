"""Writes what a low rank is good for into the README: two networks on the digits, compressed.

    python scripts/compression.py    # after scripts/evidence.py; make evidence runs both

The same network, data and seed is trained with and without weight decay; then every layer of either
is written as a product of two, of ever lower rank, and tested.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence import write_csv, written
from matplotlib.figure import Figure

from lowrank.measure.truncation import Kept
from lowrank.training.compression import compress
from lowrank.training.trained import load_trained

ROOT = Path(__file__).resolve().parent.parent
SETTING = {
    "dataset": "digits", "model": "mlp", "depth": 5, "width": 100, "batch_size": 8, "lr": 0.2,
    "epochs": 60, "milestones": "[40,50]", "tracking": "disabled",
}  # fmt: skip
WEIGHT_DECAYS = (0.02, 0.0)
ENERGIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 1.0)
TOLD = (0.9, 0.99, 1.0)
"""Those of the table."""
LOSS = 0.01
"""Accuracy that may be lost."""
COLOURS = ("#D55E00", "#0072B2")


@dataclass(frozen=True)
class Result:
    """One network at one rank.

    Attributes:
        weight_decay: It was trained with.
        energy: Share of ‖W‖² that each counted matrix keeps; 1 is the network as it was.
        parameters: Of the factored network.
        flops: For one image.
        accuracy: On the test set, 0..1.
    """

    weight_decay: float
    energy: float
    parameters: int
    flops: int
    accuracy: float


def results_of(directory: Path, weight_decay: float) -> list[Result]:
    """Compresses a run's network to every rank.

    Args:
        directory: Of the run.
        weight_decay: It was trained with.

    Returns:
        A result for each of `ENERGIES`.
    """
    learner = load_trained(str(directory)).learner
    found = []
    for energy in ENERGIES:
        cost = compress(learner, Kept("energy", energy)).after
        found.append(Result(weight_decay, energy, cost.parameters, cost.flops, cost.accuracy))
    return found


def smallest(results: Sequence[Result]) -> Result:
    """Chooses the fewest parameters with which a network is as accurate as it was, but for `LOSS`.

    Args:
        results: Of one network.

    Returns:
        The smallest from which on no larger one is worse.
    """
    by_size = sorted(results, key=lambda each: each.parameters, reverse=True)
    enough = by_size[0]
    for each in by_size:
        if each.accuracy < by_size[0].accuracy - LOSS:
            break
        enough = each
    return enough


def section(results: Sequence[Result]) -> str:
    """Makes what the README says.

    Args:
        results: Of both networks.

    Returns:
        Markdown.
    """
    lines = [
        "| weight decay | energy kept | parameters | % | FLOPs per image | test accuracy % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    most = max(each.parameters for each in results)
    least = []
    for decay in WEIGHT_DECAYS:
        own = [each for each in results if each.weight_decay == decay]
        for each in sorted((r for r in own if r.energy in TOLD), key=lambda r: -r.energy):
            energy = "as trained" if each.energy == 1 else f"{each.energy:g}"
            lines.append(
                f"| {decay:g} | {energy} | {each.parameters:,} | "
                f"{100 * each.parameters / most:.0f} | {each.flops:,} | {100 * each.accuracy:.1f} |"
            )
        least.append(f"{smallest(own).parameters:,}")
    return "\n\n".join([
        '<img src="docs/evidence/compression.png" width="60%" '
        'alt="Test accuracy over parameters left, with and without weight decay">',
        "\n".join(lines),
        "One network on the digits, trained with and without weight decay, and each hidden layer "
        "then written as a product of two (`lowrank compress --energy=…`), without training it "
        "again. Chosen by what is kept of ‖W‖², as one would without a test set, far fewer "
        "parameters are left of the decayed network. Chosen by the test accuracy itself, at most "
        f"{100 * LOSS:g} point below that of the whole network, the two hardly differ: {least[0]} "
        f"with decay, {least[1]} without: what weight decay takes away was of little use before. "
        f"MLP-BN-5-100, lr 0.2, batch size 8, {SETTING['epochs']} epochs, one seed.",
    ])  # fmt: skip


def picture(results: Sequence[Result]) -> Figure:
    """Draws accuracy over parameters.

    Args:
        results: Of both networks.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for decay, colour in zip(WEIGHT_DECAYS, COLOURS, strict=True):
        own = sorted(
            (each for each in results if each.weight_decay == decay), key=lambda r: r.parameters
        )
        sizes, accuracies = [r.parameters for r in own], [100 * r.accuracy for r in own]
        axes.plot(sizes, accuracies, "o-", color=colour, markersize=3.5, label=f"{decay:g}")
        (at,) = (r for r in own if r.energy == TOLD[0])
        place = (at.parameters, 100 * at.accuracy)
        axes.plot(*place, "o", color=colour, markersize=9, fillstyle="none")
    axes.set_xlabel("parameters of the factored network")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("test accuracy in %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
    axes.legend(title=f"weight decay (ring: energy {TOLD[0]:g} kept)", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(root: Path = ROOT) -> int:
    """Trains, compresses, draws and writes.

    Args:
        root: The repository.

    Returns:
        The exit code: that of a training that fails, else 0.
    """
    output, docs = root / "runs" / "evidence", root / "docs" / "evidence"
    results = []
    for decay in WEIGHT_DECAYS:
        run_id = f"compression-{'decay' if decay else 'no-decay'}"
        own = {"weight_decay": decay, "output_dir": output, "run_id": run_id}
        flags = [f"--{name}={value}" for name, value in {**SETTING, **own}.items()]
        program = [sys.executable, str(root / "train.py"), *flags]
        if code := subprocess.run(program, check=False).returncode:
            return code
        results += results_of(output / run_id, decay)
    write_csv(docs / "compression.csv", results)
    picture(results).savefig(docs / "compression.png", dpi=150)
    readme = root / "README.md"
    page = written(readme.read_text(encoding="utf-8"), "compression", section(results))
    readme.write_text(page, encoding="utf-8")
    print(f"written: {readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
