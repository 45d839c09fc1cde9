"""Trains a network and records the singular values of its weight matrices every epoch.

    python train.py                                            # ranks fall, in less than a minute
    python train.py --epochs=2 --width=20 --tracking=disabled  # a few seconds on any CPU
    python train.py --lr=0.1 -- --lr=0.2                       # two runs as one computation
    python train.py --model=resnet18 --dataset=cifar10 --lr=0.5 --batch_size=8 --epochs=500

``python train.py --help`` lists every setting. This is the program that ``wandb agent`` runs;
``main`` is what tests call.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.common.program import command_line, exit_code_of
from lowrank.common.terminal import say
from lowrank.config.arguments import parse
from lowrank.config.settings import with_role
from lowrank.training.requests import Request, split

if TYPE_CHECKING:
    from lowrank.training.member import Member

CHECKOUT = Path(__file__).resolve().parent

FIRST = ("--lr=0.2", "--batch_size=8", "--weight_decay=0.02", "--milestones=19")
"""What is trained where nothing is asked for: in less than a minute ranks fall. The defaults, with
which hardly one does so soon, are for networks and images that take hours."""


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what the command line asks for: one run, or several as one computation.

    One training at a time in a process, as torch's generators and switches are the process's.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code, of several runs the largest: 0 finished or stopped by rule, 1 failure, 2 bad
        input, 75, 130 and 143 by signal.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return exit_code_of("train.py", lambda: _first() if _is_first(arguments) else _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    return max(train(_requested(arguments)))


def _is_first(arguments: Sequence[str]) -> bool:
    """Returns whether nothing says what to train: neither words, nor variables, nor a sweep."""
    settings = {f"LOWRANK_{name.upper()}" for name in with_role("science")}
    variables = {name for name, value in os.environ.items() if value}
    return not arguments and variables.isdisjoint({*settings, "WANDB_SWEEP_ID"})


def _first() -> int:
    """Trains what shows the effect, and says what to try next.

    Returns:
        The exit code.
    """
    say(f"no settings are given: training with {' '.join(FIRST)}")
    code = _run(FIRST)
    if code == 0:
        others = [word for word in FIRST if not word.startswith("--weight_decay")]
        words = " ".join([command_line(__file__), *others, "--weight_decay=0"])
        say(f"next, without weight decay no rank falls: {words}")
        runs = shlex.quote(parse(FIRST).output_dir)
        sweep = os.path.relpath(CHECKOUT / "sweeps/smoke_digits.yaml")
        say(f"then both in one page: lowrank report {runs} -o report.html")
        say(f"and a sweep: {shlex.join(['lowrank', 'sweep', sweep])}")
    return code


def _requested(arguments: Sequence[str]) -> list[Request]:
    notes: list[str] = []
    members = [
        Request(parse(words, notes=notes), ["train.py", *words]) for words in split(arguments)
    ]
    for note in dict.fromkeys(notes):
        say(note)
    return members


def train(requests: Sequence[Request]) -> list[int]:
    """Trains a network, or several as one computation, or goes on with what was interrupted.

    Args:
        requests: The runs. Several are a pack: they may differ in the numbers of training only.
            One that cannot even begin is told of in a line, and the others go on without it.

    Returns:
        The exit code of each.

    Raises:
        InputError: If data, machine or the only run show that the configuration cannot work.
        Failure: If W&B, memory or disk fail.
        KeyboardInterrupt: If a signal came before or after the training itself.
    """
    # Loaded only now: a mistake on the command line is answered before torch and W&B are here.
    from lowrank.common.errors import out_of_memory
    from lowrank.common.signals import Interruption
    from lowrank.config.packs import check_pack
    from lowrank.data import load_dataset
    from lowrank.runs.environment import describe_environment, git_refusal
    from lowrank.training import steps
    from lowrank.training.learner import Learner
    from lowrank.training.members import Members
    from lowrank.training.memory import remedy
    from lowrank.training.pack import build
    from lowrank.training.trainer import Trainer

    check_pack([request.config for request in requests])
    with Interruption() as interruption, Members(requests, say) as members:
        left = members.living
        if not left:
            return members.exit_codes()
        config = left[0].config
        device = steps.configure_torch(config)
        environment = describe_environment(device=device, threads=config.threads, argv=[])
        if environment["commit"] is None and (refusal := git_refusal(CHECKOUT)):
            say(
                f"the record will name no commit, as git refuses: {refusal}; "
                "WANDB_GIT_COMMIT=COMMIT says it"
            )
        members.begin(device, environment)
        if not members.living:
            return members.exit_codes()
        dataset = load_dataset(**config.data_request, device=device)
        configs = [member.config for member in members.slots]
        with out_of_memory(remedy(config, len(configs))):
            pack = build(configs, dataset.image_shape, dataset.num_classes, device)
            learner = Learner(configs, dataset, pack)
            steps.check_last_batch(pack.networks[0], dataset, config.batch_size)
            if config.compile:
                started = time.perf_counter()
                say("compiling the training step; later runs find what this one compiled")
                learner.compile()
                say(f"compiled in {time.perf_counter() - started:.0f} s")
            members.watch(pack, dataset)
        if not (left := members.living):
            return members.exit_codes()
        trainer = Trainer(learner, members, interruption)
        trainer.train()
        if any(member.exit_code == 0 for member in left):
            say(f"\n{trainer.table()}")
        _conclude(left, members.slots)
        return members.exit_codes()


def _conclude(members: Sequence[Member], slots: Sequence[Member]) -> None:
    """Says how runs ended and what to do next.

    Args:
        members: Those that trained.
        slots: All of the pack, with those that had ended before.
    """
    for member in members:
        if member.exit_code == 0:
            member.say_lost()
    for state in dict.fromkeys(member.state for member in members):
        those = [member for member in members if member.state == state]
        names = f"run{'s' if len(those) > 1 else ''} {' '.join(m.run_id for m in those)}"
        say(f"{names} {state}: {' '.join(shlex.quote(str(m.directory.path)) for m in those)}")
    if ended := [member for member in members if member.exit_code == 0]:
        paths = [_short(member) for member in ended]
        say(f"see {_it(paths)} with: {shlex.join(['lowrank', 'report', *paths])} -o report.html")
    if any(member.state == "stopped" for member in members):
        # One that has ended is named as well: the others' bits are those of the whole pack.
        each = " -- ".join(_words(member) for member in slots)
        say(f"go on with: {command_line(__file__)} {each}")
    paths = [_short(member) for member in members if member.tracker.sync_command]
    if paths:
        command = shlex.join(["lowrank", "sync", *paths])
        say(f"upload {_it(paths)} with: {command}")


def _short(member: Member) -> str:
    """Returns a run's directory as one would type it here."""
    path = str(member.directory.path)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _it(named: Sequence[str]) -> str:
    return "it" if len(named) == 1 else "them"


def _words(member: Member) -> str:
    """Returns the arguments with which a run goes on."""
    directory = member.directory
    stored = shlex.quote(str(directory.path / "config.yaml"))
    output_dir = shlex.quote(directory.config.output_dir)
    return f"--config {stored} --run_id={directory.run_id} --output_dir={output_dir}"


if __name__ == "__main__":
    sys.exit(main())
