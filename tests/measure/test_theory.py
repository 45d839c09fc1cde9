"""The bounds of a run against batch sizes listed step by step, and when nothing is claimed."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowrank.data import load_dataset
from lowrank.measure.bounds import forgetting, memory_window
from lowrank.measure.layers import Layer
from lowrank.measure.theory import Theory
from lowrank.measure.watcher import Watcher
from lowrank.measure.windows import exact_window, settled_window


def layer(name, shape, positions, groups=1):
    return Layer(name, name, shape, positions, groups=groups)


WIDE = layer("wide", (10**7, 10**7), positions=1)  # its bound is the number of examples
RUN = {
    "optimizer": "sgd", "weight_decay": 0.05, "batch_size": 4, "train_size": 30, "epsilon": 1e-3,
}  # fmt: skip


def theory(*layers, **changes):
    return Theory(layers or [WIDE], **(RUN | changes))


def bounds(run, rates, norms):
    """Those for ‖W_T‖ in the same norm as the past."""
    return run.bounds(rates, norms, {name: history[-1] for name, history in norms.items()})


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 3)), min_size=1, max_size=9),
)
def test_real_batch_sizes_are_summed(batch_size, train_size, epochs):
    rates, norms = [rate for rate, _ in epochs], [1.0, *(norm for _, norm in epochs)]
    sizes = [min(batch_size, train_size - i) for i in range(0, train_size, batch_size)]
    decays = [rate * 0.05 for rate in rates]
    k = exact_window(decays, norms, len(sizes), 1e-3)
    n = settled_window(decays, norms, len(sizes), 1e-3)
    windows = [k and k * len(sizes), n]
    expected = [sum((sizes * len(rates))[-steps:]) for steps in windows if steps]
    run = theory(batch_size=batch_size, train_size=train_size)
    assert run.steps == len(sizes)
    assert bounds(run, rates, {"wide": norms}) == ({"wide": min(expected)} if expected else {})


def test_each_layer_has_its_own_bound():
    layers = [
        layer("linear", (50_000, 70_000), positions=1),
        layer("convolution", (50_000, 70_000), positions=3, groups=2),
        layer("small", (50_000, 100), positions=1),
        layer("grown", (50_000, 70_000), positions=1),
        layer("shrunk", (50_000, 70_000), positions=1),
        layer("parametrised", (50_000, 70_000), positions=None),
    ]
    run = theory(*layers, batch_size=1, train_size=100)
    flat = [1.0] * 31
    norms = {layer.name: flat for layer in layers}
    norms |= {"grown": [1.0] * 30 + [3.0], "shrunk": [1.0] * 30 + [1e-5]}
    # log(1000)/0.0050125 = 1,378 steps; 1,517 with norms settled only; log(1000/3)/… = 1,159
    assert bounds(run, [0.1] * 30, norms) == {"linear": 1400, "convolution": 8400, "grown": 1200}


def test_an_epoch_not_measured_is_passed_over():
    rates, norms = [1.0] * 8, [1.0] * 9
    run = theory(weight_decay=0.5, train_size=40)
    assert bounds(run, rates, {"wide": norms}) == {"wide": 40}
    norms[7] = math.nan
    assert bounds(run, rates, {"wide": norms}) == {"wide": 44}  # 11 steps, and no longer 1 epoch


def test_momentum_is_that_of_the_recursion():
    rates, norms = [0.01] * 300, {"wide": [1.0] * 301}
    # lr·wd = 5e-4 and β = 0.9 forget 0.00525 a step, a little more than 0.005 without momentum.
    with_momentum = bounds(theory(momentum=0.9), rates, norms)
    assert with_momentum["wide"] == pytest.approx(
        bounds(theory(), [0.1] * 300, norms)["wide"] * 0.005 / 0.00525, rel=0.06
    )
    share = forgetting(5e-4, 0.9)
    assert theory(momentum=0.9).efolds([0.01] * 100) == pytest.approx(100 * 8 * share)
    assert theory().efolds([0.1] * 100) == pytest.approx(100 * 8 * 0.1 * 0.05)


def test_the_spectral_norm_of_the_past_counts_against_the_present_size():
    rates, norms = [0.1] * 400, {"wide": [1.0] * 401}
    flat, *large = (theory().bounds(rates, norms, {"wide": size})["wide"] for size in (1, 3, 30))
    per_step = -math.log1p(-0.005)
    for found, size in zip(large, (3, 30), strict=True):
        steps = min(
            8 * -(-math.log(1e3 / size) // (8 * per_step)), -(-math.log(2e3 / size) // per_step)
        )
        assert found == 30 / 8 * steps < flat


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_rank_of_a_network_never_exceeds_the_bound(momentum):
    """MLP-2-600 on some of the digits, B 1, x/(1−β) = 0.02."""
    torch.manual_seed(0)
    lr, size = 0.2 * (1 - momentum), 150
    model = nn.Sequential(
        nn.Linear(64, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 10)
    )
    options = {"weight_decay": 0.1, "momentum": momentum}
    watcher = Watcher(
        model, epsilons=[1e-3], example_input=torch.zeros(1, 64),
        theory={"optimizer": "sgd", "batch_size": 1, "train_size": size, **options},
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **options)
    digits = load_dataset("digits").train
    images, labels = (digits.images[:size].flatten(1) / 255 - 0.3) / 0.35, digits.labels[:size]
    found = []
    for epoch in range(5):
        row = watcher.measure(epoch, [lr] * epoch).metrics
        found.append((row["rank/2"], row.get("rank_bound/2", math.nan)))
        for i in torch.randperm(size).tolist():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).backward()
            optimizer.step()
    ranks, claimed = zip(*found, strict=True)
    assert all(rank > 1 for rank in ranks)
    assert sum(math.isfinite(bound) for bound in claimed) >= 2
    assert not any(rank > bound for rank, bound in found)


# --- no claim --------------------------------------------------------------------------------

NO_CLAIM = [
    pytest.param({"weight_decay": 0.0}, 0.1, "weight_decay is 0", id="weight_decay=0"),
    pytest.param({"optimizer": "adam"}, 0.1, "optimizer=adam does not take", id="adam"),
    pytest.param({"optimizer": "adamw"}, 0.1, "optimizer=adamw does not take", id="adamw"),
    pytest.param({}, 20.0, r"lr·wd must be in \(0, 1\), got 1", id="lr·wd=1"),
    pytest.param({"momentum": 0.9}, 20.0, r"lr·wd must be in \(0, 1\), got 1", id="momentum"),
    pytest.param({"precision": "bf16"}, 0.1, "precision=bf16 rounds gradients", id="bf16"),
    pytest.param({}, 0.0, r"lr·wd must be in \(0, 1\), got 0", id="lr=0"),
]


@pytest.mark.parametrize(("changes", "rate", "reason"), NO_CLAIM)
def test_no_claim(changes, rate, reason):
    run = theory(**changes)
    assert bounds(run, [rate] * 1000, {"wide": [1.0] * 1001}) == {}
    (line,) = run.summary([rate] * 1000)
    assert line.startswith("rank bound: no claim, as ")
    assert re.search(reason, line)


def test_no_claim_before_the_window_is_over():
    window = memory_window(0.1 * 0.05, 1e-3, ratio=1)
    epochs = -(-window // 8)
    assert bounds(theory(), [], {"wide": [1.0]}) == {}
    assert bounds(theory(), [0.1] * (epochs - 1), {"wide": [1.0] * epochs}) == {}
    assert bounds(theory(), [0.1] * epochs, {"wide": [1.0] * (epochs + 1)}) != {}


def test_efolds_are_unknown_for_adam():
    assert math.isnan(theory(optimizer="adam").efolds([0.1]))


# --- the summary -----------------------------------------------------------------------------


def test_summary_of_layers_bounded_vacuous_and_unknown():
    run = theory(
        layer("first", (2000, 64), 1),
        layer("second", (2000, 2000), 1),
        layer("normed", (2000, 2000), None),
        batch_size=1, train_size=1440,
    )  # fmt: skip
    assert run.summary([0.01, 0.1]) == [
        "rank bound: vacuous for 1 of 3 layers at B=1, lr·wd=0.005",
        "memory window: 1,517 steps",
        "rank bound: second 1,517 of 2,000 once norms settle",
        "rank bound: no claim for 1 of 3 layers, parametrised or not applied",
        "forgetting e-folds over the run: 7.92",
    ]


def test_summary_names_momentum_and_a_run_too_short_to_forget():
    run = theory(layer("a", (10, 10), 1), momentum=0.9)
    assert run.summary([0.01] * 10) == [
        "rank bound: vacuous for 1 of 1 layers at B=4, lr·wd=0.0005, momentum=0.9",
        f"memory window: {memory_window(5e-4, 1e-3, momentum=0.9):,} steps",
        f"forgetting e-folds over the run: {80 * forgetting(5e-4, 0.9):.3g}, below 5: hardly a "
        "rank will fall",
    ]
    _, window, _ = run.summary([0.4])  # beyond (1 − √β)², where only √β is claimed
    assert window == (
        f"memory window: {memory_window(0.02, 1e-3, momentum=0.9)} steps, as with this momentum no "
        "step leaves less than 0.949"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory(batch_size=0), "batch_size must be 1 or more, got 0"),
        (lambda: theory(train_size=0), "train_size must be 1 or more, got 0"),
        (lambda: theory(weight_decay=-1), "weight_decay must be 0 or more, got -1"),
        (lambda: theory(momentum=1), r"momentum must be in \[0, 1\), got 1"),
        (lambda: theory(epsilon=0), r"epsilon must be in \(0, 1\), got 0"),
        (lambda: theory().summary([]), "one for each epoch, got none"),
        (lambda: bounds(theory(), [-1.0], {"wide": [1, 1]}), "rate must be 0 or more, got -1.0"),
        (lambda: bounds(theory(), [0.1], {"wide": [1]}), "one for each epoch 0 … 1, got 1 of them"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
