"""The claims of the theory, on networks that torch differentiates and trains, in float64.

Ranks are numpy's; the sums of the decomposition are added up from the gradients of real steps; the
windows are compared with products written out step by step.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank.data import Batches, load_dataset
from lowrank.measure.bounds import (
    effective_rate,
    exact_window,
    forgetting_efolds,
    gradient_rank_bound,
    memory_window,
    rank_bound,
    settled_window,
)
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.positions import output_positions
from lowrank.measure.ranks import rank
from lowrank.measure.spectra import singular_values

# --- gradients -------------------------------------------------------------------------------


class Attention(nn.MultiheadAttention):
    """Attention of 24 dimensions from 4 tokens to 6 others."""

    def __init__(self):
        super().__init__(24, 2, batch_first=True)

    def forward(self, x):
        return super().forward(x[:, :4], x[:, 4:], x[:, 4:].flip(1))[0]


class Recurrent(nn.LSTM):
    """An LSTM on batches first."""

    def __init__(self):
        super().__init__(20, 20, batch_first=True)

    def forward(self, x):
        return super().forward(x)[0]


# A layer, the shape of its input without the batch, and the rank of one sample's gradient where it
# is not its bound m·g: the keys of attention lose one, as a softmax ignores what is common to all;
# the state and memory of an LSTM, and so the gradient of its forget gate, are zero at first.
LAYERS = [
    pytest.param(lambda: nn.Linear(20, 30), (20,), {}, id="linear"),
    pytest.param(lambda: nn.Linear(20, 30), (3, 20), {}, id="linear per token"),
    pytest.param(lambda: nn.Conv2d(4, 30, 3), (4, 4, 5), {}, id="convolution"),
    pytest.param(lambda: nn.Conv2d(4, 30, 3, 2, 1), (4, 4, 5), {}, id="padding and stride"),
    pytest.param(lambda: nn.Conv2d(8, 32, 3, groups=2), (8, 4, 4), {}, id="grouped"),
    pytest.param(lambda: nn.Conv1d(4, 8, 3, groups=4), (4, 9), {}, id="depthwise: full rank"),
    pytest.param(lambda: nn.ConvTranspose2d(6, 40, 3), (6, 1, 2), {}, id="transposed"),
    pytest.param(
        lambda: nn.ConvTranspose2d(8, 40, 2, 2, groups=2), (8, 1, 2), {}, id="transposed, grouped"
    ),
    pytest.param(lambda: nn.Bilinear(5, 5, 30), (5,), {}, id="bilinear"),
    pytest.param(Attention, (10, 24), {"k": 5}, id="attention"),
    pytest.param(
        Recurrent, (5, 20),
        {f"weight_hh_l0_{gate}": 4 for gate in "ifgo"} | {"weight_ih_l0_f": 4}, id="lstm",
    ),
]  # fmt: skip


def gradients(layer, x, matrices):
    """Gradients of a loss that is not linear in what the layer gives, in the matrices' views."""
    layer.zero_grad()
    inputs = (x, torch.sin(3 * x)) if isinstance(layer, nn.Bilinear) else (x,)
    y = layer(*inputs).flatten(1)
    weights = torch.linspace(0.5, 2, y.shape[1], dtype=y.dtype)
    (torch.sin(y * weights + weights).sum(1) ** 2).mean().backward()
    with torch.no_grad():
        kept = [p.clone() for p in layer.parameters()]
        for p in layer.parameters():
            p.copy_(p.grad)  # so that the views are those of the gradient
        views = {m.name: m.view().clone().numpy() for m in matrices}
        for p, values in zip(layer.parameters(), kept, strict=True):
            p.copy_(values)
    return views


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize(("make", "shape", "exceptions"), LAYERS)
def test_gradient_rank(make, shape, exceptions, batch_size):
    torch.manual_seed(0)
    layer = make().double()
    matrices = weight_matrices(layer)
    x = torch.randn(batch_size, *shape, dtype=torch.float64)
    example = (x, x) if isinstance(layer, nn.Bilinear) else x
    applied = output_positions(layer, matrices, example)
    found = gradients(layer, x, matrices)
    for m in matrices:
        use = applied[m.name]
        bound = gradient_rank_bound(m.shape, use.positions, use.groups, batch_size)
        measured = np.linalg.matrix_rank(found[m.name])
        assert measured <= bound
        expected = min(exceptions.get(m.name, use.positions * use.groups) * batch_size, *m.shape)
        assert measured == expected, m.name


