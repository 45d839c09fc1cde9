"""``lowrank compress``: a run's network with layers that are products of two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from lowrank.commands import file_to_write
from lowrank.common.terminal import aligned, say
from lowrank.common.texts import printable
from lowrank.config.datasets import DATASETS
from lowrank.config.options import OptionError, Options, option, word

if TYPE_CHECKING:
    from lowrank.training.compression import Compression


class Compress(Options):
    """What ``lowrank compress`` is asked for."""

    run: str = word(
        "RUN", "the directory of a run", "which run? one, for example: lowrank compress runs/ID"
    )
    energy: float | None = option(
        None,
        "each counted matrix keeps the fewest directions that hold this share of ‖W‖²; default: "
        "0.99",
        "E",
        "a number above 0 and at most 1",
        gt=0,
        le=1,
    )
    share: float | None = option(
        None,
        "each keeps this share of its full rank instead",
        "S",
        "a number above 0 and at most 1",
        gt=0,
        le=1,
    )
    output: Path = option(
        Path("model.pt"),
        "the file to write, which must not exist; default {default}",
        "FILE",
        "a file that ends with .pt or .pth",
        short="o",
    )
    data_dir: str | None = option(
        None, "where the data set is here; default: the run's own", "DIR", "a path"
    )
    notes = """\
Layers where two factors have no fewer entries than the matrix stay as they are.
The accuracy is that on the test set. The file is used with
lowrank.load_compressed(FILE).
"""

    @field_validator("output")
    @classmethod
    def _is_new(cls, path: Path) -> Path:
        file_to_write("output", path, ("pt", "pth"))
        if path.exists():
            where = printable(str(path), 200)
            raise OptionError(f"output: '{where}' exists; allowed: a file that does not")
        return path

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        if self.energy is not None and self.share is not None:
            yield "--energy and --share both say what is kept; allowed: one of them"


def run(options: Compress) -> int:
    """Writes the compressed model and says what it costs and saves.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.
    """
    from lowrank.measure.truncation import Kept
    from lowrank.runs.compressed import save_compressed
    from lowrank.runs.find import load_run
    from lowrank.runs.lost import lost
    from lowrank.training.compression import compress
    from lowrank.training.trained import load_trained

    kept = Kept("energy", 0.99 if options.energy is None else options.energy)
    if options.share is not None:
        kept = Kept("share", options.share)
    trained = load_trained(options.run, options.data_dir)
    found = compress(trained.learner, kept)
    save_compressed(
        options.output,
        found.network,
        found.ranks,
        config=trained.learner.config,
        dataset=trained.learner.dataset,
        origin=f"run {trained.path.name}, epoch {trained.epoch}, {kept.kind} {kept.amount:g}",
    )
    gone = lost(load_run(trained.path))
    if gone is not None:
        say(printable(f"note: the run is {gone.how} and has no rank: {gone.text}", None))
    example = DATASETS[trained.learner.config.dataset].example
    say(printable(_table(found, example), None, lines=True))
    say(printable(f"written: {options.output}", None))
    return 0


def _table(found: Compression, example: str) -> str:
    """Returns each layer's rank and entries, and what the network takes and gives."""
    rows = [("layer", "shape", "rank kept", "of", "entries", "kept", "")]
    for layer in found.layers:
        before, after = layer.sizes
        full = min(layer.shape)
        rows.append(
            (
                layer.name,
                "×".join(map(str, layer.shape)),
                str(full if layer.reason else layer.rank),
                str(full),
                f"{before:,}",
                f"{after:,}",
                layer.reason and f"as it was: {layer.reason} at rank {layer.rank}",
            )
        )
    lines = aligned(rows, left=[0, 6])
    was, now = found.before, found.after
    totals = [
        ("", "before", "after", ""),
        (
            "parameters",
            f"{was.parameters:,}",
            f"{now.parameters:,}",
            _part(was.parameters, now.parameters),
        ),
        (f"FLOPs per {example}", f"{was.flops:,}", f"{now.flops:,}", _part(was.flops, now.flops)),
        ("test accuracy", f"{was.accuracy:.2%}", f"{now.accuracy:.2%}", ""),
    ]
    return "\n".join([*lines, "", *aligned(totals, left=[0])])


def _part(before: int, after: int) -> str:
    return f"{after / before:.1%}"
