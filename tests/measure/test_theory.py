"""The bounds of a run against batch sizes listed step by step, and when nothing is claimed."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.measure.bounds import exact_window, memory_window, settled_window
from lowrank.measure.theory import Theory, TheoryLayer

WIDE = TheoryLayer("wide", (10**7, 10**7), positions=1)  # its bound is the number of examples
RUN = {
    "optimizer": "sgd", "weight_decay": 0.05, "batch_size": 4, "train_size": 30, "epsilon": 1e-3,
}  # fmt: skip


def theory(*layers, **changes):
    return Theory(layers or [WIDE], **(RUN | changes))


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
    assert run.bounds(rates, {"wide": norms}) == ({"wide": min(expected)} if expected else {})


def test_each_layer_has_its_own_bound():
    layers = [
        TheoryLayer("linear", (50_000, 70_000), positions=1),
        TheoryLayer("convolution", (50_000, 70_000), positions=3, groups=2),
        TheoryLayer("small", (50_000, 100), positions=1),
        TheoryLayer("grown", (50_000, 70_000), positions=1),
        TheoryLayer("shrunk", (50_000, 70_000), positions=1),
        TheoryLayer("parametrised", (50_000, 70_000), positions=None),
    ]
    run = theory(*layers, batch_size=1, train_size=100)
    flat = [1.0] * 31
    norms = {layer.name: flat for layer in layers}
    norms |= {"grown": [1.0] * 30 + [3.0], "shrunk": [1.0] * 30 + [1e-5]}
    # log(1000)/0.0050125 = 1,378 steps; 1,517 with norms settled only; log(1000/3)/… = 1,159
    assert run.bounds([0.1] * 30, norms) == {"linear": 1400, "convolution": 8400, "grown": 1200}


def test_an_epoch_not_measured_is_passed_over():
    rates, norms = [1.0] * 8, [1.0] * 9
    run = theory(weight_decay=0.5, train_size=40)
    assert run.bounds(rates, {"wide": norms}) == {"wide": 40}
    norms[7] = math.nan
    assert run.bounds(rates, {"wide": norms}) == {"wide": 44}  # 11 steps, and no longer 1 epoch


def test_momentum_stands_for_a_larger_rate():
    norms = {"wide": [1.0] * 201}
    with_momentum = theory(momentum=0.9)
    assert with_momentum.bounds([0.01] * 200, norms) == theory().bounds([0.1] * 200, norms) != {}
    assert with_momentum.efolds([0.01] * 100) == pytest.approx(theory().efolds([0.1] * 100))
    assert theory().efolds([0.1] * 100) == pytest.approx(100 * 8 * 0.1 * 0.05)


# --- no claim --------------------------------------------------------------------------------

NO_CLAIM = [
    pytest.param({"weight_decay": 0.0}, 0.1, "weight_decay is 0", id="weight_decay=0"),
    pytest.param({"optimizer": "adam"}, 0.1, "optimizer=adam does not take", id="adam"),
    pytest.param({"optimizer": "adamw"}, 0.1, "optimizer=adamw does not take", id="adamw"),
    pytest.param({}, 20.0, r"lr·wd must be in \(0, 1\), got 1", id="lr·wd=1"),
    pytest.param({"momentum": 0.9}, 2.5, r"lr·wd must be in \(0, 1\), got 1.25", id="momentum"),
    pytest.param({}, 0.0, r"lr·wd must be in \(0, 1\), got 0", id="lr=0"),
]


@pytest.mark.parametrize(("changes", "rate", "reason"), NO_CLAIM)
def test_no_claim(changes, rate, reason):
    run = theory(**changes)
    assert run.bounds([rate] * 1000, {"wide": [1.0] * 1001}) == {}
    (line,) = run.summary([rate] * 1000)
    assert line.startswith("rank bound: no claim, as ")
    assert re.search(reason, line)


def test_no_claim_before_the_window_is_over():
    window = memory_window(0.1 * 0.05, 1e-3, ratio=1)
    epochs = -(-window // 8)
    assert theory().bounds([], {"wide": [1.0]}) == {}
    assert theory().bounds([0.1] * (epochs - 1), {"wide": [1.0] * epochs}) == {}
    assert theory().bounds([0.1] * epochs, {"wide": [1.0] * (epochs + 1)}) != {}


def test_efolds_are_unknown_for_adam():
    assert math.isnan(theory(optimizer="adam").efolds([0.1]))


# --- the summary -----------------------------------------------------------------------------


def test_summary_of_layers_bounded_vacuous_and_unknown():
    run = theory(
        TheoryLayer("first", (2000, 64), 1),
        TheoryLayer("second", (2000, 2000), 1),
        TheoryLayer("normed", (2000, 2000), None),
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
    first, _, last = theory(TheoryLayer("a", (10, 10), 1), momentum=0.9).summary([0.01] * 10)
    assert first.endswith("at B=4, lr·wd/(1−0.9)=0.005")
    assert last == "forgetting e-folds over the run: 0.4, below 5: hardly a rank will fall"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory(batch_size=0), "batch_size must be 1 or more, got 0"),
        (lambda: theory(train_size=0), "train_size must be 1 or more, got 0"),
        (lambda: theory(weight_decay=-1), "weight_decay must be 0 or more, got -1"),
        (lambda: theory(momentum=1), r"momentum must be in \[0, 1\), got 1"),
        (lambda: theory(epsilon=0), r"epsilon must be in \(0, 1\), got 0"),
        (lambda: theory().summary([]), "one for each epoch, got none"),
        (lambda: theory().bounds([-1.0], {"wide": [1, 1]}), "rate must be 0 or more, got -1.0"),
        (lambda: theory().bounds([0.1], {"wide": [1]}), "one for each epoch 0 … 1, got 1 of them"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
