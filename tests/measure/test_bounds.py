"""The claims of the theory, on networks that torch differentiates and trains, in float64.

Ranks are numpy's; the sums of the decomposition are added up from the gradients of real steps; the
window with momentum is compared with the recursion run step by step.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowrank.measure.bounds import (
    forgetting,
    forgetting_efolds,
    gradient_rank_bound,
    memory_window,
    rank_bound,
)
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.positions import output_positions

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


def test_gradients_in_bf16_have_more_than_the_bound():
    """Why nothing is claimed then: each entry of the gradient is rounded by itself."""
    torch.manual_seed(0)
    layer = nn.Linear(60, 40)
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.sin(layer(torch.randn(1, 60))).sum()
    loss.backward()
    assert gradient_rank_bound((40, 60), positions=1) == 1
    assert np.linalg.matrix_rank(layer.weight.grad.numpy(), tol=1e-4) > 20


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


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_forgetting_is_what_the_slowest_mode_of_the_step_loses(decay, momentum):
    step = np.array([[1 - decay, -momentum * decay], [1, momentum]])  # of W and b/wd
    left = np.abs(np.linalg.eigvals(step)).max()
    assert forgetting(decay, momentum) == pytest.approx(1 - left, abs=1e-7)  # double roots: √1e-16


def test_forgetting_of_small_and_large_rates():
    assert forgetting(0.3) == pytest.approx(0.3, rel=1e-15)
    assert forgetting(1e-12, 0.9) == pytest.approx(1e-11, rel=1e-9)
    edge = (1 - math.sqrt(0.9)) ** 2
    assert forgetting(edge * (1 + 1e-9), 0.9) == forgetting(0.5, 0.9) == 1 - math.sqrt(0.9)
    assert forgetting(edge * (1 - 1e-9), 0.9) == pytest.approx(1 - math.sqrt(0.9), rel=1e-3)
    # The share by which μ/(1−β) overstates it: a window four times too short.
    assert -math.log1p(-0.02 / 0.1) / -math.log1p(-forgetting(0.02, 0.9)) == pytest.approx(
        4.2, abs=0.05
    )


def test_efolds():
    assert forgetting_efolds([], 10, 0.1) == 0
    assert forgetting_efolds([0.1, 0.2], 10, 0.5) == pytest.approx(1.5)
    assert forgetting_efolds([0.1, 0.2], 10, 0) == 0
    assert forgetting_efolds([1e-6] * 3, 10, 0.5, momentum=0.9) == pytest.approx(1.5e-4, rel=1e-4)
    assert forgetting_efolds([0.5], 10, 0.5, 0.9) == pytest.approx(10 * (1 - math.sqrt(0.9)))


def left_by_steps(steps, decay, momentum):
    """The least |c| + |c'| of equation (3), from the recursion run forward step by step.

    From (W, b) = (1, 0) and (0, 1) at step r follow W at each later step, hence the numbers with
    which W_T is made of W_s and W_r.
    """
    runs = []
    for w, b in ((1.0, 0.0), (0.0, 1.0)):
        weights = [w]
        for _ in range(steps):
            b = momentum * b + decay * w  # in units of wd/μ
            w -= b
            weights.append(w)
        runs.append(np.array(weights))
    of_w, of_b = runs
    with np.errstate(divide="ignore", invalid="ignore"):
        c = of_b[-1] / of_b[1:-1]
        return np.nanmin(np.abs(c) + np.abs(of_w[-1] - c * of_w[1:-1]))


@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("decay", [5e-4, 2e-3, 0.0026, 0.01, 0.0858, 0.3])
def test_memory_window_with_momentum_against_the_recursion_step_by_step(decay, momentum):
    n = memory_window(decay, 1e-3, momentum=momentum)
    assert 2 * left_by_steps(n + 1, decay, momentum) <= 1e-3 * (1 + 1e-9)
    # It is the least but for the splits that are not tried, and envelopes of what oscillates.
    least = math.log(2000) / -math.log1p(-forgetting(decay, momentum))
    slack = 1.1 if decay < 0.9 * (1 - math.sqrt(momentum)) ** 2 else 2.1
    assert least * 0.98 <= n <= slack * least + 2 / (1 - momentum)


def test_memory_window_goes_over_into_that_without_momentum():
    for decay in (1e-4, 5e-3, 0.2):
        assert abs(memory_window(decay, 1e-3, momentum=1e-9) - memory_window(decay, 1e-3)) <= 1


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
        (lambda: memory_window(0.1, 1e-3, 1e-3), "ratio must be above epsilon, got 0.001"),
        (lambda: memory_window(0.1, 1e-3, 2, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: forgetting(1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: forgetting(0.1, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: forgetting_efolds([-0.1], 1, 0.1), "rate must be 0 or more, got -0.1"),
        (lambda: forgetting_efolds([0.1], 1, -1), "weight_decay must be 0 or more, got -1"),
        (lambda: forgetting_efolds([0.1], 0, 0.1), "steps must be 1 or more, got 0"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
