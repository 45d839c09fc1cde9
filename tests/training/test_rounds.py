"""Epochs and evaluations in recorded rounds against the same batch by batch, bit for bit.

A stand-in for CUDA graphs does again what was recorded: the same operations with the same numbers,
on the same tensors. So what a graph would freeze is frozen here too. Kernels and memory are not
shown; `benchmarks.gpu` compares them on a card.
"""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lowrank.config import Config
from lowrank.data import load_dataset
from lowrank.training import rounds as module
from lowrank.training import steps
from lowrank.training.learner import Learner
from lowrank.training.pack import build
from lowrank.training.rounds import Rounds

CPU = torch.device("cpu")


class Graph(TorchDispatchMode):
    """Operations, which are done again with the tensors that they were recorded with."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.replays = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a graph cannot wait"
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def pool(self):
        return None

    @torch.inference_mode()
    def replay(self):
        self.replays += 1
        now = {}
        for func, args, kwargs, recorded in self.calls:
            found = func(*tree_map(lambda leaf: now.get(id(leaf), leaf), args), **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(found), strict=True):
                now[id(old)] = new


class Event:
    """What there is to wait for: nothing."""

    def record(self):
        pass

    def synchronize(self):
        pass


@pytest.fixture
def graphs(monkeypatch):
    """Lets rounds be recorded here, of three batches and of one; returns the graphs."""
    made = []

    def record(work, _):
        work()
        graph = Graph()
        with graph:
            work()
        made.append(graph)
        return graph

    monkeypatch.setattr(module, "record", record)
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "SECONDS", 1e9)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return made


def learner_of(members=1, **fields):
    fields = {"dataset": "synthetic", "train_size": 75, "batch_size": 8, "compile": True, **fields}
    fields |= {"epochs": 3, "milestones": [2], "lr": 0.05}
    configs = [Config(**{**fields, "lr": 0.05 / (1 + seed)}, seed=seed) for seed in range(members)]
    dataset = load_dataset("synthetic", train_size=75)
    learner = Learner(
        configs, dataset, build(configs, dataset.image_shape, dataset.num_classes, CPU)
    )
    learner.compile()
    return learner


def epoch_of(learner, proceed=lambda: True):
    """Trains an epoch and returns what was reached."""
    learner.train_epoch(proceed)
    data = learner.dataset
    found = [learner.evaluate(split, lambda: True) for split in (data.train, data.test)]
    return found, {name: t.clone() for name, t in learner.pack.stack.state_dict().items()}


def assert_same(first, second):
    assert first[0] == second[0]
    for name, tensor in first[1].items():
        assert torch.equal(second[1][name], tensor), name


NETWORKS = [
    {"depth": 1, "width": 8, "momentum": 0.9},
    {"depth": 1, "width": 8, "optimizer": "adamw", "members": 2},
    {"model": "convnet", "depth": 1, "width": 4, "augment": True},
    {
        "model": "vit",
        "vit_depth": 1,
        "vit_heads": 2,
        "vit_width": 16,
        "vit_mlp_width": 16,
        "vit_patch": 16,
        "dropout": 0.2,
    },
]


@pytest.mark.parametrize("fields", NETWORKS, ids=lambda fields: fields.get("model", "mlp"))
def test_an_epoch_in_rounds_is_the_same_bit_for_bit(graphs, fields):
    plain, recorded = learner_of(**fields), learner_of(**fields)
    recorded._record()
    # Of nine whole batches and a short one three and three, of two evaluations one each and none.
    for _ in range(2):  # at two rates
        assert_same(epoch_of(plain), epoch_of(recorded))
    one, three = graphs[:2]
    assert (one.replays, three.replays) == (1, 2 * 3)  # once to know how long it takes


@pytest.mark.usefixtures("graphs")
def test_an_epoch_that_was_interrupted_goes_on_the_same():
    plain, recorded = learner_of(**NETWORKS[3]), learner_of(**NETWORKS[3])
    recorded._record()
    epoch_of(plain), epoch_of(recorded)
    asked = iter([True] * 4 + [False])
    with pytest.raises(InterruptedError):
        recorded.train_epoch(lambda: next(asked))
    assert recorded.steps == [6]  # a round is never left in the middle
    other = learner_of(**NETWORKS[3])
    other.load_state_dict(0, recorded.state_dict(0))
    expected = epoch_of(plain)
    assert_same(expected, epoch_of(recorded))
    assert_same(expected, epoch_of(other))


def tensors_kept(learner):
    """What the optimiser keeps of every weight."""
    return [tensor for kept in learner.optimizer.state for tensor in kept.values()]


def test_recording_changes_nothing(graphs):
    learner = learner_of(**NETWORKS[0])
    state = [t.clone() for t in learner.pack.state_dict().values()]
    kept = [t.clone() for t in tensors_kept(learner)]
    step = learner.optimizer.numbers["step"].clone()
    learner._record()
    assert len(graphs) > 2
    assert all(map(torch.equal, state, learner.pack.state_dict().values()))
    assert all(map(torch.equal, kept, tensors_kept(learner)))
    assert torch.equal(step, learner.optimizer.numbers["step"])


def test_rounds_are_as_long_as_a_signal_may_wait(graphs, monkeypatch):
    monkeypatch.setattr(module, "MOST", 64)
    monkeypatch.setattr(module, "SECONDS", 0.5)
    clock = iter([0.0, 0.12])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    seen = []
    rounds = Rounds(lambda part: seen.append(part + 0), batch_size=2)
    rounds.record(torch.arange(15)[None])
    first, taken = 0, []
    while first < 8:
        taken.append(rounds.take(torch.arange(15)[None], first, 8))
        first += taken[-1]
    assert taken == [4, 1, 1, 1, 1]  # 0.48 s, and a short batch last
    assert [graph.replays for graph in graphs] == [1 + 3, 1]


def test_fewer_examples_than_a_batch_are_not_recorded(graphs):
    rounds = Rounds(lambda _: None, batch_size=9)
    rounds.record(torch.arange(8)[None])
    assert (graphs, rounds.take(torch.arange(8)[None], 0, 1)) == ([], 1)


@pytest.mark.usefixtures("graphs")
def test_an_evaluation_counts_every_example_of_all_batches():
    learner = learner_of(**NETWORKS[0])
    split = learner.dataset.train
    expected = steps.Evaluation(learner.pack, learner.loss)
    expected.begin()
    expected.add(*learner._batches(split, len(split)).take(torch.arange(len(split))[None]))
    learner._record()
    for _ in range(2):
        losses, accuracies = learner.evaluate(split, lambda: True)
        assert losses == pytest.approx(expected.means(len(split))[0])
        assert accuracies == expected.means(len(split))[1]
