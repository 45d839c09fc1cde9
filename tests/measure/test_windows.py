"""Windows of recorded runs against products and recursions written out step by step, and ranks.

The recursion is torch's: a buffer b that does not know the rate. Ranks are numpy's, of matrices and
networks trained with gradients of low rank; whatever the rates and norms were, none exceeds its
bound.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank.data import Batches, load_dataset
from lowrank.measure.bounds import memory_window, rank_bound
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.ranks import rank
from lowrank.measure.spectra import singular_values
from lowrank.measure.windows import exact_window, settled_window


def products(decays, steps):
    """Products of the last 0, 1, 2, … factors, step by step."""
    left = [1.0]
    for decay in reversed([d for d in decays for _ in range(steps)]):
        left.append(left[-1] * (1 - decay))
    return left


@given(st.data())
def test_windows_against_products_step_by_step(data):
    epochs, steps = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 7))
    decays = data.draw(st.lists(st.floats(0, 0.9), min_size=epochs, max_size=epochs))
    size = st.one_of(st.just(math.nan), st.floats(0.1, 10))
    norms = data.draw(st.lists(size, min_size=epochs + 1, max_size=epochs + 1))
    epsilon, now = data.draw(st.floats(1e-3, 0.9)), data.draw(st.floats(0.1, 10))
    left = products(decays, steps)
    exact = [k for k in range(1, epochs + 1) if left[k * steps] * norms[-1 - k] <= epsilon * now]
    assert exact_window(decays, norms, steps, epsilon, size=now) == (exact[0] if exact else None)

    def cap(n):
        epoch = epochs - -(-n // steps)  # the step is after this one and before the end of the next
        earlier = [x for x in norms[: epoch + 1] if not math.isnan(x)][-1:]
        later = [x for x in norms[epoch + 1 :] if not math.isnan(x)][:1]
        return 2 * max(earlier[0], later[0]) if earlier and later else math.nan

    settled = [n for n in range(1, len(left)) if left[n] * cap(n) <= epsilon * now]
    found = settled_window(decays, norms, steps, epsilon, size=now)
    assert found == (settled[0] if settled else None)


def split(decays, momentum, r, s):
    """The numbers c and c' with which W_T is made of W_s and W_r, from the recursion run forward.

    From (W, b) = (1, 0) and (0, 1) at step r. Third, that of W_r alone where b is empty or of no
    account.
    """
    at_s, at_end = [], []
    for w, b in ((1.0, 0.0), (0.0, 1.0)):
        for step, decay in enumerate(decays[r:], r):
            if step == s:
                at_s.append(w)
            b = momentum * b + w  # in units of wd
            w -= decay * b
        at_end.append(w)
        at_s += [w] if s == len(decays) else []
    alone = math.nan if r and at_end[1] else at_end[0]
    c = at_end[1] / at_s[1] if at_s[1] else math.nan
    return abs(c), abs(at_end[0] - c * at_s[0]), abs(alone)


@settings(deadline=None)
@given(st.data())
def test_windows_with_momentum_against_the_recursion_step_by_step(data):
    epochs, steps = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    momentum = data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    rate = st.sampled_from([0.0, 1e-3, 0.02, 0.3, 0.9])
    decays = data.draw(st.lists(rate, min_size=epochs, max_size=epochs))
    size = st.one_of(st.just(math.nan), st.floats(0.1, 10))
    norms = [*data.draw(st.lists(size, min_size=epochs, max_size=epochs)), 1.0]
    epsilon = data.draw(st.floats(0.05, 0.9))
    every = [d for d in decays for _ in range(steps)]
    measured = [e for e in range(epochs + 1) if not math.isnan(norms[e])]

    def exact(k):
        r = epochs - k
        if r not in measured:
            return math.inf
        left = [math.inf]
        for s in (e for e in measured if e > r):
            of_s, of_r, alone = split(every, momentum, r * steps, s * steps)
            left += [of_s * norms[s] + of_r * norms[r], alone * norms[r]]
        return np.nanmin(left)

    slack = 1e-9
    found = exact_window(decays, norms, steps, epsilon, momentum=momentum)
    if found is not None:
        assert exact(found) <= epsilon * (1 + slack)
    for k in range(1, found or epochs + 1):
        assert exact(k) > epsilon * (1 - slack)

    def cap(n):
        epoch = epochs - -(-n // steps)
        earlier = [norms[e] for e in measured if e <= epoch][-1:]
        later = [norms[e] for e in measured if e > epoch][:1]
        return 2 * max(earlier[0], later[0]) if earlier and later else math.nan

    n = settled_window(decays, norms, steps, epsilon, momentum=momentum)
    if n is not None:
        total, left = epochs * steps, []
        r = total - n - 1
        for s in range(r + 1, total):
            of_s, of_r, _ = split(every, momentum, r, s)
            left.append(of_s * cap(total - s) + of_r * cap(total - r))
        assert np.nanmin(left) <= epsilon * (1 + slack)


def test_at_a_constant_rate_the_settled_window_is_the_memory_window():
    for decay, momentum in [(0.02, 0.0), (0.02, 0.5), (1e-3, 0.9), (2e-3, 0.9)]:
        for size, ratio in [(1.0, 2), (4.0, 0.5)]:
            found = settled_window([decay] * 40, [1.0] * 41, 40, 1e-3, size=size, momentum=momentum)
            assert found == memory_window(decay, 1e-3, ratio, momentum)
    # Complex roots: what oscillates may be smaller than its envelope, and never is larger.
    found = settled_window([0.02] * 40, [1.0] * 41, 10, 1e-3, momentum=0.9)
    assert 140 < found <= memory_window(0.02, 1e-3, momentum=0.9) < 170


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("window", [exact_window, settled_window])
def test_no_window_without_a_present_norm(window, momentum):
    for last in (0.0, math.nan, math.inf):
        assert window([0.5] * 4, [1, 1, 1, 1, last], 10, 1e-3, momentum=momentum) is None
        assert window([0.5] * 4, [1] * 5, 10, 1e-3, momentum=momentum, size=last) is None
    assert window([], [1.0], 10, 1e-3, momentum=momentum) is None


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_windows_shrink_with_decay_epsilon_and_the_spectral_norm_of_the_past(momentum):
    norms = [1.0] * 41
    for window in (exact_window, settled_window):
        weak, strong, coarse, flat = (
            window([decay] * 40, norms, 10, epsilon, size=size, momentum=momentum)
            for decay, epsilon, size in [
                (0.02, 1e-3, 1), (0.05, 1e-3, 1), (0.05, 1e-2, 1), (0.05, 1e-3, 5)
            ]
        )  # fmt: skip
        assert weak > strong > max(coarse, flat)
    exact = exact_window([0.02] * 40, norms, 10, 1e-3)
    assert exact == -(-memory_window(0.02, 1e-3, ratio=1) // 10)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_no_longer_window_is_looked_for_than_is_asked_for(momentum):
    for window in (exact_window, settled_window):
        run = ([0.05] * 40, [1.0] * 41, 10, 1e-3)
        found = window(*run, momentum=momentum)
        assert window(*run, momentum=momentum, most=found) == found
        assert window(*run, momentum=momentum, most=found - 2) is None


# --- measured ranks --------------------------------------------------------------------------


def simulated(seed, batch_size, norm, epsilon, momentum=0.0):
    """Bounds and measured ranks after each epoch of steps with random low-rank gradients.

    Rates and sizes of gradients change by an order of magnitude, so norms grow and fall at will.
    Yields those of the exact window, and of the settled one where its assumption is true.
    """
    rng = np.random.default_rng(seed)
    size, steps, epochs, m = 60, 4, 8, int(rng.integers(1, 3))
    order = 2 if norm == "spectral" else "fro"
    W, b = rng.normal(size=(size, size)) * 10 ** rng.uniform(-2, 2), np.zeros((size, size))
    decays, every, found = [], [np.linalg.norm(W, 2)], []
    for _ in range(epochs):
        rate = rng.uniform(0.1, 1)
        decays.append(rate * 0.6)
        for _ in range(steps):
            columns, rows = rng.normal(size=(2, m * batch_size, size))
            b = momentum * b + 0.6 * W + 10 ** rng.uniform(-1, 1) * columns.T @ rows
            W = W - rate * b
            every.append(np.linalg.norm(W, 2))
        norms = every[::steps]
        caps = [2 * max(pair) for pair in itertools.pairwise(norms) for _ in range(steps)]
        is_settled = all(each <= cap for each, cap in zip(every[1:], caps, strict=True))
        run = (decays, norms, steps, epsilon)
        how = {"size": np.linalg.norm(W, order), "momentum": momentum}
        k, n = exact_window(*run, **how), settled_window(*run, **how)
        for window in (k and k * steps, n if is_settled else None):
            bound = window and rank_bound((size, size), m, window * batch_size)
            if bound:
                found.append((rank(np.linalg.svd(W, compute_uv=False), epsilon, norm), bound))
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from(["frobenius", "spectral"]),
    st.floats(1e-3, 0.9),
    st.sampled_from([0.0, 0.3, 0.8]),
)
def test_measured_rank_never_exceeds_the_bound(seed, batch_size, norm, epsilon, momentum):
    for measured, bound in simulated(seed, batch_size, norm, epsilon, momentum):
        assert measured <= bound


@pytest.mark.parametrize("momentum", [0.0, 0.3])
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_the_bound_is_claimed_often_and_nearly_reached(norm, momentum):
    found = [pair for seed in range(12) for pair in simulated(seed, 1, norm, 0.05, momentum)]
    assert len(found) >= 50
    assert max(measured / bound for measured, bound in found) >= 0.7


def test_the_usual_rate_of_momentum_would_claim_a_rank_that_is_exceeded():
    """β = 0.9, x = 0.02: μ/(1−β) stands for 34 steps, after which all 100 directions are there."""
    size, decay, momentum, epsilon = 100, 0.02, 0.9, 1e-3
    usual = memory_window(decay / (1 - momentum), epsilon)
    W, b = np.eye(size) / 10, np.zeros((size, size))  # of Frobenius norm 1
    for _ in range(usual):
        b = momentum * b + decay * W
        b[0, 0] -= 0.1 * (1 - np.linalg.norm(W) + decay)  # a gradient of rank 1 keeps the norm up
        W = W - b
    assert np.linalg.norm(W) > 0.5  # norms have settled
    measured = rank(np.linalg.svd(W, compute_uv=False), epsilon)
    assert measured == size > rank_bound((size, size), 1, usual)
    assert memory_window(decay, epsilon, momentum=momentum) > size


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_network_obeys_the_bound_where_it_is_not_vacuous(momentum):
    """MLP-2-2000 without BatchNorm on the digits, B 1, lr 0.1 (0.01 with momentum), wd 0.05."""
    torch.manual_seed(0)
    lr, wd, epsilon, epochs = 0.1 * (1 - momentum), 0.05, 1e-3, 3
    digits = load_dataset("digits")
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(),
        nn.Linear(2000, 10),
    )  # fmt: skip
    options = {"momentum": momentum, "weight_decay": wd}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, fused=True, **options)
    batches = Batches(digits.train, mean=digits.mean, std=digits.std, batch_size=1)
    matrix = weight_matrices(model)[1]
    n = memory_window(lr * wd, epsilon, momentum=momentum)
    norms, step, then = [float(torch.linalg.matrix_norm(matrix.view(), 2))], 0, None
    for _ in range(epochs):
        for image, label in batches.epoch(batches.draw_order()):
            if step == epochs * len(batches) - n:
                then = matrix.view().norm()
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(image), label).backward()
            optimizer.step()
            step += 1
        norms.append(float(torch.linalg.matrix_norm(matrix.view(), 2)))
    (spectrum,) = singular_values([matrix.view()], epsilons=[epsilon])
    size, measured = float(np.linalg.norm(spectrum)), rank(spectrum, epsilon)
    assert then <= 2 * size  # norms have settled
    assert 1 < measured <= rank_bound(matrix.shape, 1, n)
    run = ([lr * wd] * epochs, norms, len(batches), epsilon)
    settled = settled_window(*run, size=size, momentum=momentum)
    assert measured <= rank_bound(matrix.shape, 1, settled) < n
    k = exact_window(*run, size=size, momentum=momentum)
    assert measured <= min(k * len(digits.train), 2000)
    print(f"measured {measured:.0f}, memory {n}, settled {settled}, exact {k} epochs, {norms}")


# --- bad arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_window([1.5], [1, 1], 1, 0.1), r"decays must be in \[0, 1\), got 1.5"),
        (lambda: settled_window([0.5], [1], 1, 0.1), "one for each epoch 0 … 1, got 1 of them"),
        (lambda: settled_window([0.5], [1, 1], 0, 0.1), "steps must be 1 or more, got 0"),
        (lambda: exact_window([0.5], [1, 1], 1, 1.0), r"epsilon must be in \(0, 1\), got 1.0"),
        (lambda: exact_window([0.5], [1, 1], 1, 0.1, momentum=1.0), r"momentum must be in \[0, 1"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
