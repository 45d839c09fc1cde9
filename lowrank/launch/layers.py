"""Whether any network of a sweep has the layer that its metric is of, such as ``rank/linear1``."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lowrank.common.errors import InputError
from lowrank.common.texts import few, nearest, printable
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.settings import with_group
from lowrank.config.sweepfile import Distribution, Parameter
from lowrank.config.sweepfile.keys import TIMES
from lowrank.config.sweepfile.parameters import fields_of, values_of

OF_A_NETWORK = {*with_group("model"), "dataset", "image_size"}
"""Fields that decide which layers there are."""

OF_A_STEP = {
    *OF_A_NETWORK,
    *(*with_group("data"), *with_group("machine")),
    *("batch_size", "optimizer", "loss"),
}
"""Fields that decide what a step computes, of what, and how much memory that takes."""

MOST_NAMES = 12
"""Layers that are named where none is meant."""


def networks_of(
    parameters: Mapping[str, Parameter],
    overrides: Mapping[str, Any],
    fields: Collection[str] = OF_A_NETWORK,
) -> list[list[str]]:
    """Returns arguments for each network that a sweep may train.

    Args:
        parameters: Of the sweep.
        overrides: Fields that have another value at every point.
        fields: Those that tell networks apart; the others are left out.

    Returns:
        The arguments; none if a search draws one of these fields.

    Example:
        >>> from lowrank.config.sweepfile import Fixed, Values
        >>> networks_of({"depth": Values((2, 3)), "lr": Fixed(0.1)}, {"width": 8})
        [['--depth=2', '--width=8'], ['--depth=3', '--width=8']]
    """
    axes = []
    for name, parameter in parameters.items():
        if isinstance(parameter, Distribution):
            if name in fields and name not in overrides:
                return []
            continue
        values = [fields_of(name, value, "").items() for value in values_of(parameter)]
        own = [tuple(item for item in given if item[0] in fields) for given in values]
        axes.append(list(dict.fromkeys(own)))
    last = tuple(item for item in overrides.items() if item[0] in fields)
    networks = (dict([*itertools.chain(*point), *last]) for point in itertools.product(*axes))
    words = (tuple(f"--{name}={value}" for name, value in of.items()) for of in networks)
    return [list(of) for of in dict.fromkeys(words)]


def check_metric(metric: str, networks: Sequence[Sequence[str]]) -> None:
    """Makes sure that a metric of a layer is of one that a network has. Only then it loads torch.

    Args:
        metric: Its name.
        networks: From `networks_of`.

    Raises:
        InputError: If none has it.
    """
    quantity, _, layer = metric.partition("/")
    is_of_layer = bool(layer) and metric not in TIMES and not quantity.startswith("rank_mean")
    if not is_of_layer or not networks:
        return
    from lowrank.measure.matrices import weight_matrices
    from lowrank.models import build_model
    from lowrank.training.memory import images_of

    environment = {name: v for name, v in os.environ.items() if name.startswith("LOWRANK_")}
    found: dict[str, None] = {}
    for words in networks:
        with contextlib.suppress(InputError):  # the sweep has no such point
            config = parse(words, environment, settle=Config.model_fields)
            network = build_model(config, *images_of(config))
            found |= dict.fromkeys(matrix.name for matrix in weight_matrices(network))
        if layer in found:
            return
    if found:
        names = [f"{quantity}/{name}" for name in found]
        raise InputError(
            f"metric.name: got '{printable(metric)}', but no network of this sweep has such a "
            f"layer; allowed: {few(names, MOST_NAMES)}{nearest(metric[:60], names)}"
        )
