"""The loop of a pack: train and evaluate; beside the next epoch measure, keep, record and log."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from signal import Signals
from typing import TYPE_CHECKING

from lowrank.common.errors import out_of_memory
from lowrank.config.datasets import DATASETS
from lowrank.config.packs import OF_A_STEP
from lowrank.measure.matrices import describe
from lowrank.measure.watcher import measure_all, measure_within
from lowrank.runs.within import Look
from lowrank.training import steps
from lowrank.training.background import Background
from lowrank.training.console import Console, epoch_line, layer_table, member_table, table_head
from lowrank.training.gradient import gradients
from lowrank.training.member import Outcome
from lowrank.training.members import close_all
from lowrank.training.memory import remedy
from lowrank.training.truncation import truncation_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank.common.signals import Interruption
    from lowrank.training.learner import Learner
    from lowrank.training.member import Epoch, Member
    from lowrank.training.members import Members


class Trainer:
    """Takes every member of a pack to its end.

    Of each epoch the losses are known when training goes on; its weights are copied, and what is
    to be measured and written of them is, in the order of an epoch, while the next epoch trains.
    At most one epoch is under way so, and whatever ends a run waits for it first.

    Args:
        learner: The networks, newly initialised, with their data.
        runs: That of each member, begun and watching its network.
        interruption: Tells when to stop.
    """

    def __init__(self, learner: Learner, runs: Members, interruption: Interruption) -> None:
        self.config = learner.config
        self.learner = learner
        self.dataset = learner.dataset
        self.runs = runs
        self.members = members = runs.slots
        self.interruption = interruption
        self.console = Console(
            epochs=self.config.epochs,
            steps=len(learner.batches),
            batch_size=self.config.batch_size * len(members),
            examples=f"{DATASETS[self.config.dataset].example}s",
            echo=self._echo,
        )

    def train(self) -> None:
        """Goes on from the members' checkpoints, or begins, until the end, a rule or a signal.

        Raises:
            InputError: If the only run's checkpoint is of another network.
            Failure: If memory or disk is exhausted.
        """
        with (
            self.console,
            self.interruption.deferred(),
            out_of_memory(remedy(self.config, len(self.members))),
            Background(self.config.threads or 1) as self._background,
        ):
            try:
                self._go_on()
            except InterruptedError:
                self._background.wait()
                self._stop(self._living(), self.interruption.exit_code, self.interruption.name)

    def table(self) -> str:
        """Returns what was reached: of one run every layer's rank, of a pack a line per run."""
        if len(self.members) == 1:
            (member,) = self.members
            watcher = member.watcher
            return layer_table(
                watcher.layers, member.first_row, member.last_row, watcher.derived.layers
            )
        own = self._own()
        shown = [member for member in self.members if member.last_row]
        return member_table(
            {m.run_id: ({n: getattr(m.config, n) for n in own}, m.last_row) for m in shown}
        )

    def _go_on(self) -> None:
        behind = self._take_up()
        if not self._living():
            return
        self.console.head(len(self.members))
        first = min(self._living(), key=lambda index: self.learner.epochs[index])
        self.console.start(self.learner.epochs[first], self.learner.steps[first])
        if behind:
            self._close_epoch(behind)
        while self._end_what_has_ended():
            self.learner.train_epoch(self._proceed, self._ghosts(), self._before_last, self._look)
            self._close_epoch(self._living())

    def _take_up(self) -> list[int]:
        """Takes up what the runs have reached.

        Returns:
            The members whose present epoch is not in their record.
        """
        reached: dict[int, bool | None] = {}

        def take_up(index: int) -> None:
            member = self.members[index]
            reached[index] = member.take_up(self.learner, index, self._line_of(member))

        for index in self._living():
            self.runs.attempt(self.members[index].request, partial(take_up, index))
        introduced = False
        for index, recorded in reached.items():
            member = self.members[index]
            if recorded is None:
                if not introduced:
                    self._introduce()
                    introduced = True
                self._introduce_member(member)
            else:
                self._line_of(member)(
                    f"going on after epoch {self.learner.epochs[index]}, step "
                    f"{self.learner.steps[index]}, with {self._threads()} and seed "
                    f"{member.config.seed} as before"
                )
        return [index for index, recorded in reached.items() if not recorded]

    def _close_epoch(self, indices: Sequence[int]) -> None:
        """Evaluates, and lets the rest be done while the next epoch trains.

        Args:
            indices: The members whose epoch it is.

        Raises:
            InterruptedError: If a signal came before anything of the epoch was written.
        """
        learner = self.learner
        found: dict[str, Sequence[float]] = {}
        started = time.perf_counter()
        for name, split in (("train", self.dataset.train), ("test", self.dataset.test)):
            found[f"{name}_loss"], found[f"{name}_accuracy"] = learner.evaluate(
                split, self.interruption.proceed
            )
        evaluated = time.perf_counter() - started
        truncated = self._truncated(indices)
        by_weights = self._gradients(indices)
        self._background.wait()
        if not self.interruption.proceed():
            raise InterruptedError
        closing: dict[int, Epoch] = {}
        for index in indices:
            member = self.members[index]
            if member.stops_by_rule:  # by the epoch before, as is known now
                continue
            row = {name: of_each[index] for name, of_each in found.items()}
            row["time/evaluate"] = evaluated
            row |= truncated.get(index, {})
            if learner.epochs[index]:
                row["time/train"] = learner.seconds
                row["throughput/images_per_second"] = learner.images_per_second
            closing[index] = member.left(learner, index, row, by_weights.get(index))
        if closing:
            # In one go: what tensors share, as those of a pack do, is copied once.
            kept = copy.deepcopy(closing)
            self._background.submit(lambda: self._write(kept))

    @property
    def _before_last(self) -> Callable[[Sequence[int]], None] | None:
        """What is done before the last step of an epoch; None where its update is not measured."""
        if "update" not in self.config.spectra_of:
            return None

        def keep(indices: Sequence[int]) -> None:
            for index in indices:
                if self.members[index].is_measured(self.learner.epochs[index] + 1):
                    self.members[index].keep_before()

        return keep

    def _gradients(self, indices: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """Returns the gradients of those whose epoch asks for them."""
        measured = [i for i in indices if self.members[i].is_measured(self.learner.epochs[i])]
        if "gradient" not in self.config.spectra_of or not measured:
            return {}
        found = gradients(self.learner)
        return {index: found[index] for index in measured}

    def _look(self, indices: Sequence[int]) -> None:
        """Lets networks be measured as they are within an epoch, in the background."""
        members = [self.members[index] for index in indices if self.members[index].outcome is None]
        step, of_all = self.learner.steps[indices[0]], len(self.learner.batches)
        weights = copy.deepcopy(
            [
                {name: weight.detach() for name, weight in member.watcher.weights().items()}
                for member in members
            ]
        )

        def measure() -> None:
            found = measure_within([member.watcher for member in members], weights)
            for member, metrics in zip(members, found, strict=True):
                member.note(Look(step, of_all, metrics))

        if members:
            self._background.submit(measure)

    def _truncated(self, indices: Sequence[int]) -> dict[int, dict[str, float]]:
        """Evaluates the networks of those whose epoch asks for it at lower ranks.

        Returns:
            Metrics by member.
        """
        asked = [i for i in indices if self.members[i].is_truncated(self.learner.epochs[i])]
        if not asked:
            return {}
        started = time.perf_counter()
        found = truncation_metrics(self.learner, self.interruption.proceed)
        seconds = time.perf_counter() - started
        return {index: {**found[index], "time/truncation": seconds} for index in asked}

    def _write(self, epochs: Mapping[int, Epoch]) -> None:
        """Measures, checkpoints, records and logs, in the background."""
        measured = {index: e.weights for index, e in epochs.items() if e.weights is not None}
        started = time.perf_counter()
        measurements = measure_all(
            [self.members[index].watcher for index in measured],
            list(measured.values()),
            [epochs[index].number for index in measured],
            [epochs[index].rates for index in measured],
        )
        found = dict(zip(measured, measurements, strict=True))
        seconds = (time.perf_counter() - started) / max(1, len(measured))
        for index, epoch in epochs.items():
            if self._background.is_abandoned:
                return
            self.members[index].close(epoch, found.get(index), seconds)
        closed = [self.members[index] for index in epochs]
        self.console.epoch([member.last_row for member in closed], len(self.members))
        for member in closed:
            if len(self.members) > 1:
                line = epoch_line(
                    int(member.last_row["epoch"]), self.config.epochs, member.last_row
                )
                member.tracker.write(f"{line}\n")
            if news := member.news():
                self._line_of(member)(news)

    def _end_what_has_ended(self) -> bool:
        """Ends the runs that have nothing left to do.

        Returns:
            Whether any is left.
        """
        if all(self._may_go_on(index) for index in self._living()):
            return bool(self._living())
        self._background.wait()
        outcomes = {}
        for index in self._living():
            if self.members[index].stops_by_rule:
                outcomes[index] = Outcome("collapsed", 0)
            elif self.learner.epochs[index] == self.config.epochs:
                outcomes[index] = Outcome("finished", 0)
        self._end(outcomes)
        return bool(self._living())

    def _may_go_on(self, index: int) -> bool:
        # A rule may be found to stop it while the next epoch trains, which is then of no account.
        goes_on = self.learner.epochs[index] < self.config.epochs
        return goes_on and not self.members[index].stops_by_rule

    def _living(self) -> list[int]:
        return [index for index, member in enumerate(self.members) if member.outcome is None]

    def _ghosts(self) -> set[int]:
        return set(range(len(self.members))) - set(self._living())

    def _end(self, outcomes: Mapping[int, Outcome]) -> None:
        """Ends runs."""
        ended = [self.members[index] for index in outcomes]
        for index, outcome in outcomes.items():
            self.members[index].end(outcome, self.learner, index)
        close_all(ended)
        for member in ended:
            member.request.ended(member.exit_code or 0)

    def _stop(self, indices: Sequence[int], exit_code: int, by: str) -> None:
        """Stops runs within an epoch, unless a rule has ended them with the one before."""
        outcomes, learner = {}, self.learner
        for index in indices:
            member = self.members[index]
            if member.stops_by_rule:
                outcomes[index] = Outcome("collapsed", 0)
                continue
            member.interrupt(learner, index)
            self._line_of(member)(
                f"{by}: saved epoch {learner.epochs[index]}, step {learner.steps[index]}"
            )
            outcomes[index] = Outcome("stopped", exit_code)
        self._end(outcomes)

    def _proceed(self) -> bool:
        self.console.stepped()
        if self._background.has_failed:
            self._background.wait()
        for index in self._living():
            number = self.members[index].signal()
            if number is not None:
                self._background.wait()
                self._stop([index], 128 + number, Signals(number).name)
        return self.interruption.proceed() and bool(self._living())

    def _introduce(self) -> None:
        """Says what is trained, and what is measured and skipped."""
        config, dataset, console = self.config, self.dataset, self.console
        network = self.learner.pack.networks[0]
        size = sum(parameter.numel() for parameter in network.parameters())
        count = len(self.members)
        what = f"seed {config.seed}" if count == 1 else f"a pack of {count} runs"
        console.line(
            f"{config.model} of {size:,} parameters, {what}, "
            f"on {dataset.train.images.device} with {self._threads()}"
        )
        console.line(
            f"{config.dataset}: {len(dataset.train):,} {console.examples} to train, "
            f"{len(dataset.test):,} to test"
        )
        every, of_all = config.measure_every_steps, len(self.learner.batches)
        if every and every >= of_all:
            console.line(
                f"measure_every_steps={every}: an epoch has {of_all} steps, so that nothing is "
                "measured within one"
            )
        if config.precision == "bf16" and steps.lacks_bfloat16(dataset.train.images.device):
            console.line(
                "precision=bf16 will be slow: this processor has no instructions for bfloat16, "
                "precision=fp32 is faster"
            )
        console.line(f"\n{describe(network)}")
        kinds = Counter(each.kind for each in self.members[0].watcher.derived.layers)
        if kinds:
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            console.line(f"measured beside them, in no mean: {told}")
        console.line("")

    def _introduce_member(self, member: Member) -> None:
        """Says what the theory has to say of a run."""
        if len(self.members) == 1:
            for line in [*member.theory, ""]:
                self.console.line(line)
            return
        numbers = " ".join(f"{name}={getattr(member.config, name)}" for name in self._own())
        self._line_of(member)(numbers)
        head = table_head(examples=self.console.examples)
        member.tracker.write("".join(f"{line}\n" for line in [*member.theory, "", head]))

    def _own(self) -> list[str]:
        """Returns the fields in which the members differ."""
        configs = [member.config for member in self.members]
        return [n for n in OF_A_STEP if len({str(getattr(c, n)) for c in configs}) > 1]

    def _threads(self) -> str:
        return "1 thread" if self.config.threads == 1 else f"{self.config.threads} threads"

    def _line_of(self, member: Member) -> Callable[[str], None]:
        """Returns what prints lines of one run, and says of which in a pack."""
        if len(self.members) == 1:
            return self.console.line

        def line(text: str) -> None:
            self.console.line(f"{member.run_id}: {text}", echo=False)
            member.tracker.write(f"{text}\n")

        return line

    def _echo(self, text: str) -> None:
        for index in self._living():
            self.members[index].tracker.write(text)
