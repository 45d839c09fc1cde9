"""The ``lowrank`` command: a table of subcommands, each loaded when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lowrank.common.errors import InputError
from lowrank.common.program import exit_code_of
from lowrank.common.texts import nearest


class Command(NamedTuple):
    """What ``--help`` says of a subcommand.

    Attributes:
        usage: The words after its name.
        meaning: In one line.
        options: Further lines on its options.
    """

    usage: str
    meaning: str
    options: str = ""


COMMANDS = {
    "data": Command(
        "NAME [--data_dir=DIR] [--download=False] [--train_size=N] [--image_size=N]",
        "Downloads or decodes a data set, so that training finds it ready.",
    ),
    "sweep": Command(
        "FILE [--NAME=VALUE ...]",
        "Runs a W&B sweep file without a server; started again, what is missing.",
        """
--NAME=VALUE      a field of the configuration, at every point
--gpus=LIST       auto (default), all, none, or numbers such as 0,1
--per_gpu=N       runs at once on each GPU, or on the CPU; default 1
--dry_run         lists the points and their commands
--storage=URL     where the points are kept; default a SQLite file in output_dir;
                  machines share a sweep through postgresql:// or mysql://
--count=N         the most points, in place of the file's run_cap
--search_seed=N   makes random and Bayesian search repeatable
--max_retries=N   how often a failed point is run again; default 2
--heartbeat=SEC   signs of life of a launcher; three missed: it is dead; default 20

Exit codes: 0 every point is done, 1 some failed too often (they are listed),
2 bad input, 130 and 143 by signal: running points stop at a checkpoint.
""",
    ),
    "agent": Command(
        "ENTITY/PROJECT/SWEEP [--NAME=VALUE ...]",
        "Runs W&B agents for a sweep, one on every GPU, after checking the machine.",
        """
--gpus=GPUS        auto (default): all, or the CPU where there is none; all;
                   none: the CPU; or numbers as nvidia-smi has them, such as 0,1
--per_gpu=K        agents on each GPU; on the CPU agents in all, among which
                   the cores are divided; default 1
--count=N          points to take in all, not by each agent; default: until the
                   sweep is exhausted
--output_dir=DIR   where runs go, and logs to DIR/agents/SWEEP; default runs
--max_failures=N   failures in a row that stop an agent; default 3
--stagger=SECONDS  between the starts of two agents; default 5

Ctrl-C, SIGTERM and SIGUSR1 let trainings checkpoint and end; a second signal
kills them. Exit codes: 0 the sweep is exhausted or the count reached, 1 an
agent was stopped, 2 the check failed, 75 SIGUSR1, 130 and 143 by signal.
""",
    ),
    "runs": Command(
        "PATH... [--csv] [--json]",
        "Lists runs: what varies, how far they came, first and last rank, accuracy.",
        """
PATH             a run directory, a directory of runs or a record.sqlite
--csv, --json    the same for programs, with every setting that varies
""",
    ),
    "figures": Command(
        "PATH... [--kind=KIND] [--NAME=VALUE ...]",
        "Draws ranks over epochs and rank landscapes from run records.",
        """
PATH             a run directory, a directory of runs or a record.sqlite
--kind=KIND      curves: average rank over epochs by the value of a setting,
                 with train and test accuracies below; landscape: average rank
                 over two settings; all (default)
--by=NAME        the setting that curves stand for; default: a figure for each
                 setting that varies
--columns=NAME   the setting that panels stand for
--x=NAME, --y=NAME
                 the settings of a landscape; default: each pair of a grid
--contours       landscapes as contours instead of a heat map
--epoch=N        the epoch of landscapes; default: the last one
--where=MAPPING  only runs with these values: '{batch_size: 16, lr: [0.1, 0.2]}'
--epsilon=E      threshold of the rank, any; default: the recorded one
--rank_norm=NORM frobenius or spectral; default: the recorded one
--sweep=FILE     the sweep file: says which of its points have no run
--output=PLACE   directory (default figures) or, for one figure, its file
--format=LIST    pdf, png, svg; default pdf,png
--width=INCHES, --height=INCHES
                 default: one column of a page (3.35) or both (7)
--dpi=N          dots per inch; default 300
--csv            writes the numbers beside the figures

