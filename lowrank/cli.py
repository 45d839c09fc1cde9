"""The ``lowrank`` command: one function per subcommand, loaded when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lowrank.errors import InputError, nearest
from lowrank.program import exit_code_of


def data(arguments: Sequence[str]) -> int:
    """Downloads or decodes a data set, so that training finds it ready.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The exit code.

    Raises:
        InputError: If there is no such data set or its files are not to be had.
    """
    from lowrank.config.arguments import parse
    from lowrank.data import prepare

    if not arguments or arguments[0].startswith("-"):
        raise InputError("which data set? for example: lowrank data cifar10 --data_dir=data")
    config = parse([f"--dataset={arguments[0]}", *arguments[1:]])
    print(
        prepare(
            config.dataset,
            data_dir=config.data_dir,
            download=config.download,
            train_size=config.train_size,
            image_size=config.image_size,
        )
    )
    return 0


def spectra(arguments: Sequence[str]) -> int:
    """Measures the weight matrices of checkpoints on disk; two files are compared.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The exit code.
    """
    from lowrank.stored.command import parse, run

    return run(parse(arguments))


class Command(NamedTuple):
    """A subcommand: what it does, and what ``--help`` says of it.

    Attributes:
        run: From the words after its name to the exit code.
        usage: Those words.
        meaning: In one line.
        options: Further lines on its options.
    """

    run: Callable[[Sequence[str]], int]
    usage: str
    meaning: str
    options: str = ""


COMMANDS = {
    "data": Command(
        data,
        "NAME [--data_dir=DIR] [--download=False] [--train_size=N] [--image_size=N]",
        "Downloads or decodes a data set, so that training finds it ready.",
    ),
    "spectra": Command(
        spectra,
        "FILE... [--model=NAME] [--NAME=VALUE ...]",
        "Measures the weight matrices of checkpoints on disk; two files are compared.",
        """
FILE             .pt or .pth, .safetensors, or a run directory
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
        The exit code: 0, 1 on a failure, 2 on bad input.
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
    return command.run(rest)


def help_text() -> str:
    """Returns the text of ``lowrank --help``."""
    lines = ["usage: lowrank COMMAND ...", ""]
    for name, command in COMMANDS.items():
        lines += [f"  lowrank {name} {command.usage}", f"      {command.meaning}"]
    lines += ["", "Training itself is python train.py; see python train.py --help."]
    return "\n".join(lines) + "\n"