def test_gradient_rank_through_batch_norm_and_a_shared_weight():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh()
    ).double()
    model[3].weight = model[0].weight
    (matrix,) = weight_matrices(model)
    applied = output_positions(model, [matrix], torch.zeros(1, 20, dtype=torch.float64))["0"]
    for batch_size in (4, 8):
        x = torch.randn(batch_size, 20, dtype=torch.float64)
        measured = np.linalg.matrix_rank(gradients(model, x, [matrix])["0"])
        bound = gradient_rank_bound(matrix.shape, applied.positions, batch_size=batch_size)
        assert measured <= bound == 2 * batch_size
        assert measured > batch_size  # one use alone would not explain it


@given(
    st.integers(1, 50), st.integers(1, 50), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9)
)
def test_gradient_rank_bound_is_monotone_and_at_most_full(rows, columns, m, g, B):
    bound = gradient_rank_bound((rows, columns), m, g, B)
    assert 1 <= bound <= min(rows, columns)
    assert bound <= gradient_rank_bound((rows, columns), m + 1, g, B)
    assert bound <= gradient_rank_bound((rows, columns), m, g, B + 1)
    assert bound == gradient_rank_bound((columns, rows), m, g, B)


# --- the decomposition -----------------------------------------------------------------------


def test_decomposition_after_steps_of_a_changing_rate():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 30, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(120, 40),
        nn.ReLU(), nn.Linear(40, 5),
    ).double()  # fmt: skip
    decay, batch_size, steps = 0.1, 2, 12
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=decay, fused=True)
    matrices = weight_matrices(model)
    first = {m.name: m.view().clone() for m in matrices}
    sums = {m.name: torch.zeros_like(m.view()) for m in matrices}
    left = 1.0
    for t in range(steps):
        rate = 0.5 / (1 + t)
        optimizer.param_groups[0]["lr"] = rate
        x = torch.randn(batch_size, 2, 4, 4, dtype=torch.float64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.randint(5, (batch_size,))).backward()
        for m in matrices:
            gradient = model.get_parameter(m.path).grad.flatten(1)
            sums[m.name] = (1 - rate * decay) * sums[m.name] + rate * gradient
        left *= 1 - rate * decay
        optimizer.step()
    for m in matrices:
        expected = left * first[m.name] - sums[m.name]
        assert torch.linalg.norm(m.view() - expected) <= 1e-14 * torch.linalg.norm(expected)
    applied = output_positions(model, matrices, torch.zeros(1, 2, 4, 4, dtype=torch.float64))
    for m in matrices:  # the sum has the rank that the bound counts
        learned = np.linalg.matrix_rank((m.view() - left * first[m.name]).numpy(), tol=1e-12)
        bound = rank_bound(m.shape, applied[m.name].positions, batch_size * steps)
        assert learned <= (bound or min(m.shape))
    assert rank_bound(matrices[1].shape, 1, batch_size * steps) == 24  # of 40: says something


# --- windows and bounds ----------------------------------------------------------------------


@given(st.floats(1e-5, 0.9), st.floats(1e-6, 0.9), st.floats(1, 1e3))
def test_memory_window_is_the_least_that_forgets(decay, epsilon, ratio):
    n = memory_window(decay, epsilon, ratio)
    slack = 1 + 1e-9
    assert n >= 1
    assert (1 - decay) ** n * ratio <= epsilon * slack
    assert (1 - decay) ** (n - 1) * ratio * slack > epsilon


def test_memory_window_is_monotone_and_near_its_approximation():
    assert memory_window(1e-3, 1e-3) > memory_window(2e-3, 1e-3) > memory_window(2e-3, 1e-2)
    assert memory_window(1e-3, 1e-3, ratio=4) > memory_window(1e-3, 1e-3)
    for decay in (1e-6, 1e-5, 1e-4):
        assert memory_window(decay, 1e-3) == pytest.approx(math.log(2000) / decay, rel=1e-3)


