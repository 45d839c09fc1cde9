"""What a run of a sweep is called in W&B: the point that it is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GIVEN_BY = ("LOWRANK_NAME", "WANDB_NAME")
"""Variables that name runs."""

_SHORT = {"weight_decay": "wd", "batch_size": "bs"}
_LONGEST = 128  # W&B's


def display_name(swept: Iterable[str], point: Mapping[str, Any]) -> str:
    """Returns the name that tells a point from the others of its sweep.

    Args:
        swept: What varies over the sweep, in the order of the name; a seed comes last.
        point: Values by field, of these and others.

    Returns:
        One line of at most 128 characters; empty where nothing varies.

    Example:
        >>> point = {"lr": 0.1, "weight_decay": 5e-3, "seed": 0, "epochs": 20}
        >>> display_name(["seed", "lr", "weight_decay"], point)
        'lr=0.1 wd=0.005 s0'
    """
    names = [name for name in swept if name in point]
    words = [f"{_SHORT.get(n, n)}={_text(point[n])}" for n in names if n != "seed"]
    words += [f"s{_text(point['seed'])}"] if "seed" in names else []
    name = "".join(sign for sign in " ".join(words) if sign.isprintable())
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
