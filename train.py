"""Trains a network and records the singular values of its weight matrices every epoch.

    python train.py                                            # an MLP on the digits
    python train.py --epochs=2 --width=20 --tracking=disabled  # a few seconds on any CPU
    python train.py --lr=0.1 -- --lr=0.2                       # two runs as one computation
    python train.py --model=resnet18 --dataset=cifar10 --lr=0.5 --batch_size=8 --epochs=500

``python train.py --help`` lists every setting. This is the program that ``wandb agent`` runs;
``main`` is what tests call.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.common.program import command_line, exit_code_of
from lowrank.common.terminal import say
from lowrank.config.arguments import parse
from lowrank.training.requests import Request, split

if TYPE_CHECKING:
    from lowrank.training.member import Member

CHECKOUT = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one training from the command line.

    One at a time in a process, as torch's generators and switches are the process's.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0 finished or stopped by rule, 1 failure, 2 bad input, 130 and 143 by signal.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return exit_code_of("train.py", lambda: max(train(_requested(arguments))))


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
    from lowrank.common.signals import Interruption
    from lowrank.config.packs import check_pack
    from lowrank.data import load_dataset
    from lowrank.runs.environment import describe_environment, git_refusal
    from lowrank.training import steps
    from lowrank.training.learner import Learner
    from lowrank.training.members import Members
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
        dataset = load_dataset(
            config.dataset,
            data_dir=config.data_dir,
            download=config.download,
            train_size=config.train_size,
            image_size=config.resolved_image_size,
            device=device,
        )
        left, configs = members.living, [member.config for member in members.slots]
        pack = build(configs, dataset.image_shape, dataset.num_classes, device)
        learner = Learner(configs, dataset, pack)
        steps.check_last_batch(pack.networks[0], dataset, config.batch_size)
        if config.compile:
            started = time.perf_counter()
            say("compiling the training step; later runs find what this one compiled")
            learner.compile()
            say(f"compiled in {time.perf_counter() - started:.0f} s")
        members.watch(pack, dataset)
        trainer = Trainer(learner, members.slots, interruption)
        trainer.train()
        if any(member.exit_code == 0 for member in left):
            say(f"\n{trainer.table()}")
        for member in left:
            _conclude(member)
        return members.exit_codes()


def _conclude(member: Member) -> None:
    """Says how a run ended and what to do next."""
    directory = member.directory
    if member.exit_code == 0:
        member.say_lost()
    say(f"run {directory.run_id} {member.state}: {directory.path}")
    if member.state == "stopped":
        stored = shlex.quote(str(directory.path / "config.yaml"))
        output_dir = shlex.quote(directory.config.output_dir)
        place = f"--run_id={directory.run_id} --output_dir={output_dir}"
        say(f"go on with: {command_line(__file__)} --config {stored} {place}")
    if member.tracker.sync_command:
        say(f"upload it with: {member.tracker.sync_command}")


if __name__ == "__main__":
    sys.exit(main())
