"""Singular values of many matrices at once, in float64.

The eigenvalues λ_i = σ_i² of the smaller Gram matrix cost a fraction of an SVD. They are known to
within η‖W‖² (Frobenius norm; `gram_error` derives η), so that

    |σ̂_i − σ_i| ≤ min(η‖W‖²/σ̂_i, √η‖W‖).

This is rounding error for the large σ_i and says nothing about those below √η‖W‖ ≈ 1e-6‖W‖. Hence
a matrix is done again by an SVD, which is off by rounding errors of σ_1 only, if

- some σ_i/‖W‖ is so near to an ε that the error could decide on which side it lies, or
- some σ_i/‖W‖ is below `SMALL`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, yet not in __all__

Spectrum = NDArray[np.float64]
Found = TypeVar("Found")

SMALL = 2e-7
"""Least σ/‖W‖ taken from a Gram matrix. Its small λ were never seen to be off by more than
2e-15·‖W‖², and mostly by 1e-17·‖W‖²: at this limit 3 % and mostly 0.01 % of σ."""

PLACES = ("cpu", "cuda")
"""Kinds of device that solve the matrices they hold; the CPU does so for all others, which lack
float64. Without "cuda" its cores take those of a GPU as well, beside the training; which is faster
is a row of the benchmarks (`benchmarks.spectra`) that no card has filled in yet."""

_UNIT = 2.0**-53  # unit roundoff of float64
_WORKSPACE = 256 * 2**20  # bytes that may be used in any case
_BLOCKED = 256  # size from which a Gram matrix is computed by panels


def gram_error(rows: int, columns: int) -> float:
    r"""Returns η: the eigenvalues of a Gram matrix are within η‖W‖² of the squares σ_i².

    With n = min(rows, columns), k = max(rows, columns) and unit roundoff u = 2^-53,

    - each entry of the product is a sum of k terms, so in whatever order they are added the product
      is off by at most k·u·|W||W|ᵀ in each entry (Higham, *Accuracy and Stability of Numerical
      Algorithms*, 2002, eq. 3.13), hence by k·u·‖W‖² in norm;
    - the eigenvalues are those of a matrix within p(n)·u of it, relative to its norm ≤ ‖W‖².
      p(n) = 10·n is taken; LAPACK's own tests accept 100·n (``sep.in``);
    - by Weyl, no eigenvalue moves by more than the sum of both.

    Args:
        rows: Number of rows of W.
        columns: Number of columns of W.

    Returns:
        η = (k + 10·n)·u, in (0, 1) for any matrix that fits into memory.

    Example:
        >>> f"{gram_error(512, 4608):.2g}"
        '1.1e-12'
    """
    return (max(rows, columns) + 10 * min(rows, columns)) * _UNIT


def error_bound(spectrum: ArrayLike, rows: int, columns: int) -> Spectrum:
    """Returns by how much each value of `singular_values` may differ from the true one.

    Args:
        spectrum: All singular values of one matrix (min(rows, columns),).
        rows: Its number of rows.
        columns: Its number of columns.

    Returns:
        min(η‖W‖²/σ_i, √η‖W‖) for each value, in the unit of the spectrum. It holds for values from
        an SVD as well, which are far better: within 10·min(rows, columns)·u·σ_1.

    Example:
        >>> s = singular_values([torch.diag(torch.tensor([3.0, 0.04]))])[0]
        >>> [f"{bound:.1e}" for bound in error_bound(s, 2, 2)]
        ['7.3e-15', '5.5e-13']
    """
    s = np.asarray(spectrum, dtype=np.float64)
    peak = s.max(initial=0.0) or 1.0  # keeps the squares in range
    norm = peak * np.linalg.norm(s / peak)
    error = gram_error(rows, columns)
    return np.asarray(error / np.maximum(s / (norm or 1.0), np.sqrt(error)) * norm)


def singular_values(
    matrices: Sequence[Tensor],
    *,
    epsilons: Sequence[float] = (),
    rank_norm: str = "frobenius",
) -> list[Spectrum]:
    """Computes the singular values of many matrices, each on its own device if it is of `PLACES`.

    For every ε of `epsilons` the number of σ_i/‖W‖ > ε equals that of `torch.linalg.svdvals` in
    float64, also where a value all but touches ε. Without over- or underflow for any finite entries
    of any floating-point type. Bitwise the same for the same number of threads.

    On a CPU, several matrices are done at a time, one thread each; on a GPU, those of equal shape
    in one batch. Either way the work space is at most that of the largest matrix (three times its
    size in float64), or 256 MiB if that is more.

    Args:
        matrices: Tensors (rows, columns), real or complex.
        epsilons: Thresholds for which counts must be right, each ≥ 0.
        rank_norm: ``frobenius`` or ``spectral``: the norm ‖W‖ of the thresholds.

    Returns:
        For each matrix its singular values (min(rows, columns),), descending, unnormalised; all NaN
        if an entry is not finite. See `error_bound`.

    Raises:
        ValueError: A tensor is not 2-D, or `rank_norm` is unknown.

    Example:
        >>> [s.round(12).tolist() for s in singular_values([torch.eye(2), 2 * torch.ones(1, 4)])]
        [[1.0, 1.0], [4.0]]
    """
    for matrix in matrices:
        if matrix.ndim != 2:
            raise ValueError(f"a matrix must have 2 dimensions, got shape {tuple(matrix.shape)}")
    if rank_norm not in ("frobenius", "spectral"):
        raise ValueError(f"rank_norm must be 'frobenius' or 'spectral', got {rank_norm!r}")
    placed = [w if w.device.type in PLACES else w.cpu() for w in matrices]
    solve = partial(_solve, epsilons=tuple(epsilons), rank_norm=rank_norm)
    limit = max([_WORKSPACE, *map(workspace, placed)])
    batches = _batches(placed, limit)
    solved = in_threads(solve, [[placed[i] for i in batch] for batch in batches], limit)
    spectra = {
        i: s
        for batch, found in zip(batches, solved, strict=True)
        for i, s in zip(batch, found, strict=True)
    }
    # What two methods left open is a value that equals ε up to rounding: the definition decides.
    return [_svd(w) if (s := spectra[i]) is None else s for i, w in enumerate(placed)]


def convolution_singular_values(weight: Tensor, size: int, *, groups: int = 1) -> Spectrum:
    """Computes the singular values of a convolution as a linear operator on images.

    The operator maps (in, size, …, size) to (out, size, …, size), with stride 1 and circular
    padding. The Fourier transform makes it block-diagonal: its singular values are those of the
    (out, in) matrices of the kernel's transform at each frequency (Sedghi, Gupta and Long, *The
    Singular Values of Convolutional Layers*, ICLR 2019, theorem 6). They differ from those of the
    (out, in·k·k) weight matrix. With zero padding they are approximately the same.

    Args:
        weight: Kernel (out, in/groups, k, …, k) in 1, 2 or 3 dimensions.
        size: Side of the images, at least k.
        groups: Groups of the convolution.

    Returns:
        All groups·size^d·min(out/groups, in/groups) singular values, descending.

    Raises:
        ValueError: An image smaller than the kernel, or a weight that is no kernel.

    Example:
        >>> mean = torch.full((1, 1, 2), 0.5)  # of two neighbours
        >>> convolution_singular_values(mean, 4).round(12).tolist()
        [1.0, 0.707106781187, 0.707106781187, 0.0]
    """
    kernel = tuple(weight.shape[2:])
    if not 1 <= len(kernel) <= 3:
        raise ValueError(f"a kernel must have 3 to 5 dimensions, got shape {tuple(weight.shape)}")
    if size < max(kernel):
        raise ValueError(f"size must be at least the kernel's {max(kernel)}, got {size}")
    axes = tuple(range(2, weight.ndim))
    with torch.no_grad():
        transform = torch.fft.rfftn(weight.double(), s=(size,) * len(axes), dim=axes)
        matrices = transform.flatten(2).permute(2, 0, 1)  # (frequencies, out, in/groups)
    blocks = [block for matrix in matrices for block in matrix.chunk(groups)]
    # A real kernel has conjugate transforms at opposite frequencies: half of the last axis is kept.
    last = torch.arange(size // 2 + 1)
    twice = ((last > 0) & (2 * last < size)).expand(transform.shape[2:]).flatten()
    repeats = (1 + twice.int()).repeat_interleave(groups).tolist()
    spectra = zip(singular_values(blocks), repeats, strict=True)
    return np.sort(np.concatenate([np.tile(s, times) for s, times in spectra]))[::-1]


def workspace(matrix: Tensor) -> int:
    """Returns the bytes that one matrix may need: its copy in float64, LAPACK's, and the Gram's.

    Args:
        matrix: Of any type.
    """
    return 3 * 8 * matrix.numel()


def _batches(matrices: Sequence[Tensor], limit: int) -> list[list[int]]:
    """Returns the indices of matrices to be done together, the largest first."""
    groups: dict[object, list[int]] = {}
    for i, w in enumerate(matrices):
        alone = i if w.device.type == "cpu" else None  # LAPACK takes them one by one anyway
        groups.setdefault((w.device, w.shape, w.is_complex(), alone), []).append(i)
    batches = []
    for group in sorted(groups.values(), key=lambda g: -matrices[g[0]].numel()):
        length = max(1, limit // max(1, workspace(matrices[group[0]])))
        batches += [group[start : start + length] for start in range(0, len(group), length)]
    return batches


def in_threads(
    solve: Callable[[list[Tensor]], Found], batches: list[list[Tensor]], limit: int
) -> list[Found]:
    """Does the same with several batches of matrices; on a CPU several at a time if memory allows.

    Args:
        solve: Takes the matrices of a batch.
        batches: Of matrices, the largest first.
        limit: Bytes of work space.

    Returns:
        Of each batch what `solve` returns.
    """
    threads = torch.get_num_threads()
    largest = max((workspace(w) for batch in batches for w in batch), default=0)
    workers = min(threads, len(batches), limit // max(1, largest))
    if workers < 2 or any(batch[0].is_cuda for batch in batches):
        return [solve(batch) for batch in batches]
    try:
        # One thread for each matrix is faster than all threads for one matrix after another, and
        # the result does not depend on their number. New threads take on the setting of this one.
        torch.set_num_threads(1)
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(solve, batches))
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _solve(
    matrices: list[Tensor], epsilons: tuple[float, ...], rank_norm: str
) -> list[Spectrum | None]:
    """Returns the spectra of matrices of one shape; None where rounding errors decide a rank."""
    rows, columns = matrices[0].shape
    size = min(rows, columns)
    if size == 0:
        return [np.zeros(0) for _ in matrices]
    # This norm is NaN or infinite if an entry is, and needs no copy in float64.
    peaks = torch.stack(
        [torch.linalg.vector_norm(w, torch.inf).double() for w in matrices]
    ).tolist()
    spectra: list[Spectrum | None] = [np.full(size, 0.0 if p == 0 else np.nan) for p in peaks]
    usable = [i for i, peak in enumerate(peaks) if 0 < peak < np.inf]
    if not usable:
        return spectra

    dtype = torch.complex128 if matrices[0].is_complex() else torch.float64
    batch = torch.empty(len(usable), rows, columns, dtype=dtype, device=matrices[0].device)
    exponents = [_exponent(peaks[i]) for i in usable]
    for scaled, i, exponent in zip(batch, usable, exponents, strict=True):
        scaled.copy_(matrices[i])
        if exponent:  # in two steps, as 2^-exponent itself may be out of range
            scaled.mul_(2.0 ** -(exponent // 2)).mul_(2.0 ** (exponent // 2 - exponent))

    for i, scaled, exponent, s in zip(usable, batch, exponents, _by_gram(batch), strict=True):
        # The SVD that defines the counts has an error too.
        error = gram_error(rows, columns) * np.sum(s**2) + _svd_error(s)
        found: Spectrum | None = s
        if not s[-1] > SMALL * np.linalg.norm(s) or _is_open(s, error, epsilons, rank_norm):
            # LAPACK's SVD is several times faster for tall matrices than for wide ones.
            found = _svd(scaled if rows >= columns else scaled.mH)
            if _is_open(found, 2 * _svd_error(found), epsilons, rank_norm):
                found = None
        spectra[i] = None if found is None else np.ldexp(found, exponent)
    return spectra


def _exponent(peak: float) -> int:
    """Returns the power of two to divide by: 0 where squares are in range without it."""
    exponent = int(np.frexp(peak)[1])
    return exponent if abs(exponent) > 256 else 0


def _by_gram(batch: Tensor) -> Spectrum:
    """Returns singular values (batch, size), descending; NaN if the solver failed."""
    rows, columns = batch.shape[1:]
    try:
        eigenvalues = torch.linalg.eigvalsh(_gram(batch if rows <= columns else batch.mH))
    except LinAlgError:
        return np.full((len(batch), min(rows, columns)), np.nan)
    return np.asarray(eigenvalues.clamp_min(0).sqrt().flip(-1).cpu().numpy())


def _gram(batch: Tensor) -> Tensor:
    """Returns W Wᴴ of each W, or its lower triangle with zeros above, which is all that is read."""
    size = batch.shape[1]
    if batch.is_cuda or size < _BLOCKED:
        return batch @ batch.mH
    gram = batch.new_zeros(len(batch), size, size)
    width = -(-size // 4)  # narrower panels save operations, but each is slower
    for start in range(0, size, width):
        panel = slice(start, start + width)
        gram[:, start:, panel] = batch[:, start:] @ batch[:, panel].mH
    return gram


def _svd(matrix: Tensor) -> Spectrum:
    with torch.no_grad():
        # On a GPU cuSOLVER's Jacobi method takes far longer, and does not keep to `_svd_error`.
        double = matrix.cpu().to(torch.complex128 if matrix.is_complex() else torch.float64)
        try:
            return np.asarray(torch.linalg.svdvals(double).numpy())
        except LinAlgError as error:
            raise RuntimeError(
                f"the SVD of a finite matrix of shape {tuple(matrix.shape)} did not converge"
            ) from error


def _svd_error(s: Spectrum) -> Spectrum:
    """Returns the error of the squares of an SVD's values, each within 10·n·u·σ_1."""
    return np.asarray(2 * s * (10 * len(s) * _UNIT * s[0]))


def _is_open(s: Spectrum, error: Spectrum, epsilons: tuple[float, ...], rank_norm: str) -> bool:
    """Returns whether some σ_i/‖W‖ is within the error of an ε, all compared as squares."""
    squares = s**2
    total = slice(None) if rank_norm == "frobenius" else slice(1)
    norm, norm_error = squares[total].sum(), error[total].sum()
    return any(
        bool(np.any(np.abs(squares - e * e * norm) <= error + e * e * norm_error)) for e in epsilons
    )
