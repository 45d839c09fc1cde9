"""What one run is asked to be: alone, or as a member of a pack."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lowrank.common.errors import InputError

if TYPE_CHECKING:
    from lowrank.config import Config

SEPARATOR = "--"
"""Stands between the arguments of two members of a pack on one command line."""


@dataclass(frozen=True)
class Request:
    """One run asked for.

    Attributes:
        config: The configuration asked for.
        command: The program and the arguments of this run, for its record.
        variables: W&B's variables (``WANDB_…``) that decide its identity there; by default those
            of the process.
        signal: Called after every step: the number of the signal that asks this run to end while
            others of its pack go on, or None.
        ended: Called with its exit code when the run has ended, which may be before the others do.
    """

    config: Config
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    signal: Callable[[], int | None] = lambda: None
    ended: Callable[[int], None] = lambda _: None


def split(arguments: Sequence[str]) -> list[list[str]]:
    """Returns the arguments of each member of a pack.

    Args:
        arguments: Of the command line; ``--`` begins another member.

    Returns:
        A list for each.

    Raises:
        InputError: If ``--`` has nothing before or after it.

    Example:
        >>> split(["--lr=0.1", "--", "--lr=0.2"])
        [['--lr=0.1'], ['--lr=0.2']]
    """
    members: list[list[str]] = [[]]
    for word in arguments:
        if word == SEPARATOR:
            members.append([])
        else:
            members[-1].append(word)
    if len(members) > 1 and not all(members):
        raise InputError(
            f"{SEPARATOR}: got nothing {'before' if not members[0] else 'after'} it; allowed: the "
            "arguments of another run, such as --seed=1"
        )
    return members