@pytest.mark.parametrize(
    ("lr", "weight_decay", "batch_size", "width", "bound"),
    [
        (0.1, 0.05, 1, 2000, 1517),  # paper.md's example
        (0.1, 0.05, 1, 1517, None),
        (0.1, 0.05, 1, 1518, 1517),
        (0.1, 5e-4, 16, 5000, None),
    ],
)
def test_rank_bound_at_a_constant_rate(lr, weight_decay, batch_size, width, bound):
    examples = batch_size * memory_window(lr * weight_decay, 1e-3)
    assert rank_bound((width, width), 1, examples) == bound


def test_rank_bound_counts_positions_and_groups():
    assert rank_bound((500, 1000), positions=4, examples=10, groups=3) == 120
    assert rank_bound((500, 1000), positions=4, examples=125) is None  # the full rank


def test_effective_rate_and_efolds():
    assert effective_rate(0.3) == 0.3
    assert effective_rate(0.1, 0.5) == 0.2
    assert forgetting_efolds([], 10, 0.1) == 0
    assert forgetting_efolds([0.1, 0.2], 10, 0.5) == pytest.approx(1.5)
    assert forgetting_efolds([0.1, 0.2], 10, 0) == 0


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
    epsilon = data.draw(st.floats(1e-3, 0.9))
    left = products(decays, steps)
    exact = [
        k for k in range(1, epochs + 1) if left[k * steps] * norms[-1 - k] <= epsilon * norms[-1]
    ]
    assert exact_window(decays, norms, steps, epsilon) == (exact[0] if exact else None)

    n = next((n for n, p in enumerate(left) if p <= epsilon / 2), None)
    expected = None
    if n is not None:
        epoch = epochs - -(-n // steps)  # the step is after this one and before the end of the next
        earlier = [x for x in norms[: epoch + 1] if not math.isnan(x)]
        later = [x for x in norms[epoch + 1 :] if not math.isnan(x)]
        if earlier and max(earlier[-1], later[0] if later else math.nan) <= 2 * norms[-1]:
            expected = n
    assert settled_window(decays, norms, steps, epsilon) == expected


@pytest.mark.parametrize("last", [0.0, math.nan, math.inf], ids=str)
@pytest.mark.parametrize("window", [exact_window, settled_window])
def test_no_window_without_a_present_norm(window, last):
    assert window([0.5] * 4, [1, 1, 1, 1, last], 10, 1e-3) is None


def test_windows_shrink_with_decay_and_epsilon():
    norms = [1.0] * 41
    for window in (exact_window, settled_window):
        weak, strong, coarse = (
            window([decay] * 40, norms, 10, epsilon)
            for decay, epsilon in [(0.02, 1e-3), (0.05, 1e-3), (0.05, 1e-2)]
        )
        assert weak > strong > coarse
    assert settled_window([0.02] * 40, norms, 10, 1e-3) == memory_window(0.02, 1e-3)
    assert exact_window([0.02] * 40, norms, 10, 1e-3) == -(
        -memory_window(0.02, 1e-3, ratio=1) // 10
    )


def simulated(seed, batch_size, norm, epsilon):
    """Bounds and measured ranks after each epoch of steps with random low-rank gradients.

    Rates and sizes of gradients change by an order of magnitude, so norms grow and fall at will.
    """
    rng = np.random.default_rng(seed)
    size, steps, epochs, m = 60, 4, 8, int(rng.integers(1, 3))
    order = 2 if norm == "spectral" else "fro"
    W = rng.normal(size=(size, size)) * 10 ** rng.uniform(-2, 2)
    decays, norms, found = [], [np.linalg.norm(W, order)], []
    for _ in range(epochs):
        rate = rng.uniform(0.1, 1)
        decays.append(rate * 0.6)
        for _ in range(steps):
            columns, rows = rng.normal(size=(2, m * batch_size, size))
            W = (1 - rate * 0.6) * W - rate * 10 ** rng.uniform(-1, 1) * columns.T @ rows
        norms.append(np.linalg.norm(W, order))
        k = exact_window(decays, norms, steps, epsilon)
        bound = k and rank_bound((size, size), m, k * steps * batch_size)
        if bound:
            found.append((rank(np.linalg.svd(W, compute_uv=False), epsilon, norm), bound))
    return found


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from(["frobenius", "spectral"]),
    st.floats(1e-3, 0.9),
)
def test_measured_rank_never_exceeds_the_exact_bound(seed, batch_size, norm, epsilon):
    for measured, bound in simulated(seed, batch_size, norm, epsilon):
        assert measured <= bound


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_the_exact_bound_is_claimed_often_and_nearly_reached(norm):
    found = [pair for seed in range(20) for pair in simulated(seed, 1, norm, 0.05)]
    assert len(found) >= 50
    assert max(measured / bound for measured, bound in found) >= 0.75


