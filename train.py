"""Trains a network and records the singular values of its weight matrices every epoch.

    python train.py                                            # an MLP on the digits
    python train.py --epochs=2 --width=20 --tracking=disabled  # a few seconds on any CPU
    python train.py --model=resnet18 --dataset=cifar10 --lr=0.5 --batch_size=8 --epochs=500

``python train.py --help`` lists every setting. This is the program that ``wandb agent`` runs;
``main`` is what tests call.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.common.errors import InputError
from lowrank.common.program import command_line, exit_code_of
from lowrank.common.terminal import say
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.training.requests import Request, split

if TYPE_CHECKING:
    from lowrank.runs.directory import RunDirectory

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
    """Trains a network, or several as one batched computation (a pack).

    Args:
        requests: The runs.

    Returns:
        The exit code of each.
    """
    return [run(request.config, request.command) for request in requests]


def run(requested: Config, command: Sequence[str]) -> int:
    """Trains a network or replicas of it, or goes on with a run that was interrupted.

    Args:
        requested: The configuration asked for.
        command: The program and its arguments, for the record.

    Returns:
        The exit code.

    Raises:
        InputError: If data, machine or an earlier run show that the configuration cannot work.
        Failure: If W&B, memory or disk fail.
        KeyboardInterrupt: If a signal came before or after the training itself.
    """
    # Loaded only now: a mistake on the command line is answered before torch and W&B are here.
    from lowrank.common.signals import Interruption
    from lowrank.data import load_dataset
    from lowrank.runs.directory import open_record, open_run_directory
    from lowrank.runs.environment import describe_environment, git_refusal
    from lowrank.tracking.account import follow_client
    from lowrank.tracking.tracker import start_tracking
    from lowrank.tracking.upload import finish_tracking
    from lowrank.training import steps
    from lowrank.training.learner import Learner
    from lowrank.training.replicas import build
    from lowrank.training.trainer import Outcome, Trainer, pictures, read_checkpoint

    with (
        Interruption() as interruption,
        open_run_directory(follow_client(requested)) as directory,
    ):
        if directory.ended:
            finish_tracking(directory, pictures, say)
            _say_lost(directory, say)
            say(f"run {directory.run_id} has ended, nothing is left to do: {directory.path}")
            return 0
        config = directory.config
        device = steps.configure_torch(config)
        checkpoint = read_checkpoint(directory, device)
        environment = describe_environment(device=device, threads=config.threads, argv=command)
        if environment["commit"] is None and (refusal := git_refusal(CHECKOUT)):
            say(
                f"the record will name no commit, as git refuses: {refusal}; "
                "WANDB_GIT_COMMIT=COMMIT says it"
            )
        tracker = start_tracking(
            config.recorded(),
            run_dir=directory.path,
            run_id=directory.run_id,
            resumed=directory.resumed,
            environment=environment,
            say=say,
        )
        outcome = Outcome("failed", 1)
        try:
            dataset = load_dataset(
                config.dataset,
                data_dir=config.data_dir,
                download=config.download,
                train_size=config.train_size,
                image_size=config.resolved_image_size,
                device=device,
            )
            model = build(
                config, [directory.seed], dataset.image_shape, dataset.num_classes, device
            )
            learner = Learner(config, dataset, model, [directory.seed])
            steps.check_last_batch(learner.networks[0], dataset, config.batch_size)
            if config.compile:
                started = time.perf_counter()
                say("compiling the training step; later runs find what this one compiled")
                learner.compile()
                say(f"compiled in {time.perf_counter() - started:.0f} s")
            trainer = Trainer(directory, learner, tracker, interruption)
            with open_record(directory, trainer.watcher.layers, environment) as record:
                outcome = trainer.train(record, checkpoint)
        except InputError:
            outcome = Outcome("failed", 2)
            raise
        except KeyboardInterrupt:
            outcome = Outcome("stopped", interruption.exit_code)
            raise
        finally:
            tracker.finish(directory.record, state=outcome.state, exit_code=outcome.exit_code)
        if outcome.exit_code == 0:
            say(f"\n{trainer.table()}")
            _say_lost(directory, say)
        say(f"run {directory.run_id} {outcome.state}: {directory.path}")
        if outcome.state == "stopped":
            stored = shlex.quote(str(directory.path / "config.yaml"))
            place = f"--run_id={directory.run_id} --output_dir={shlex.quote(config.output_dir)}"
            say(f"go on with: {command_line(__file__)} --config {stored} {place}")
        if tracker.sync_command:
            say(f"upload it with: {tracker.sync_command}")
    return outcome.exit_code


def _say_lost(directory: RunDirectory, say: Callable[[str], None]) -> None:
    """Says it if the run has no rank to speak of, whatever number stands in the table."""
    from lowrank.runs.find import load_run
    from lowrank.runs.lost import lost

    gone = lost(load_run(directory.record))
    if gone is not None:
        say(f"\nrun {directory.run_id} is {gone.how} and has no rank: {gone.text}\n")


if __name__ == "__main__":
    sys.exit(main())
