"""Two steps before a point is taken: that they are two, of which network, and what fails is told.

A card's memory is stood in for by numbers; the steps are real, on the CPU.
"""

from __future__ import annotations

import pytest
import torch

from lowrank.common.errors import InputError
from lowrank.launch.trial import CONTEXT, Trial, room_for, take_steps
from lowrank.training import memory
from lowrank.training.learner import Learner

SMALL = ["--depth=1", "--train_size=64", "--threads=1"]


def test_the_largest_network_takes_two_steps_and_evaluates_a_batch(monkeypatch):
    taken = []
    train, evaluate = Learner.train_epoch, Learner.evaluate

    def trained(self, proceed):
        try:
            train(self, proceed)
        finally:
            taken.append((self.config.width, self.config.batch_size, self.steps))

    def evaluated(self, split, proceed):
        taken.append(split is self.dataset.test)
        return evaluate(self, split, proceed)

    monkeypatch.setattr(Learner, "train_epoch", trained)
    monkeypatch.setattr(Learner, "evaluate", evaluated)
    networks = [[*SMALL, f"--width={width}"] for width in (4, 30, 8)]
    networks.append([*SMALL, "--width=0"])  # no such network: a sweep passes it over
    assert take_steps({}, networks) == Trial("2 steps of mlp on digits, batch size 16", None, None)
    assert taken == [(30, 16, [2]), True]


def test_what_a_card_had_and_what_was_taken_is_found(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: 70)
    monkeypatch.setattr(memory, "peak_memory", lambda _: 30)
    assert take_steps({}, [[*SMALL, "--compile=true"]])[1:] == (30, 70)


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_there_is_room_for_trainings_each_with_a_process_of_its_own(slots):
    peak = 2**30
    free = 3 * peak + 2 * CONTEXT  # that of the first process is taken already
    if slots <= 3:
        assert room_for(slots, Trial("steps", peak, free)).endswith("; room for 3")
        free -= 1
    if slots >= 3:
        with pytest.raises(
            InputError, match=r"there is room for \d such trainings, not \d; --per_"
        ):
            room_for(slots, Trial("steps", peak, free))


def test_a_network_that_cannot_be_trained_is_told(monkeypatch):
    with pytest.raises(InputError, match="width: got '0'"):
        take_steps({}, [[*SMALL, "--width=0"]])
    with pytest.raises(InputError, match="batch of one"):
        take_steps({}, [["--depth=1", "--train_size=65", "--threads=1", "--batch_size=64"]])

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(Learner, "train_epoch", full)
    with pytest.raises(InputError, match="out of memory: batch_size=16 does not fit"):
        take_steps({}, [SMALL])
