"""What was measured in files, as tables of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from lowrank.common.quantities import described
from lowrank.common.terminal import aligned, column_widths
from lowrank.common.texts import wrapped
from lowrank.measure.truncation import LADDER
from lowrank.views.spectra.quantities import Measured, Row

WIDTH = 80
"""Columns of the terminal that a table is made for."""

_LONGEST_NAME = 32  # a longer one has a line of its own
_STAR = "* not counted in rank_mean"


def table(measured: Measured) -> str:
    """Lists the matrices of one file.

    Args:
        measured: The file.

    Returns:
        Lines of at most 80 columns, while paths allow; what has no room there is named.
    """
    quantities = list(measured.rows[0].quantities)
    body = [
        [
            _starred(row),
            _shape(row),
            str(min(row.shape)),
            *(_number(value, _form(quantity)) for quantity, value in row.quantities.items()),
        ]
        for row in measured.rows
    ]
    for name, means in measured.means().items():
        values = ["" if q not in means else _number(means[q], ".1f") for q in quantities]
        body.append([name, "", f"{_mean_full_rank(measured, name):.1f}", *values])
    groups = [("", ["shape", "full"])]
    for quantity in quantities:
        title, at, epsilon = quantity.partition("@")
        groups.append((title + at, [epsilon]) if at else ("", [_head(quantity)]))
    lines, kept = _aligned(groups, body)
    lines += _left_out(quantities[kept - 1 :])
    if any(row.counted is False for row in measured.rows):
        lines.append(_STAR)
    return "\n".join([*_heading(measured), *_definitions(measured), "", *lines, *remarks(measured)])


def comparison(then: Measured, now: Measured) -> str:
    """Compares two files, their matrices matched by name.

    Args:
        then: The first file.
        now: The second.

    Returns:
        Lines of at most 80 columns, while paths allow, with what has no partner at the end.
    """
    before = {row.name: row for row in then.rows}
    after = {row.name: row for row in now.rows}
    pairs = [
        (before[name], row)
        for name, row in after.items()
        if name in before and before[name].shape == row.shape
    ]
    lines: list[str] = []
    for label, measured in (("then", then), ("now", now)):
        lines += [f"{label}: {line}" for line in _heading(measured)]
    lines += [*_definitions(now), ""]
    if pairs:
        quantities = list(now.rows[0].quantities)
        body = [
            [
                _starred(new),
                _shape(new),
                *(
                    cell
                    for q in quantities
                    for cell in _change(old.quantities[q], new.quantities[q], _form(q))
                ),
            ]
            for old, new in pairs
        ]
        if len(pairs) == len(before) == len(after):
            body += _changed_means(then.means(), now.means(), quantities)
        three = ["then", "now", "change"]
        groups = [("", ["shape"]), *((_head(q), three) for q in quantities)]
        found, kept = _aligned(groups, body)
        lines += [*found, *_left_out(quantities[kept - 1 :])]
        if any(new.counted is False for _, new in pairs):
            lines.append(_STAR)
    else:
        lines.append("no matrix of one file has the name and shape of one of the other")
    for label, own, other in (("then", before, after), ("now", after, before)):
        alone = [row for name, row in own.items() if name not in other]
        lines += [f"only {label}: {row.name} {_shape(row)}" for row in alone]
    lines += [
        f"of another shape: {name} {_shape(old)} then, {_shape(after[name])} now"
        for name, old in before.items()
        if name in after and after[name].shape != old.shape
    ]
    for label, measured in (("then", then), ("now", now)):
        lines += [f"{label}: {line}" for line in remarks(measured) if line]
    return "\n".join(lines)


def truncation(metrics: Mapping[str, float]) -> str:
    """Lists the accuracy of a network at lower ranks.

    Args:
        metrics: By name, of every step of `lowrank.measure.truncation.LADDER`.

    Returns:
        Lines.
    """
    rows = [("kept of every counted matrix", "mean rank", "test accuracy")]
    for kept in LADDER:
        what = f"{kept.amount:g} of ‖W‖²"
        if kept.kind == "share":
            what = f"1/{1 / kept.amount:.0f} of full rank" if kept.amount < 1 else "full rank"
        accuracy, rank = metrics[kept.accuracy], metrics[kept.mean_rank]
        rows.append((what, _number(rank, ".1f"), _number(100 * accuracy, ".2f") + " %"))
    return "\n".join(["accuracy at lower ranks", *aligned(rows, left=[0])])


def remarks(measured: Measured) -> list[str]:
    """Says which matrices have no rank and which tensors were skipped.

    Args:
        measured: The file.

    Returns:
        A line for each.
    """
    lines = [f"{row.name} is {row.remark}" for row in measured.rows if row.remark]
    for skipped in measured.weights.skipped:
        shape = "×".join(map(str, skipped.shape))
        lines.append(f"skipped {skipped.path} {shape}: {skipped.reason}")
    return lines


def _heading(measured: Measured) -> list[str]:
    count = len(measured.rows)
    total = sum(math.prod(row.shape) for row in measured.rows)
    return [
        f"{measured.weights.path}: {count} weight {'matrix' if count == 1 else 'matrices'}, "
        f"{total:,} weights",
        *filter(None, [measured.weights.origin]),
    ]


def _definitions(measured: Measured) -> list[str]:
    return [
        *measured.view.splitlines(),
        f"rank@ε: number of σ/‖W‖ > ε, with the {measured.rank_norm} norm",
    ]


def _left_out(quantities: Sequence[str]) -> list[str]:
    text = f"in --json and --csv also: {', '.join(quantities)}"
    return wrapped(text, WIDTH) if quantities else []


def _changed_means(
    then: Mapping[str, Mapping[str, float]],
    now: Mapping[str, Mapping[str, float]],
    quantities: Sequence[str],
) -> list[list[str]]:
    body = []
    for name in then:
        if name in now:
            cells = [
                _change(then[name][q], now[name][q], ".1f") if q in now[name] else ["", "", ""]
                for q in quantities
            ]
            body.append([name, "", *chain.from_iterable(cells)])
    return body


def _mean_full_rank(measured: Measured, name: str) -> float:
    rows = [row for row in measured.rows if name == "rank_mean_all" or row.counted]
    return float(np.mean([min(row.shape) for row in rows]))


def _starred(row: Row) -> str:
    return row.name + ("*" if row.counted is False else "")


def _shape(row: Row) -> str:
    return f"{row.shape[0]}×{row.shape[1]}"


def _head(quantity: str) -> str:
    return quantity if "@" in quantity else described(quantity).head or quantity


def _form(quantity: str) -> str:
    return described(quantity).form


def _change(then: float, now: float, form: str) -> list[str]:
    return [_number(then, form), _number(now, form), _number(now - then, f"+{form}")]


def _number(value: float, form: str) -> str:
    return "NaN" if math.isnan(value) else format(value, form)


def _aligned(
    groups: Sequence[tuple[str, list[str]]], body: Sequence[Sequence[str]]
) -> tuple[list[str], int]:
    """Returns aligned lines, and how many groups of columns have room in them.

    Args:
        groups: Columns that stand or go together: a title above, which may be empty, and heads.
        body: Rows: a name and a cell for every column. A long name has a line of its own.

    Returns:
        Lines, the heads first, and a number of groups.
    """
    heads = list(chain.from_iterable(heads for _, heads in groups))
    first, *widths = column_widths([["matrix", *heads], *body], longest=_LONGEST_NAME)
    total, kept, end = first, 0, 0
    above = " " * first
    for title, found in groups:
        width = sum(2 + w for w in widths[end : end + len(found)])
        if total + width > WIDTH and kept > 1:
            break
        above += title.rjust(width)
        total, kept, end = total + width, kept + 1, end + len(found)
    shown = [row[: end + 1] for row in [["matrix", *heads], *body]]
    lines = [above.rstrip()] if above.strip() else []
    return lines + aligned(shown, longest=_LONGEST_NAME), kept
