"""Several networks measured at once against each measured alone, bit for bit; and snapshots."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lowrank.common.errors import InputError
from lowrank.measure.watcher import Watcher, measure_all, measure_within

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


def test_directions_agree_with_themselves_and_with_the_matrix_before():
    model = network(0)
    one = Watcher(model, example_input=EXAMPLE, directions=35)
    names = [layer.name for layer in one.layers]
    first = one.measure(0)
    assert np.isnan(first.metrics["overlap_left/0"])
    assert [found.left.shape[1] for found in first.directions.values()] == [35, 35, 35, 30]
    one.advance()
    again = one.measure(1).metrics
    for name in names:
        assert again[f"overlap_left/{name}"] == pytest.approx(1, abs=1e-6)
        assert again[f"overlap_right/{name}"] == pytest.approx(1, abs=1e-6)
    assert [name for name in names if f"alignment/{name}" in again] == names[1:]
    with torch.no_grad():  # the last matrix reads what the one before it writes
        left = torch.from_numpy(first.directions["2"].left[:, :30])
        model[3].weight.copy_(torch.randn(30, 30) @ left.T)
        model[1].weight.zero_()
    found = one.measure(2).metrics
    assert found["alignment/3"] == pytest.approx(1, abs=1e-5)
    for name in ("overlap_left/1", "overlap_right/1", "alignment/1", "alignment/2"):
        assert np.isnan(found[name]), name
    assert np.isnan(found["overlap_left_mean"])
    assert np.isnan(found["alignment_mean"])


def test_a_collapsed_matrix_has_no_directions():
    model = network(0)
    one, again = (Watcher(model, example_input=EXAMPLE, directions=2) for _ in range(2))
    for each in (one, again):
        each.measure(0)
    with torch.no_grad():
        model[1].weight.mul_(1e-9)
    found = one.measure(1)
    assert {name for name, each in found.directions.items() if np.isnan(each.left).all()} == {"1"}
    assert np.isnan(found.directions["1"].right).all()
    one.advance(directions=found.directions)
    again.measure(1)
    again.advance()  # as a run does that goes on
    with torch.no_grad():
        model[1].weight.mul_(1e9)
    for each in (one, again):
        metrics = each.measure(2).metrics
        assert metrics["collapsed"] == 0
        assert np.isnan(metrics["overlap_left/1"])
        assert metrics["overlap_left/0"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("given", [None, 5])
@pytest.mark.parametrize("name", ["epsilons", "quantities", "spectra_of"])
def test_what_is_no_list_is_refused(name, given):
    with pytest.raises(InputError, match=f"{name}: got {given}; allowed: a list"):
        Watcher(network(0), **{name: given})


def test_without_an_example_nothing_is_known_of_an_order():
    found = Watcher(network(0), directions=2).measure(0).metrics
    assert "overlap_right/3" in found
    assert not [name for name in found if name.startswith("alignment")]


@pytest.mark.parametrize("count", [0, 2.5, True, "3"])
def test_a_number_of_directions_that_is_none_is_refused(count):
    with pytest.raises(InputError, match=r"directions: got .*; allowed: a whole number from 1"):
        Watcher(network(0), directions=count)


def test_directions_of_complex_matrices_are_refused():
    with pytest.raises(InputError, match=r"directions: weight is complex; allowed: real"):
        Watcher(nn.Linear(3, 2, dtype=torch.complex64), directions=1)


def test_a_look_within_an_epoch_finds_what_an_epochs_does_and_leaves_no_trace():
    networks = [network(seed) for seed in range(2)]
    watched = [watcher(model) for model in networks]
    for each in watched:
        each.measure(0)
        each.advance()
    for epoch, model in enumerate(networks, 1):
        change(model, epoch)
        with torch.no_grad():
            model[1].weight.mul_(1e-7 if epoch == 1 else 10.0)
    kept = [each.state_dict() for each in watched]
    found = measure_within(watched, [each.weights() for each in watched])
    assert found[0]["collapsed"] == 1
    assert [each.state_dict()["largest_norms"] for each in watched] == [
        state["largest_norms"] for state in kept
    ]
    for each, metrics in zip(watched, found, strict=True):
        expected = each.measure(1, [0.1]).metrics
        for name, value in metrics.items():
            assert np.array(value).tobytes() == np.array(expected[name]).tobytes(), name
        assert {name.partition("/")[0] for name in expected.keys() - metrics.keys()} <= {
            "rank_bound"
        }
