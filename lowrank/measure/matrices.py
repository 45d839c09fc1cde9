"""The weight matrices of any module: which there are, their names, and each as a 2-D view.

A weight matrix is a parameter that multiplies activations, seen as (rows, columns):

==============================  =============================================================
Linear                          (out, in)
Conv1d, 2d, 3d                  (out, in/groups·k·k)
ConvTranspose1d, 2d, 3d         (out, in/groups·k·k): output channels as rows here too
Bilinear                        (out, in1·in2): the form is linear in the products x1_i·x2_j
MultiheadAttention              three of (embedding, ·): ``_q``, ``_k``, ``_v``; and ``out_proj``
RNN, LSTM, GRU and their cells  one per weight and gate: ``_weight_ih_l0_i`` (hidden, in), …
==============================  =============================================================

Modules are known by their base class. Of a parametrised, weight-normalised, spectrally normalised
or pruned module the *effective* weight is meant; a weight shared by several modules is listed once.
Any other parameter with two or more dimensions is skipped, with a reason, unless ``include`` names
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor, nn

from lowrank.common.errors import refuse
from lowrank.common.terminal import aligned
from lowrank.measure.layers import Layer
from lowrank.measure.positions import ExampleInput, parameters_in_products
from lowrank.measure.tensors import Found, Names, Split, matched, sort_tensors, unused_name


@dataclass(frozen=True, kw_only=True)
class WeightMatrix(Layer):
    """A layer with its values. Of a module it follows the module: `view` reads the present weight.

    Attributes:
        module: Path of the owning module, ``layer1.0.conv1``; empty for the root.
    """

    module: str = ""
    _view: Callable[[], Tensor] = field(repr=False, compare=False)
    _owner: nn.Module | None = field(default=None, repr=False, compare=False)

    def view(self) -> Tensor:
        """Returns the present effective weight, leaving the module as it is.

        Returns:
            Tensor (rows, columns) with the weight's own type and device, detached. It shares the
            parameter's memory unless it has to be computed or reordered (parametrised modules,
            transposed convolutions): treat it as read-only and clone it to keep it.
        """
        return self._view()


@dataclass(frozen=True)
class Skipped:
    """A parameter of two or more dimensions that is not measured.

    Attributes:
        path: Path of the parameter; ``include`` takes it.
        shape: Its shape.
        reason: Why it is no weight matrix.
    """

    path: str
    shape: tuple[int, ...]
    reason: str


def weight_matrices(
    model: nn.Module,
    *,
    exclude: Names = (),
    include: Names = (),
    example_input: ExampleInput | None = None,
    parts: Sequence[str] = (),
    split: Mapping[str, Split] | None = None,
) -> list[WeightMatrix]:
    """Lists the weight matrices of a module in the order of registration.

    ``counted`` holds for all but the last one and but 1×1 convolutions inside a submodule called
    ``downsample`` or ``shortcut``. The wrappers of ``torch.compile``, ``DistributedDataParallel``
    and ``DataParallel`` do not show in names.

    Args:
        model: Any module.
        exclude: Matrices that are measured but not counted. Each entry is a layer name, the path of
            a parameter or a module, or a glob over these.
        include: Skipped parameters to measure, named in the same way, and shortcuts to count.
            Leading dimensions are a batch of matrices ``<name>_0``, ``<name>_1``, …, but for what a
            class called a convolution owns: (first, all others).
        example_input: What the model is called with. One forward pass tells which parameters of
            unknown modules enter a matrix product: those are weight matrices too.
        parts: Paths of submodules, of which none is within another, whose counted matrices get
            their ``part``: the path with ``.`` written ``_``.
        split: Matrices that are several, one below the other, such as a fused projection to
            queries, keys and values: named as in ``exclude``, each with the number of its equal
            blocks of rows, with their names, or with the rows of each by name. Their names follow
            on the matrix's: ``<name>_q``.

    Returns:
        The matrices. Names that collide get ``_2``, ``_3``.

    Raises:
        InputError: An entry of ``exclude``, ``include`` or ``split`` matches nothing, a matrix has
            no such blocks, a part has no counted matrix, or a module is lazy and not initialised,
            or on the meta device.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [(m.name, m.shape, m.counted) for m in weight_matrices(model)]
        [('0', (4, 8), True), ('2', (2, 4), False)]
        >>> [(m.name, m.shape) for m in weight_matrices(nn.Linear(4, 12), split={"weight": "qkv"})]
        [('weight_q', (4, 4)), ('weight_k', (4, 4)), ('weight_v', (4, 4))]
    """
    matrices: list[WeightMatrix] = []
    names: set[str] = set()
    for found in _split(_sorted(model, include, example_input)[0], split):
        for index, plain in enumerate(found.names):
            name = unused_name(plain, names)
            matrices.append(
                WeightMatrix(
                    name=name,
                    path=found.path,
                    shape=found.size(index),
                    counted=found.is_counted,
                    module=found.module,
                    _view=partial(found.matrix, index),
                    _owner=found.owner,
                )
            )
    labels = [(m.name, m.path, m.module) for m in matrices]
    out = matched("exclude", exclude, labels, "weight matrix")
    matrices = [
        replace(m, counted=bool(m.counted) and m is not matrices[-1] and not excluded)
        for m, excluded in zip(matrices, out, strict=True)
    ]
    refuse(
        f"parts: got {part!r}, in which no matrix is counted; allowed: submodules with one"
        for part in parts
        if not any(m.counted and _lies_in(m.module, part) for m in matrices)
    )
    return [replace(m, part=_part(m, parts)) for m in matrices]


def _split(found: list[Found], split: Mapping[str, Split] | None) -> list[Found]:
    for pattern, parts in (split or {}).items():
        wanted = matched("split", pattern, [each.labels for each in found], "weight matrix")
        found = [
            each.divided(parts) if is_wanted else each
            for each, is_wanted in zip(found, wanted, strict=True)
        ]
    return found


def _lies_in(module: str, part: str) -> bool:
    return f"{module}.".startswith(f"{part}.")


def _part(matrix: WeightMatrix, parts: Sequence[str]) -> str:
    found = (part for part in parts if matrix.counted and _lies_in(matrix.module, part))
    return next(found, "").replace(".", "_")


def skipped_parameters(
    model: nn.Module, *, include: Names = (), example_input: ExampleInput | None = None
) -> list[Skipped]:
    """Lists the parameters of two or more dimensions that are not measured.

    So are weights that a module of a known class should have and has not: in shards, quantised, or
    no parameters.

    Args:
        model: Any module.
        include: As for `weight_matrices`.
        example_input: As for `weight_matrices`.

    Returns:
        The parameters in the order of registration, each with the reason.

    Example:
        >>> skipped_parameters(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)))
        [Skipped(path='0.weight', shape=(10, 4), reason='embedding')]
    """
    skipped = _sorted(model, include, example_input)[1]
    return [Skipped(f.path, f.shape, f.reason) for f in skipped]


def _sorted(
    model: nn.Module, include: Names, example_input: ExampleInput | None
) -> tuple[list[Found], list[Found]]:
    measured, skipped = sort_tensors(model, include)
    if example_input is None or not any(found.is_unknown for found in skipped):
        return measured, skipped
    return sort_tensors(model, include, parameters_in_products(model, example_input))


def describe(
    model: nn.Module,
    *,
    exclude: Names = (),
    include: Names = (),
    example_input: ExampleInput | None = None,
    split: Mapping[str, Split] | None = None,
) -> str:
    """Says what is measured, what ``rank_mean`` counts, and what is skipped and why.

    Args:
        model: Any module.
        exclude: As for `weight_matrices`.
        include: As for `weight_matrices`.
        example_input: As for `weight_matrices`.
        split: As for `weight_matrices`.

    Returns:
        A table as text, at most 80 columns wide where names allow.

    Example:
        >>> print(describe(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4), nn.Linear(4, 2))))
        weight matrix  shape  full rank  rank_mean
        1              4 × 8          4  counted
        2              2 × 4          2  -
        2 weight matrices of mean full rank 3, 1 of them counted: 4
        <BLANKLINE>
        skipped   shape  reason
        0.weight  9 × 8  embedding
        1 skipped; biases and other vectors are not listed
    """
    matrices = weight_matrices(
        model, exclude=exclude, include=include, example_input=example_input, split=split
    )
    skipped = skipped_parameters(model, include=include, example_input=example_input)
    full = [min(m.shape) for m in matrices]
    counted = [min(m.shape) for m in matrices if m.counted]
    lines = _table(
        ("weight matrix", "shape", "full rank", "rank_mean"),
        [
            (m.name, _size(m.shape), str(min(m.shape)), "counted" if m.counted else "-")
            for m in matrices
        ],
    )
    lines.append(f"{len(full)} weight matri{'x' if len(full) == 1 else 'ces'}")
    if full:
        lines[-1] += f" of mean full rank {_mean(full)}, {len(counted)} of them counted"
    if counted:
        lines[-1] += f": {_mean(counted)}"
    if skipped:
        rows = [(s.path, _size(s.shape), s.reason) for s in skipped]
        lines += ["", *_table(("skipped", "shape", "reason"), rows)]
    lines.append(f"{len(skipped)} skipped; biases and other vectors are not listed")
    return "\n".join(lines)


def _size(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _mean(values: Sequence[int]) -> str:
    return f"{sum(values) / len(values):.2f}".rstrip("0").rstrip(".")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns aligned lines: columns of numbers to the right, all others to the left."""
    columns = enumerate(zip(head, *rows, strict=True))
    texts = [place for place, (_, *cells) in columns if not all(map(str.isdigit, cells))]
    return aligned([head, *rows], left=[0, *texts])  # a layer may be called 0
