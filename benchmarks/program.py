"""What all benchmark programs have in common: their flags, what they print, how they end."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.timing import Row
from lowrank.common.errors import InputError
from lowrank.common.files import write_atomically
from lowrank.common.program import exit_code_of
from lowrank.common.terminal import aligned, say
from lowrank.runs.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("torch", "torchvision", "numpy", "wandb")


@dataclass(frozen=True)
class Options:
    """How a program measures.

    Attributes:
        quick: Small sizes: only whether it runs, nothing is judged.
        device: ``cpu`` or ``cuda``.
        data_dir: An image folder, for programs that train on images; None makes images up.
        brief: Everything in full size, but twice at most.
    """

    quick: bool
    device: str
    data_dir: str | None
    brief: bool = False

    def repetitions(self, count: int) -> int:
        """Returns how often something is measured: so often, or less if quick or brief."""
        return 1 if self.quick else min(count, 2) if self.brief else count

    @property
    def warmups(self) -> int:
        """How often something runs before it is measured."""
        return 0 if self.quick else 1


def run(
    name: str,
    measure: Callable[[Options], Iterable[Row]],
    *,
    devices: Sequence[str] = ("cpu",),
    argv: Sequence[str] | None = None,
) -> int:
    """Runs one program: reads its flags, measures, prints the rows.

    Args:
        name: Of the program, after ``benchmarks.``.
        measure: Gives the rows. Its module's first line describes the program.
        devices: Those that the program measures.
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 if a target is missed, unless quick; 2 if the device is not there.
    """
    text = sys.modules[measure.__module__].__doc__ or ""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text.partition("\n")[0]
    )
    add_flags(parser)
    parser.add_argument("--rows", type=Path, help="file for the rows as JSON")
    given = parser.parse_args(argv)
    options = Options(given.quick, given.device, given.data_dir, given.brief)

    def work() -> int:
        check_device(options.device, devices)
        if options.quick:
            say("quick: small stand-ins for the sizes named, the numbers mean nothing")
        rows: list[Row] = []
        for row in measure(options):
            rows.append(row)
            if given.rows is not None:  # at once: what is cut off keeps what it has
                write_atomically(given.rows, json.dumps([each.to_json() for each in rows]))
        print(
            f"\n{text_table(rows, judged=not options.quick)}\n\n{describe_place(options.device)}",
            flush=True,
        )
        return 0 if options.quick else int(any(row.met is False for row in rows))

    return exit_code_of(f"benchmarks.{name}", work)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every program has.

    Args:
        parser: Gets them.
    """
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is judged")
    parser.add_argument("--brief", action="store_true", help="everything twice at most")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data_dir", help="folder of images with train/ and test/; default: none")


def check_device(device: str, devices: Sequence[str] = ("cpu", "cuda")) -> None:
    """Makes sure that there is something to measure on a device.

    Args:
        device: Asked for.
        devices: Those that are measured.

    Raises:
        InputError: If it is not measured, or not there.
    """
    if device not in devices:
        raise InputError(f"device={device}: this is measured on {', '.join(devices)} only")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("device=cuda is not there: torch sees no CUDA device")


def quiet_environment() -> dict[str, str]:
    """Returns this process's variables, without settings of W&B and of ours, for another one."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("WANDB_", "LOWRANK_"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    quiet = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    return {**kept, **quiet, "PYTHONPATH": path}


def text_table(rows: Sequence[Row], *, judged: bool = True) -> str:
    """Lays rows out for a terminal.

    Args:
        rows: Of one program.
        judged: Whether the targets are compared.

    Returns:
        A line for each, under a head.
    """
    head = ("what", "baseline", "unit", "ours", "baseline", "ratio", "target", "")
    cells = [
        (
            row.what,
            row.baseline or "–",
            row.unit,
            row.ours.text(),
            "" if row.theirs is None else row.theirs.text(),
            row.shown_ratio(),
            row.demand,
            row.verdict() if judged else "",
        )
        for row in rows
    ]
    return "\n".join(aligned([head, *cells], left=range(len(head))))


def describe_place(device: str) -> str:
    """Says on what, with what and when it is measured.

    Args:
        device: ``cpu`` or ``cuda``.

    Returns:
        Machine, versions and date.
    """
    found = describe_environment(device=device, threads=None, argv=sys.argv)
    versions = found["versions"]
    listed = ", ".join(f"{name} {versions[name]}" for name in VERSIONS)
    return (
        f"{found['device_name']}, {found['cores']} CPU cores, {found['os'].split()[0]}, "
        f"Python {versions['python']}, {listed}, {date.today().isoformat()}"
    )