Runs that differ only in their seeds are drawn as mean and standard deviation.
A run that collapsed, died or is not finished is never part of a mean; it is
named below, as is every point that is missing.
""",
    ),
    "report": Command(
        "PATH... [-o report.html] [--runs=ID,ID] [--open]",
        "Turns run records into one HTML file that works offline.",
        """
PATH             a run directory, a directory of runs or a record.sqlite
-o, --output     the file to write; default report.html
--runs=ID,ID     up to 20 runs that are shown layer by layer, with spectra;
                 default: all, or of more than 20 those spread evenly from the
                 lowest to the highest rank
--open           opens the file in a browser
""",
    ),
    "rerun": Command(
        "RUN [--check] [--docker] [--NAME=VALUE ...]",
        "Runs a recorded run again, as a new run, and compares the two.",
        """
RUN              a run directory, a record.sqlite or a W&B run path
                 (ENTITY/PROJECT/ID)
--check          compares every epoch's metrics and spectra with the original's
--docker         runs it in a container of the image that the record names;
                 --docker=IMAGE: of another one
--NAME=VALUE     a field of the configuration: where and how the run is stored
                 and tracked; with --check also device, threads and epochs, and
                 without it any

The rerun has the recorded configuration, seed and thread count. It goes beside
the original, or for a record from elsewhere into output_dir; data_dir is the
recorded one where it exists. Exit codes: 0 finished and, with --check, bitwise
identical; 1 a failure or a difference; 2 bad input; 130 and 143 by signal.
""",
    ),
    "sync": Command(
        "PATH...",
        "Uploads runs to W&B from their records, whatever W&B has of them already.",
        """
PATH             a run directory, or a directory of runs

What W&B has is not sent again. Exit codes: 0 W&B has all of every run, 1 not
of every one (they are listed), 2 bad input, 130 and 143 by signal.
""",
    ),
    "dashboard": Command(
        "ENTITY/PROJECT [--sweep=ID] [--NAME=VALUE ...]",
        "Builds or updates a W&B workspace for the ranks of a project or a sweep.",
        """
--sweep=ID     shows one sweep only: the id of a W&B sweep, or the name of a
               sweep run without a server; a sweep file (.yaml) stands for its
               name, and says what is swept
--by=LIST      the fields to show ranks by, such as lr,weight_decay; default:
               those that the sweep, or the project's runs, vary
--name=TEXT    what the workspace is called
--dump[=FILE]  writes the specification, needing no server and no account

The workspace is built anew at each call: what was changed in it by hand is
replaced. Save a copy in W&B to keep such changes.
""",
    ),
    "spectra": Command(
        "FILE... [--model=NAME] [--NAME=VALUE ...]",
        "Measures the weight matrices of checkpoints on disk; two files are compared.",
        """
FILE             .pt or .pth, .safetensors, .npz, a run directory, or the shards
                 of one model: their index (.index.json) or their directory
--key=PATH       which of several state dicts of a file, such as
                 ema.state_dict; default: the one nested least, which is said
--model=NAME     what the tensors are: a torchvision model such as resnet50, a
                 bundled one, or its configuration '{model: mlp, depth: 3}';
                 a run directory says it itself; default: rows are each
                 tensor's first dimension
--epsilons=LIST  thresholds of the rank; default [1e-3, 1e-2]
--rank_norm=NORM frobenius (default) or spectral
--json, --csv    all quantities instead of a table; --json also the spectra
--plot=FILE      draws the spectra as .png, .pdf or .svg
""",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0, 1 on a failure, 2 on bad input, others as the subcommand's help says.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return exit_code_of("lowrank", lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    """Runs one subcommand, or prints a help text.

    Returns:
        The exit code.

    Raises:
        InputError: If there is no such subcommand.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text(), end="")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{nearest(name, COMMANDS)}; see lowrank --help")
    command = COMMANDS[name]
    if "-h" in rest or "--help" in rest:
        print(f"usage: lowrank {name} {command.usage}\n\n{command.meaning}\n{command.options}")
        return 0
    module = importlib.import_module(f"lowrank.commands.{name}")
    code: int = module.run(module.parse(rest))
    return code


def help_text() -> str:
    """Returns the text of ``lowrank --help``."""
    lines = ["usage: lowrank COMMAND ...", ""]
    for name, command in COMMANDS.items():
        lines += [f"  lowrank {name} {command.usage}", f"      {command.meaning}"]
    lines += ["", "Training itself is python train.py; see python train.py --help."]
    return "\n".join(lines) + "\n"