# --- the non-vacuous setting -----------------------------------------------------------------


@pytest.mark.slow
def test_a_network_obeys_the_bound_where_it_is_not_vacuous():
    """MLP-2-2000 without BatchNorm on the digits, B 1, lr 0.1, wd 0.05: 1,517 < 2,000."""
    torch.manual_seed(0)
    lr, decay, epsilon, epochs = 0.1, 0.05, 1e-3, 3
    digits = load_dataset("digits")
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(),
        nn.Linear(2000, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay, fused=True)
    batches = Batches(digits.train, mean=digits.mean, std=digits.std, batch_size=1)
    matrix = weight_matrices(model)[1]
    n = memory_window(lr * decay, epsilon)
    norms, W_then, step = [float(matrix.view().norm())], torch.empty(0), 0
    for _ in range(epochs):
        for image, label in batches.epoch(batches.draw_order()):
            if step == epochs * len(batches) - n:
                W_then = matrix.view().clone()
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(image), label).backward()
            optimizer.step()
            step += 1
        norms.append(float(matrix.view().norm()))
    W = matrix.view().double()
    spectrum, of_sum = singular_values([W, W - (1 - lr * decay) ** n * W_then], epsilons=[epsilon])
    measured = rank(spectrum, epsilon)

    # The premise: norms have settled. The distance of W/‖W‖ from a matrix of rank n is below ε.
    assert W_then.norm() <= 2 * W.norm()
    assert (1 - lr * decay) ** n * W_then.norm() / W.norm() <= epsilon
    assert np.linalg.norm(of_sum[n:]) < 1e-5 * np.linalg.norm(spectrum)  # rank n but for float32
    # The consequence, in both forms.
    assert (n, settled_window([lr * decay] * epochs, norms, len(batches), epsilon)) == (1517, 1517)
    assert 1 < measured <= rank_bound(matrix.shape, 1, n)
    k = exact_window([lr * decay] * epochs, norms, len(batches), epsilon)
    assert measured <= rank_bound(matrix.shape, 1, k * len(digits.train))
    print(f"measured {measured:.0f}, settled {n}, exact {k} epochs, norms {norms}")


# --- bad arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_rank_bound((2, 3), 0), "positions must be 1 or more, got 0"),
        (lambda: gradient_rank_bound((0, 3), 1), "rows must be 1 or more, got 0"),
        (lambda: gradient_rank_bound((2, 3), 1, batch_size=-1), "batch_size must be 1 or more"),
        (lambda: rank_bound((2, 3), 1, 0), "examples must be 1 or more, got 0"),
        (lambda: memory_window(0.0, 1e-3), r"decay must be in \(0, 1\), got 0.0"),
        (lambda: memory_window(1.0, 1e-3), r"decay must be in \(0, 1\), got 1.0"),
        (lambda: memory_window(math.nan, 1e-3), "got nan"),
        (lambda: memory_window(0.1, 1.0), r"epsilon must be in \(0, 1\), got 1.0"),
        (lambda: memory_window(0.1, 1e-3, 0.5), "ratio must be 1 or more, got 0.5"),
        (lambda: effective_rate(-0.1), "rate must be 0 or more, got -0.1"),
        (lambda: effective_rate(0.1, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: forgetting_efolds([0.1], 1, -1), "weight_decay must be 0 or more, got -1"),
        (lambda: forgetting_efolds([0.1], 0, 0.1), "steps must be 1 or more, got 0"),
        (lambda: exact_window([1.5], [1, 1], 1, 0.1), r"decays must be in \[0, 1\), got 1.5"),
        (lambda: settled_window([0.5], [1], 1, 0.1), "one for each epoch 0 … 1, got 1 of them"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
