"""Several networks measured at once against each measured alone, bit for bit; and snapshots."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank.measure.watcher import Watcher, measure_all

EXAMPLE = torch.ones(1, 50)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(50, 40), nn.Linear(40, 300), nn.Linear(300, 40), nn.Linear(40, 30))
    )


def watcher(model, decay=0.9):
    theory = {"optimizer": "sgd", "weight_decay": decay, "batch_size": 1, "train_size": 3}
    return Watcher(model, example_input=EXAMPLE, theory=theory)


def snapshot(of):
    return {name: weight.clone() for name, weight in of.weights().items()}


def change(model, epoch):
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.mul_(0.9).add_(torch.randn(parameter.shape) / (10 + epoch + place))


def assert_same(found, expected):
    assert found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        assert np.array(found.metrics[name]).tobytes() == np.array(value).tobytes(), name
    assert found.spectra.keys() == expected.spectra.keys()
    for name, spectrum in expected.spectra.items():
        assert found.spectra[name].tobytes() == spectrum.tobytes(), name


@pytest.mark.parametrize("threads", [1, 2])
def test_networks_measured_at_once_are_bitwise_each_measured_alone(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        networks = [network(seed) for seed in range(3)]
        alone = [watcher(model) for model in networks]
        together = [watcher(model) for model in networks]
        for epoch in range(4):
            rates = [[rate] * epoch for rate in (1.0, 1.05, 0.001)]
            found = measure_all(
                together, [snapshot(each) for each in together], [epoch] * len(together), rates
            )
            for each, one, of_one in zip(found, alone, rates, strict=True):
                assert_same(each, one.measure(epoch, of_one))
            for one in (*alone, *together):
                one.advance()
            for model in networks:
                change(model, epoch)
            with torch.no_grad():
                if epoch == 2:
                    networks[1][1].weight.mul_(1e-12)
        assert [each.metrics["collapsed"] for each in found] == [0, 1, 0]
        assert [math.isnan(each.metrics["rank_mean"]) for each in found] == [False, True, False]
        bounds = [{n for n in each.metrics if n.startswith("rank_bound/")} for each in found]
        assert bounds[0] == {f"rank_bound/{layer}" for layer in range(4)}
        assert bounds[1] == bounds[0] - {"rank_bound/1"}  # a norm so small has forgotten nothing
        assert not bounds[2]
    finally:
        torch.set_num_threads(before)


def test_a_snapshot_is_measured_and_kept_as_the_weights_it_was_taken_of():
    model = network(0)
    now, later = watcher(model), watcher(model)
    expected, snapshots = [], []
    for epoch in range(3):
        expected.append(now.measure(epoch, [0.1] * epoch))
        now.advance()
        snapshots.append(snapshot(later))
        change(model, epoch)
    for epoch, weights in enumerate(snapshots):
        assert_same(later.measure(epoch, [0.1] * epoch, weights), expected[epoch])
        later.advance(weights)
    kept = later.state_dict()["previous"]
    assert all(kept[name] is weight for name, weight in snapshots[-1].items())
    assert 0 < expected[2].metrics["distance/0"] < 2


def test_weights_are_views_and_an_advance_keeps_a_copy():
    model = network(0)
    of = watcher(model)
    assert of.weights()["0"].data_ptr() == model[0].weight.data_ptr()
    of.advance()
    change(model, 0)
    assert of.measure(1).metrics["distance/0"] > 0
