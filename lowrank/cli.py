"""The ``lowrank`` command: a table of subcommands, each loaded when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lowrank.common.errors import InputError
from lowrank.common.program import exit_code_of
from lowrank.common.texts import nearest

if TYPE_CHECKING:
    from lowrank.config.options import Options


class Command(NamedTuple):
    """What ``lowrank --help`` says of a subcommand.

    Attributes:
        usage: The words after its name.
        meaning: In one line.
    """

    usage: str
    meaning: str


COMMANDS = {
    "data": Command(
        "NAME [--data_dir=DIR] [--download=False] [--train_size=N] [--image_size=N]",
        "Downloads or decodes a data set, so that training finds it ready.",
    ),
    "sweep": Command(
        "FILE [--NAME=VALUE ...]",
        "Runs a W&B sweep file without a server; started again, what is missing.",
    ),
    "agent": Command(
        "ENTITY/PROJECT/SWEEP [--NAME=VALUE ...]",
        "Runs W&B agents for a sweep, one on every GPU, after checking the machine.",
    ),
    "runs": Command(
        "PATH... [--sweep=SWEEP] [--csv] [--json]",
        "Lists runs: what varies, how far they came, first and last rank, accuracy.",
    ),
    "figures": Command(
        "PATH... [--kind=KIND] [--NAME=VALUE ...]",
        "Draws ranks over epochs and rank landscapes from run records.",
    ),
    "report": Command(
        "PATH... [-o report.html] [--sweep=SWEEP] [--runs=ID,ID] [--follow] [--open]",
        "Turns run records into one HTML file that works offline.",
    ),
    "published": Command(
        "[FIGURE] [PATH...] [--NAME=VALUE ...]",
        "Puts the paper's published numbers beside those of runs.",
    ),
    "rerun": Command(
        "RUN [--check] [--docker] [--NAME=VALUE ...]",
        "Runs a recorded run again, as a new run, and compares the two.",
    ),
    "sync": Command(
        "PATH...",
        "Uploads runs to W&B from their records, whatever W&B has of them already.",
    ),
    "dashboard": Command(
        "ENTITY/PROJECT [--sweep=ID] [--NAME=VALUE ...]",
        "Builds or updates a W&B workspace for the ranks of a project or a sweep.",
    ),
    "spectra": Command(
        "FILE... [--model=NAME] [--NAME=VALUE ...]",
        "Measures the weight matrices of checkpoints on disk; two files are compared.",
    ),
    "compress": Command(
        "RUN [--energy=E] [--share=S] [-o model.pt] [--data_dir=DIR]",
        "Writes a run's network with layers of low rank as products of two.",
    ),
}
"""Each is a file of that name in commands/, with a model of its options and a ``run`` for them."""


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
    options = options_of(name)
    if "-h" in rest or "--help" in rest:
        command, more = COMMANDS[name], options.help()
        print(f"usage: lowrank {name} {command.usage}\n\n{command.meaning}\n")
        print(f"{more}\n" if more else "", end="")
        return 0
    code: int = _module(name).run(options.read(rest))
    return code


def options_of(name: str) -> type[Options]:
    """Returns the model of a subcommand's options.

    Args:
        name: The subcommand.
    """
    found: type[Options] = getattr(_module(name), name.capitalize())
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"lowrank.commands.{name}")


def help_text() -> str:
    """Returns the text of ``lowrank --help``."""
    lines = ["usage: lowrank COMMAND ...", ""]
    for name, command in COMMANDS.items():
        lines += [f"  lowrank {name} {command.usage}", f"      {command.meaning}"]
    lines += ["", "Training itself is python train.py; see python train.py --help."]
    return "\n".join(lines) + "\n"
