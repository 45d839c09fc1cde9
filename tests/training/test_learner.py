"""How images reach a run's networks: their layout, how many at once, and that neither matters.

Losses and accuracies are compared with those of all images in one batch, in float64.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from lowrank.config import Config
from lowrank.data import load_dataset
from lowrank.data.batches import normalise
from lowrank.training.learner import CONVOLVED_BATCH, EVALUATION_BATCH, Learner
from lowrank.training.pack import build

CPU = torch.device("cpu")
CONVNET = {"model": "convnet", "depth": 1, "width": 6}
MLP = {"depth": 1, "width": 6}


def learner_of(members=1, **fields):
    fields = {"dataset": "synthetic", "train_size": 1100, "batch_size": 100, **fields}
    configs = [Config(**fields, seed=seed) for seed in range(members)]
    first = configs[0]
    dataset = load_dataset(**first.data_request)
    pack = build(configs, dataset.image_shape, dataset.num_classes, CPU)
    return Learner(configs, dataset, pack)


def batches_seen(learner, act):
    """Returns the batches of images that the model is given while it acts."""
    seen = []
    hook = learner.pack.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    act()
    hook.remove()
    return seen


@pytest.mark.parametrize(
    ("fields", "is_last"),
    [
        (CONVNET, True),
        ({"model": "resnet18", "train_size": 2, "batch_size": 2}, True),
        (MLP, False),
    ],
)
def test_only_what_convolves_has_channels_last(fields, is_last):
    learner = learner_of(**fields)
    for images in batches_seen(learner, lambda: learner.train_epoch(lambda: True)):
        assert images.is_contiguous(memory_format=torch.channels_last) == is_last
        assert images.is_contiguous() != is_last


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        (MLP, EVALUATION_BATCH),
        (CONVNET, CONVOLVED_BATCH),
        ({**MLP, "members": 20}, 8192 // 20),
        ({**CONVNET, "members": 2}, CONVOLVED_BATCH),
    ],
)
def test_evaluation_takes_so_many_at_once_and_says_the_same_as_all_at_once(fields, most):
    learner = learner_of(**fields)
    split, dataset = learner.dataset.train, learner.dataset
    found = []
    seen = batches_seen(learner, lambda: found.extend(learner.evaluate(split, lambda: True)))
    assert max(map(len, seen)) == most
    assert sum(map(len, seen)) == len(split)
    images = normalise(split.images, dataset.mean, dataset.std).double()
    for index, network in enumerate(learner.pack.networks):
        with torch.no_grad():
            logits = copy.deepcopy(network).double().eval()(images)
        loss, accuracy = (of_each[index] for of_each in found)
        assert loss == pytest.approx(
            float(functional.cross_entropy(logits, split.labels)), rel=1e-5
        )
        assert accuracy == pytest.approx(float((logits.argmax(1) == split.labels).double().mean()))


def test_training_stops_when_it_may_not_proceed():
    learner = learner_of(**MLP)
    answers = iter([True, False])
    with pytest.raises(InterruptedError):
        learner.train_epoch(lambda: next(answers))
    assert (learner.epochs, learner.steps) == ([0], [2])


def test_evaluation_is_given_up_when_it_may_not_proceed():
    learner = learner_of(**MLP)
    with pytest.raises(InterruptedError):
        learner.evaluate(learner.dataset.test, lambda: False)


@pytest.mark.parametrize("has_update", [False, True])
def test_rounds_of_many_steps_end_where_a_look_is_due(monkeypatch, has_update):
    """A GPU takes many steps in a round; here a round is as long as it is allowed to be."""
    learner = learner_of(**MLP, measure_every_steps=4)  # of 11 steps
    taken, looks, lasts = [], [], []

    def whole_round(_, first, until):
        taken.append((first, until))
        return until - first

    monkeypatch.setattr(learner._rounds, "take", whole_round)
    before_last = (lambda _: lasts.append(learner.steps[0])) if has_update else None
    learner.train_epoch(
        lambda: True, before_last=before_last, look=lambda _: looks.append(learner.steps[0])
    )
    assert looks == [4, 8]
    assert lasts == ([10] if has_update else [])
    assert taken == [(0, 4), (4, 8), *([(8, 10), (10, 11)] if has_update else [(8, 11)])]
    taken.clear()
    learner.train_epoch(lambda: True)
    assert taken == [(0, 11)]
