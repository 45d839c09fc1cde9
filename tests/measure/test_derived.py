"""W − W_0 of a watched loop: against float64 differences, and its rank against the theory's bound.

Without weight decay every step changes a matrix by −μ times its gradient, a sum over the examples
of the batch, over the positions at which the matrix is applied to an example, and over the groups
of a convolution, of one outer product each. So W − W_0 is after n steps of rank m·g·B·n at most,
for m positions, g groups and B examples a step. Run with ``pytest tests/measure/test_derived.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.common.errors import InputError

WATCHED = {"spectra_of": ["change"], "epsilons": [1e-9]}


def trained(model, shape, *, steps, batch_size, decay=0.0):
    """Returns the change's rank by layer after SGD on random examples, in double precision."""
    torch.manual_seed(0)
    model = model.double()
    watcher = lowrank.watch(model, **WATCHED)
    row = watcher.log(0)
    names = [layer.name for layer in watcher.derived.layers]
    assert all(row[f"rank/{name}"] == row[f"frobenius_norm/{name}"] == 0 for name in names)
    assert all(np.isnan(row[f"stable_rank/{name}"]) for name in names)
    assert row["collapsed"] == 0
    before = {name: weight.clone() for name, weight in watcher.weights().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
    for _ in range(steps):
        images = torch.randn(batch_size, *shape, dtype=torch.float64)
        labels = torch.randint(10, (batch_size,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    row = watcher.log(1)
    for layer in watcher.layers:
        change = (watcher.weights()[layer.name] - before[layer.name]).numpy()
        true = np.linalg.svd(change, compute_uv=False)
        found = row.spectra[f"{layer.name}_change"]
        assert np.allclose(found, true, rtol=0, atol=1e-12 * true[0])
        assert f"distance/{layer.name}_change" not in row
        assert np.isfinite(row[f"distance/{layer.name}"])
    return {layer.name: row[f"rank/{layer.name}_change"] for layer in watcher.layers}


@pytest.mark.parametrize(("steps", "batch_size"), [(1, 1), (3, 2)])
def test_the_rank_of_the_change_is_at_most_one_for_each_example_and_step(steps, batch_size):
    network = nn.Sequential(nn.Linear(30, 25), nn.Tanh(), nn.Linear(25, 20), nn.Tanh())
    network.append(nn.Linear(20, 10))
    found = trained(network, (30,), steps=steps, batch_size=batch_size)
    assert found == dict.fromkeys(["0", "2", "4"], steps * batch_size)  # here m = g = 1; it is met


def test_positions_and_groups_multiply_the_bound():
    network = nn.Sequential(nn.Conv2d(4, 24, 3, groups=2), nn.Tanh(), nn.Flatten())
    network.append(nn.Linear(24 * 2 * 2, 10))
    found = trained(network, (4, 4, 4), steps=2, batch_size=1)
    # Of (24, 18): 4 positions of a 4 × 4 image, 2 groups, 1 example, 2 steps.
    assert found == {"0": 4 * 2 * 1 * 2, "3": 2}


def test_weight_decay_makes_the_change_one_of_full_rank():
    network = nn.Sequential(nn.Linear(30, 25), nn.Tanh(), nn.Linear(25, 10))
    assert trained(network, (30,), steps=3, batch_size=2, decay=0.1) == {"0": 25, "2": 10}


def test_a_state_continues_the_change_and_a_record_does_not_take_other_layers(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    watcher = lowrank.watch(model, record=tmp_path, **WATCHED)
    watcher.log(0)
    state = watcher.state_dict()
    with torch.no_grad():
        model[0].weight += 1
    expected = watcher.measure(1).spectra
    assert expected["0_change"][0] == pytest.approx(np.sqrt(30))
    watcher.close()
    resumed = lowrank.watch(model, record=tmp_path, resume=True, **WATCHED)
    assert np.isnan(resumed.measure(1).spectra["0_change"]).all()  # W_0 is in the state alone
    resumed.load_state_dict(state)
    found = resumed.log(1).spectra
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    resumed.close()
    with pytest.raises(InputError, match="attention_products or spectra_of"):
        lowrank.watch(model, record=tmp_path, resume=True, epsilons=[1e-9])


def test_what_only_train_py_knows_and_what_there_is_not_is_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"'update' takes what only train\.py knows; allow"):
        lowrank.watch(model, spectra_of=["change", "update"])
    with pytest.raises(InputError, match="got 'chnge'; allowed: change, update, gradient"):
        lowrank.watch(model, spectra_of="chnge")
