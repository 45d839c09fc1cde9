"""What ``docker run IMAGE COMMAND …`` runs: trainings and the project's commands, by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lowrank.cli import COMMANDS
from lowrank.common.errors import InputError
from lowrank.common.program import exit_code_of
from lowrank.common.texts import nearest, one_of

TRAIN_PY = Path(__file__).resolve().parent.parent / "train.py"
OTHERS = {
    "train": "python train.py: trains a network; train --help lists every setting",
    "wandb": "W&B's own command, such as wandb sweep and wandb sync",
    "python": "Python with everything installed, for programs of your own",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Becomes the program that a command names.

    Args:
        argv: The command and its arguments; by default those of the process.

    Returns:
        0 after the help text, 2 for an unknown command; otherwise there is no return.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return exit_code_of("lowrank image", lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in ("-h", "--help"):
        words = program(arguments)
        os.execv(words[0], words)
    print(help_text(), end="")
    return 0


def program(arguments: Sequence[str]) -> list[str]:
    """Finds what a command stands for.

    Args:
        arguments: The command and its arguments.

    Returns:
        A program's path and its arguments.

    Raises:
        InputError: If there is no such command.
    """
    name, *rest = arguments
    if name == "python":
        return [sys.executable, *rest]
    if name == "train":
        return [sys.executable, str(TRAIN_PY), *rest]
    scripts = Path(sys.executable).parent
    if name == "wandb":
        return [str(scripts / "wandb"), *rest]
    if name in COMMANDS:
        return [str(scripts / "lowrank"), *arguments]
    names = [*OTHERS, *COMMANDS]
    raise InputError(f"unknown command {name!r}{nearest(name, names)}; allowed are {one_of(names)}")


def help_text() -> str:
    """Returns what the image says where it is run without a command."""
    lines = ["usage: docker run [OPTIONS] IMAGE COMMAND ...", ""]
    meanings = OTHERS | {name: command.meaning for name, command in COMMANDS.items()}
    lines += [f"  {name:<10} {meaning}" for name, meaning in meanings.items()]
    lines += ["", "COMMAND --help says more on each."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
