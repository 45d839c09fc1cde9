"""Spectra against `torch.linalg.svdvals` in float64, which defines them, and against closed forms.

Matrices with given singular values are built as U·diag(s)·Vᵀ. The convolution as an operator is
checked against the explicit matrix, got by applying torch's convolution to unit images.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # not in __all__

from lowrank.measure import spectra
from lowrank.measure.ranks import rank
from lowrank.measure.spectra import (
    SMALL,
    convolution_singular_values,
    error_bound,
    gram_error,
    singular_values,
)

EPSILONS = (1e-3, 1e-2, 0.05)


def orthonormal(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q


def with_spectrum(s, rows, columns, seed=0):
    s = torch.as_tensor(s, dtype=torch.float64)
    return (orthonormal(rows, len(s), seed) * s) @ orthonormal(columns, len(s), seed + 1).T


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def svd(matrix):
    return torch.linalg.svdvals(matrix.double()).numpy()


SAMPLES = {
    "square": gaussian(60, 60),
    "wide": gaussian(20, 700),
    "tall": gaussian(700, 20),
    "row": gaussian(1, 50),
    "column": gaussian(50, 1),
    "number": gaussian(1, 1),
    "transposed-view": gaussian(30, 40).T,
    "strided-view": gaussian(60, 80)[::2, ::3],
    "float32": gaussian(40, 90).float(),
    "float16": gaussian(40, 90).half(),
    "bfloat16": gaussian(40, 90).bfloat16(),
    "requires-grad": gaussian(5, 7).requires_grad_(),
    "rank-one": torch.ones(30, 50) / 7,
    "identity": torch.eye(25),
    "zero-rows": torch.cat([torch.zeros(5, 30), gaussian(20, 30).float()]),
    "graded": with_spectrum(np.logspace(0, -12, 40), 50, 90),
    "just-above-SMALL": with_spectrum([1.0] + [1.5 * SMALL] * 20, 30, 60),
    "hilbert": 1 / (torch.arange(12.0, dtype=torch.float64)[:, None] + torch.arange(1.0, 13)),
    "constant-sign": torch.full((64, 3000), 0.1, dtype=torch.float64) + 1e-5 * gaussian(64, 3000),
}


@pytest.mark.parametrize("matrix", SAMPLES.values(), ids=SAMPLES.keys())
def test_equals_a_float64_svd_within_the_stated_bound(matrix):
    (found,) = singular_values([matrix])
    true = svd(matrix.detach())
    assert found.dtype == np.float64
    assert found.shape == (min(matrix.shape),)
    assert (np.diff(found) <= 0).all()
    assert (np.abs(found - true) <= error_bound(found, *matrix.shape)).all()
    # What the bound allows only in the worst case: 12 digits of σ_1, all digits of none lost.
    assert np.abs(found - true)[0] <= 1e-12 * true[0]
    large = true > SMALL * np.linalg.norm(true)
    np.testing.assert_allclose(found[large], true[large], rtol=0.03)
    np.testing.assert_allclose(found[~large], true[~large], atol=1e-14 * true[0])


def test_the_bound_is_that_of_the_gram_matrix_and_small_values_need_the_svd():
    s = np.array([1.0, 1e-3, 1e-6, 1e-9])
    matrix = with_spectrum(s, 80, 100)
    gram = torch.linalg.eigvalsh(matrix.T @ matrix).flip(0)[:4].clamp_min(0).sqrt().numpy()
    error = np.abs(gram - s)
    assert (error <= error_bound(s, 80, 100)).all()
    assert error[3] > 1e-10  # a Gram matrix alone has no digit of it
    assert abs(singular_values([matrix])[0][3] - 1e-9) < 1e-14


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 576), (512, 4608), (5000, 10000)])
def test_gram_error_is_symmetric_and_far_below_the_thresholds_in_use(rows, columns):
    assert gram_error(rows, columns) == gram_error(columns, rows)
    assert rows * 2.0**-53 < gram_error(rows, columns) < 1e-3 * min(EPSILONS) ** 2


def straddling(epsilon, gap, norm):
    """Returns 12 values of which four are (1 ± gap)·ε in units of the norm."""
    near = epsilon * np.array([1 + gap, 1 + 2 * gap, 1 - gap, 1 - 2 * gap])
    large, small = np.linspace(1, 0.5, 4), epsilon * np.array([0.9, 0.5, 0.1, 0.01])
    if norm == "frobenius":
        large *= math.sqrt(1 - (near**2).sum() - (small**2).sum()) / np.linalg.norm(large)
    return np.concatenate([large, near, small])


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("gap", [1e-6, 1e-9, 1e-11], ids="gap={:g}".format)
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 1e-2, 0.04], ids="epsilon={:g}".format)
@pytest.mark.parametrize("shape", [(12, 12), (40, 300), (300, 40)], ids="{0[0]}x{0[1]}".format)
def test_counts_at_epsilon_are_exact_for_values_that_straddle_it(shape, epsilon, gap, norm):
    rows, columns = shape
    for seed in range(3):
        matrix = with_spectrum(straddling(epsilon, gap, norm), rows, columns, seed)
        (found,) = singular_values([matrix], epsilons=[1e-4, epsilon], rank_norm=norm)
        assert rank(found, epsilon, norm) == rank(svd(matrix), epsilon, norm)
        if gap >= 1e-9:  # float64 itself can tell
            assert rank(found, epsilon, norm) == 6


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_counts_of_random_matrices_equal_those_of_an_svd(norm):
    matrices = [gaussian(30, 30 + 7 * seed, seed=seed).float() for seed in range(20)]
    for found, matrix in zip(
        singular_values(matrices, epsilons=EPSILONS, rank_norm=norm), matrices, strict=True
    ):
        for epsilon in EPSILONS:
            assert rank(found, epsilon, norm) == rank(svd(matrix), epsilon, norm)


@pytest.mark.parametrize("shape", [(25, 25), (9, 16)], ids="{0[0]}x{0[1]}".format)
def test_a_value_that_equals_epsilon_is_left_to_the_definition(shape):
    matrix = torch.eye(*shape)
    epsilon = 1 / math.sqrt(min(shape))
    (found,) = singular_values([matrix], epsilons=[epsilon])
    assert found.tolist() == svd(matrix).tolist()


@pytest.mark.filterwarnings("error")  # numpy warns of an overflow
@pytest.mark.parametrize("exponent", [-1060, -700, -300, 300, 900])
def test_entries_of_any_size_neither_overflow_nor_underflow(exponent):
    matrix = gaussian(20, 30)
    (found,) = singular_values([torch.ldexp(matrix, torch.tensor(exponent))], epsilons=EPSILONS)
    # Denormals have few digits: those of 2^-1060 some ten bits.
    tolerance = 1e-2 if exponent < -1022 else 1e-12
    np.testing.assert_allclose(found, np.ldexp(svd(matrix), exponent), rtol=tolerance)


def test_a_tiny_entry_beside_a_huge_one():
    matrix = torch.diag(torch.tensor([1e300, 1e-300], dtype=torch.float64))
    (found,) = singular_values([matrix])
    assert found[0] == 1e300
    assert 0 <= found[1] <= 1e-300


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_non_finite_input_gives_nan_and_never_reaches_lapack(bad, dtype, monkeypatch):
    matrix = torch.ones(4, 6, dtype=dtype)
    matrix[2, 3] = bad
    for solver in ("eigvalsh", "svdvals"):
        monkeypatch.setattr(torch.linalg, solver, lambda _: pytest.fail("reached LAPACK"))
    (found,) = singular_values([matrix], epsilons=EPSILONS)
    assert found.shape == (4,)
    assert np.isnan(found).all()


def test_one_bad_matrix_leaves_the_others_alone():
    good = gaussian(5, 6)
    found = singular_values([good, good * math.nan, 2 * good])
    np.testing.assert_allclose(found[0], svd(good), rtol=1e-12)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], 2 * svd(good), rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)], ids="{0[0]}x{0[1]}".format)
def test_empty_and_zero_matrices(shape):
    (found,) = singular_values([torch.zeros(shape)], epsilons=EPSILONS)
    assert found.tolist() == [0.0] * min(shape)
    assert error_bound(found, *shape).tolist() == [0.0] * min(shape)


def test_no_matrices():
    assert singular_values([]) == []


def test_order_is_kept_among_matrices_of_many_shapes():
    shapes = [(3, 4), (50, 60), (3, 4), (1, 9), (60, 50), (3, 4)]
    matrices = [gaussian(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    for found, matrix in zip(singular_values(matrices), matrices, strict=True):
        np.testing.assert_allclose(found, svd(matrix), rtol=1e-10)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_repeats_bitwise_and_leaves_inputs_and_thread_count_as_they_were():
    matrices = [gaussian(80, 300, seed=seed) for seed in range(6)]
    copies = [matrix.clone() for matrix in matrices]
    first, second = (singular_values(matrices, epsilons=EPSILONS) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(matrices, copies, strict=True))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_matrices_are_done_side_by_side_only_while_memory_allows(monkeypatch):
    at_once, most, lock = 0, 0, threading.Lock()
    eigvalsh = torch.linalg.eigvalsh

    def counted(matrix):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        result = eigvalsh(matrix)
        with lock:
            at_once -= 1
        return result

    monkeypatch.setattr(torch.linalg, "eigvalsh", counted)
    monkeypatch.setattr(spectra, "_WORKSPACE", 0)
    singular_values([gaussian(150, 150, seed=seed) for seed in range(6)])
    assert most == 1  # the largest matrix's work space is all there is


def test_a_solver_that_fails_is_replaced_by_the_svd_and_that_one_reported(monkeypatch):
    def fail(_):
        raise LinAlgError("did not converge")

    matrix = gaussian(4, 9)
    monkeypatch.setattr(torch.linalg, "eigvalsh", fail)
    (found,) = singular_values([matrix], epsilons=EPSILONS)
    np.testing.assert_allclose(found, svd(matrix), rtol=1e-14)
    monkeypatch.setattr(torch.linalg, "svdvals", fail)
    with pytest.raises(RuntimeError, match=r"finite matrix of shape \(9, 4\) did not converge"):
        singular_values([matrix])


def test_matrices_in_one_batch_as_on_a_gpu_have_the_counts_of_an_svd(monkeypatch):
    sizes = np.geomspace(1, 1e-4, 270)
    matrices = [with_spectrum(sizes * (1 + 1e-9 * k), 270, 300, seed=3 * k) for k in range(2)]
    matrices.append(with_spectrum([1.0, 1e-3, 1e-12], 270, 300, seed=9))
    batches = []
    by_gram = spectra._by_gram
    monkeypatch.setattr(spectra, "_by_gram", lambda w: (batches.append(len(w)), by_gram(w))[1])
    monkeypatch.setattr(spectra, "_BLOCKED", 1000)  # the product as a whole
    alone = singular_values(matrices, epsilons=EPSILONS)
    monkeypatch.setattr(spectra, "_batches", lambda *_: [[0, 1, 2]])
    together = singular_values(matrices, epsilons=EPSILONS)
    assert batches == [1, 1, 1, 3]
    for one, other, matrix in zip(alone, together, matrices, strict=True):
        for epsilon in EPSILONS:
            expected = rank(svd(matrix), epsilon)
            assert rank(one, epsilon) == rank(other, epsilon) == expected


def test_autocast_does_not_lower_the_precision():
    matrix = gaussian(30, 40).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = singular_values([matrix])
    np.testing.assert_allclose(found, svd(matrix), rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda: singular_values([torch.ones(2, 3, 4)]), r"got shape \(2, 3, 4\)", id="3-d"
        ),
        pytest.param(lambda: singular_values([], rank_norm="max"), "got 'max'", id="norm"),
        pytest.param(
            lambda: convolution_singular_values(torch.ones(2, 2, 3, 3), 2),
            "at least the kernel's 3, got 2",
            id="small image",
        ),
        pytest.param(
            lambda: convolution_singular_values(torch.ones(2, 2), 4),
            r"3 to 5 dimensions, got shape \(2, 2\)",
            id="no kernel",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def explicit_operator(conv, channels, size, dimensions):
    """Returns the matrix of a convolution without bias, column by column."""
    inputs = channels * size**dimensions
    images = torch.eye(inputs, dtype=torch.float64).reshape(inputs, channels, *[size] * dimensions)
    with torch.no_grad():
        return conv(images).flatten(1).T


@pytest.mark.parametrize("size", [3, 4, 5], ids="size={}".format)
@pytest.mark.parametrize(
    ("module", "inputs", "outputs", "kernel", "groups"),
    [
        pytest.param(nn.Conv1d, 3, 4, 3, 1, id="1d"),
        pytest.param(nn.Conv2d, 2, 3, 3, 1, id="2d"),
        pytest.param(nn.Conv2d, 3, 2, 2, 1, id="2d-even-kernel"),
        pytest.param(nn.Conv2d, 3, 3, 1, 1, id="2d-pointwise"),
        pytest.param(nn.Conv2d, 4, 6, 3, 2, id="2d-grouped"),
        pytest.param(nn.Conv2d, 4, 4, 3, 4, id="2d-depthwise"),
        pytest.param(nn.Conv3d, 1, 2, 3, 1, id="3d"),
    ],
)
def test_convolution_as_operator_equals_the_explicit_matrix(
    module, inputs, outputs, kernel, groups, size
):
    torch.manual_seed(0)
    conv = module(
        inputs, outputs, kernel, groups=groups, bias=False, padding="same", padding_mode="circular"
    ).double()
    dimensions = conv.weight.ndim - 2
    found = convolution_singular_values(conv.weight, size, groups=groups)
    explicit = svd(explicit_operator(conv, inputs, size, dimensions))
    np.testing.assert_allclose(found, explicit[: len(found)], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(explicit[len(found) :], 0, atol=1e-12)
    assert len(found) == size**dimensions * min(inputs, outputs)
