"""``lowrank spectra``: what is measured of checkpoints on disk, printed and drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import field_validator

from lowrank.commands import file_to_write
from lowrank.common.files import writing
from lowrank.common.quantities import FURTHER
from lowrank.common.terminal import counting, say
from lowrank.common.texts import printable
from lowrank.config import Config
from lowrank.config.options import Options, option, word
from lowrank.views import FORMATS


class Spectra(Options):
    """What ``lowrank spectra`` is asked for."""

    files: tuple[str, ...] = word(
        "FILE",
        ".pt or .pth, .safetensors, .npz, a run directory, or the shards of one model: their index "
        "(.index.json) or their directory",
        "which file? for example: lowrank spectra model.pt --model=resnet50",
    )
    key: str | None = option(
        None,
        "which of several state dicts of a file, such as ema.state_dict; default: the one nested "
        "least, which is said",
        "PATH",
        "where in the file the weights are, such as ema.state_dict",
    )
    model: str | None = option(
        None,
        "what the tensors are: a torchvision model such as resnet50, a bundled one, or its "
        "configuration '{model: mlp, depth: 3}';\na run directory says it itself; default: rows "
        "are each\ntensor's first dimension",
        "NAME",
        "a torchvision model, a bundled one or a configuration",
    )
    epsilons: tuple[float, ...] = option(
        Config.model_fields["epsilons"].default,
        "thresholds of the rank; default [1e-3, 1e-2]",
        "LIST",
        "a list such as [1e-3, 1e-2]",
        of_config=True,
    )
    rank_norm: str = option(
        Config.model_fields["rank_norm"].default,
        "{default} (default) or spectral",
        "NORM",
        "frobenius or spectral",
        of_config=True,
    )
    quantities: tuple[str, ...] = option(
        (),
        f"further quantities to show: {', '.join(FURTHER)}; --json and --csv have all",
        "LIST",
        "a list such as [nuclear_rank, srank]",
        of_config=True,
    )
    as_json: bool = option(False, alias="json")
    csv: bool = option(False, "all quantities instead of a table; --json also the spectra")
    plot: Path | None = option(
        None,
        "draws the spectra as .png, .pdf or .svg",
        "FILE",
        "a file that ends with .png, .pdf or .svg",
    )

    truncate: bool = option(
        False,
        "also the test accuracy of each network with its counted matrices at lower ranks; of run "
        "directories only",
    )
    data_dir: str | None = option(
        None, "where their data set is here; default: the run's own", "DIR", "a path"
    )

    @field_validator("plot")
    @classmethod
    def _is_picture(cls, path: Path) -> Path:
        return file_to_write("plot", path, FORMATS)

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        if self.csv and self.as_json:
            yield "--json and --csv both go to the standard output; allowed: one of them"
        if self.truncate and self.csv:
            yield "--truncate is of networks and --csv of matrices; allowed: --json"
        if self.data_dir is not None and not self.truncate:
            yield "data_dir is for --truncate; allowed: both"


def run(options: Spectra) -> int:
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
    from lowrank.views.spectra.table import comparison, remarks, table, truncation
    from lowrank.views.spectra.weights import read_weights

    if options.truncate:
        from lowrank.training.trained import load_trained
        from lowrank.training.truncation import truncation_metrics

    # All are opened before the first is measured: a mistake is answered at once.
    trained = [load_trained(file, options.data_dir) for file in options.files if options.truncate]
    files = [
        read_weights(paths, model=options.model, key=options.key)
        for paths in together(options.files)
    ]
    total, done = sum(len(weights.matrices) for weights in files), 0

    def measured_more(matrices: int) -> None:
        nonlocal done
        done += matrices
        progress(done, total)

    everything = options.as_json or options.csv
    with counting("matrices") as progress:
        measured = [
            measure(
                weights,
                epsilons=options.epsilons,
                rank_norm=options.rank_norm,
                further=FURTHER if everything else options.quantities,
                progress=measured_more,
            )
            for weights in files
        ]
    truncated = [truncation_metrics(each.learner)[0] for each in trained]
    if options.as_json:
        print(to_json(measured, truncated))
    elif options.csv:
        print(to_csv(measured), end="")
        for each in measured:
            for line in filter(None, [each.weights.origin, *remarks(each)]):
                say(printable(f"{each.weights.path}: {line}", None), sys.stderr)
    elif len(measured) == 2:
        say(comparison(*measured))
    else:
        say("\n\n".join(table(each) for each in measured))
    if not options.as_json:
        for of_run, metrics in zip(trained, truncated, strict=True):
            where = f"{printable(str(of_run.path), None)}, epoch {of_run.epoch}"
            say(f"\n{where}: {truncation(metrics)}")
    if options.plot:
        from lowrank.views.spectra.figure import spectra_figure

        figure = spectra_figure(measured)
        with writing("plot", options.plot):
            figure.savefig(options.plot, dpi=150)
        if not options.as_json and not options.csv:
            say(f"drawn in {options.plot}")
    return 0
