"""``lowrank spectra``: its flags, and from files to what is printed and drawn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.terminal import counting, say
from lowrank.common.texts import printable
from lowrank.config import Given, combine
from lowrank.config.flags import is_on, read_flags

_VALUES = {
    "key": "where in the file the weights are, such as ema.state_dict",
    "model": "a torchvision model, a bundled one or a configuration",
    "epsilons": "a list such as [1e-3, 1e-2]",
    "rank_norm": "frobenius or spectral",
    "plot": "a file that ends with .png, .pdf or .svg",
}
_SWITCHES = ("json", "csv")


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        files: Files and run directories, at least one.
        key: Where in a file the weights are; None to find them.
        model: Name of the model; None for none.
        epsilons: Thresholds of the rank.
        rank_norm: The norm they refer to.
        form: ``table``, ``json`` or ``csv``.
        plot: Where the figure goes; None for none.
    """

    files: list[str]
    key: str | None
    model: str | None
    epsilons: tuple[float, ...]
    rank_norm: str
    form: str
    plot: Path | None


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line of ``lowrank spectra``.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The options.

    Raises:
        InputError: With a line for each thing that is wrong.

    Example:
        >>> options = parse(["model.pt", "--epsilons=1e-4", "--json"])
        >>> options.files, options.epsilons, options.form
        (['model.pt'], (0.0001,), 'json')
    """
    lines: list[str] = []
    files, given = read_flags(arguments, _VALUES, _SWITCHES, lines)
    if not files:
        lines.append("which file? for example: lowrank spectra model.pt --model=resnet50")
    forms = [name for name in _SWITCHES if is_on(name, given, lines)]
    if len(forms) > 1:
        lines.append("--json and --csv both go to the standard output; allowed: one of them")
    plot = Path(given["plot"]) if "plot" in given else None
    if plot and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        lines.append(f"plot: got '{printable(str(plot), 200)}'; allowed: {_VALUES['plot']}")
    elif plot and not plot.parent.is_dir():
        lines.append(f"plot: there is no directory '{printable(str(plot.parent), 200)}'")
    measured = ("epsilons", "rank_norm")
    config = combine([{n: Given(given[n], f"--{n}") for n in measured if n in given}], lines)
    form = forms[0] if forms else "table"
    return Options(
        files, given.get("key"), given.get("model"), config.epsilons, config.rank_norm, form, plot
    )


def run(options: Options) -> int:
    """Measures the files and prints the result.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: A file or the model cannot be used, or the figure cannot be written.
    """
    from lowrank.views.spectra.quantities import measure, to_csv, to_json
    from lowrank.views.spectra.shards import together
    from lowrank.views.spectra.table import comparison, remarks, table
    from lowrank.views.spectra.weights import read_weights

    # All are opened before the first is measured: a mistake is answered at once.
    files = [
        read_weights(paths, model=options.model, key=options.key)
        for paths in together(options.files)
    ]
    total, done = sum(len(weights.matrices) for weights in files), 0

    def measured_more(matrices: int) -> None:
        nonlocal done
        done += matrices
        progress(done, total)

    with counting("matrices") as progress:
        measured = [
            measure(
                weights,
                epsilons=options.epsilons,
                rank_norm=options.rank_norm,
                progress=measured_more,
            )
            for weights in files
        ]
    if options.form == "json":
        print(to_json(measured))
    elif options.form == "csv":
        print(to_csv(measured))
        for each in measured:
            for line in filter(None, [each.weights.origin, *remarks(each)]):
                say(printable(f"{each.weights.path}: {line}", None), sys.stderr)
    elif len(measured) == 2:
        say(comparison(*measured))
    else:
        say("\n\n".join(table(each) for each in measured))
    if options.plot:
        from lowrank.views.spectra.figure import spectra_figure

        figure = spectra_figure(measured)
        try:
            figure.savefig(options.plot, dpi=150)
        except OSError as error:
            raise InputError(
                f"plot: cannot write {printable(str(options.plot), 200)} ({error.strerror})"
            ) from error
        if options.form == "table":
            say(f"drawn in {options.plot}")
    return 0
