"""The published figures: their values, and what a run must be to stand for one of them.

The values are in ``figures.csv``, their source in ``figures.txt``. The settings are `FIGURES`:
they follow the runs that were made, where the captions say something else (Figure 7's momentum,
Figure 9's weight decay).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lowrank.common.errors import InputError
from lowrank.common.texts import nearest, one_of, printable
from lowrank.config import Config
from lowrank.config.families import FAMILIES
from lowrank.config.settings import declared, defaults, with_role
from lowrank.config.values import read_value

Settings = Mapping[str, Any]

CHANCE = 0.1
"""Of ten classes: every published run that is no better has them."""

MEASURED_BEFORE_END = 10
"""Epochs: "epoch 500" is the last of every tenth epoch before training, hence after 490."""

IMAGE_SIZE = 32
"""Height and width of all images, by themselves or reduced or padded to it."""

FREE = ("precision", "context")
"""Settings of an experiment that the paper does not tell, or does not have."""


@dataclass(frozen=True)
class Figure:
    """What the runs of a figure have in common.

    Attributes:
        network: In words.
        epsilon: Threshold ε of its ranks; ‖W‖ is the Frobenius norm in all figures.
        fixed: Settings of all its runs.
        panels: By name, as in ``figures.csv``: the settings of its runs.
    """

    network: str
    epsilon: float
    fixed: Settings
    panels: Mapping[str, Settings]


def _sizes(*sizes: int) -> dict[str, Settings]:
    return {f"B {size}": {"batch_size": size} for size in sizes}


_PROTOCOL = {"dataset": "cifar10", "epochs": 500, "milestones": (60, 100, 200), "gamma": 0.2}
_LEAKY = {"model": "resnet18", "activation": "leaky_relu"}
_MIXED = {"model": "mixed", "depth": 5, "width": 256, "lr": 0.01}
_MLP = {"model": "mlp", "depth": 10, "width": 100, "batch_norm": True}
_OTHER_SETS = {"model": "resnet18", "batch_size": 16, "weight_decay": 5e-4}

FIGURES = {
    "2": Figure("ResNet-18, leaky ReLU", 1e-3, _LEAKY | {"weight_decay": 5e-4}, _sizes(4, 8, 16)),
    "3": Figure("ResNet-18, leaky ReLU", 1e-3, _LEAKY | {"lr": 1.5}, _sizes(8, 16)),
    "4": Figure(
        "ResNet-18",
        0.05,
        {"model": "resnet18"},
        {
            "a: lr 1e-3 wd 6e-3": {"lr": 1e-3, "weight_decay": 6e-3},
            "c: lr 1e-2 wd 4e-4": {"lr": 1e-2, "weight_decay": 4e-4},
        },
    ),
    "7": Figure("MLP-BN-10-100", 0.03, _MLP | {"lr": 0.1}, _sizes(32, 128)),
    "8": Figure("MLP-BN-10-100", 0.03, _MLP | {"lr": 0.1}, _sizes(4, 8, 16)),
    "9": Figure(
        "MLP-BN-10-100",
        0.03,
        _MLP | {"weight_decay": 4e-4},
        {"lr 0.01": {"lr": 0.01}, "lr 0.1": {"lr": 0.1}},
    ),
    "13": Figure(
        "VGG-16",
        0.05,
        {"model": "vgg16"},
        {
            "a: lr 1e-3 wd 6e-3": {"lr": 1e-3, "weight_decay": 6e-3},
            "b: lr 5e-3 wd 5e-4": {"lr": 5e-3, "weight_decay": 5e-4},
        },
    ),
    "14": Figure(
        "ResNet-18",
        1e-3,
        _OTHER_SETS,
        {"Food101": {"dataset": "food101"}, "SVHN": {"dataset": "svhn"}},
    ),
    "15": Figure(
        "ResNet-18",
        1e-3,
        _OTHER_SETS,
        {
            "FashionMNIST": {"dataset": "fashion_mnist"},
            "MNIST": {"dataset": "mnist"},
            "Places365-100k": {"dataset": "places365", "train_size": 100_000},
        },
    ),
    "16": Figure("mixed residual network", 0.05, _MIXED, _sizes(16, 32, 64)),
}


@dataclass(frozen=True)
class Point:
    """One run that was published.

    Attributes:
        figure: Its number.
        panel: As in ``figures.csv``.
        x_name: The setting on the x-axis.
        x: Its value.
        values: What was drawn: ``mean`` and ``layer k`` are ranks, others accuracies, 0..1.
        settings: What a run must have to stand for it, with every other setting of an experiment
            that its model reads.
        epsilon: Threshold ε of its ranks.
    """

    figure: str
    panel: str
    x_name: str
    x: Any
    values: Mapping[str, float]
    settings: Mapping[str, Hashable]
    epsilon: float

    @property
    def died(self) -> bool:
        """Whether the run died: it ended at the accuracy of chance, and its ranks say nothing."""
        return self.values["train_accuracy"] <= CHANCE

    @property
    def epoch(self) -> int:
        """After how many epochs it was measured."""
        return int(str(self.settings["epochs"])) - MEASURED_BEFORE_END


@cache
def published() -> tuple[Point, ...]:
    """Reads the published values.

    Returns:
        The points of all figures, in their order.
    """
    text = (files("lowrank.views.published") / "figures.csv").read_text("utf-8")
    values: dict[tuple[str, ...], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        place = (row["figure"], row["panel"], row["x_name"], row["x"])
        values.setdefault(place, {})[row["series"]] = float(row["value"])
    found = []
    for (number, panel, x_name, written), of_point in values.items():
        figure = FIGURES[number]
        x = read_value(Config.model_fields[x_name].annotation, written)
        given = {**_PROTOCOL, **figure.fixed, **figure.panels[panel], x_name: x}
        settings = compared({**defaults(), **given})
        found.append(Point(number, panel, x_name, x, of_point, settings, figure.epsilon))
    return tuple(found)


def compared(settings: Mapping[str, Hashable]) -> dict[str, Hashable]:
    """Chooses the settings that decide for which point a run stands.

    Args:
        settings: All that a run has.

    Returns:
        Those of the experiment, without fields that the model does not read.
    """
    family = FAMILIES.get(str(settings.get("model")))
    unread = {name for name in Config.model_fields if declared(name)["group"] == "model"}
    unread -= {"model", *(family.fields if family else unread)}
    kept = [n for n in with_role("science") if n not in FREE and n not in unread]
    found = {name: settings.get(name) for name in kept}
    return found | {"image_size": found["image_size"] or IMAGE_SIZE}


def settings_of(number: str) -> set[str]:
    """Returns the settings that make a figure what it is, beside the paper's protocol.

    Args:
        number: Of the figure.

    Example:
        >>> sorted(settings_of("2"))
        ['activation', 'batch_size', 'lr', 'model', 'weight_decay']
    """
    figure = FIGURES[number]
    swept = {point.x_name for point in published() if point.figure == number}
    return {*figure.fixed, *swept, *(name for each in figure.panels.values() for name in each)}


def of_figure(asked: str) -> tuple[Point, ...]:
    """Finds the points of a figure, or of one panel of it.

    Args:
        asked: A number such as ``7``, with the beginning of a panel's name behind it or without.

    Returns:
        The points.

    Raises:
        InputError: If there is no such figure or panel.

    Example:
        >>> sorted({point.panel for point in of_figure("4a")})
        ['a: lr 1e-3 wd 6e-3']
        >>> [point.x for point in of_figure("7 B 128")]
        [0.0001, 0.0002, 0.0004, 0.0008, 0.006]
    """
    match = re.match(r"(\d*)(.*)", asked, re.DOTALL)
    number, rest = match.groups() if match else ("", asked)
    if number not in FIGURES:
        raise InputError(
            f"figure: got '{printable(asked)}'; there are numbers of {one_of(list(FIGURES))}"
        )
    points = tuple(point for point in published() if point.figure == number)
    wanted, panels = _bare(rest), FIGURES[number].panels
    found = [panel for panel in panels if _bare(panel) == wanted]
    found = found or [panel for panel in panels if _bare(panel).startswith(wanted)]
    if not found:
        near = nearest(rest.strip(" :")[:60], panels)
        raise InputError(
            f"panel: got '{printable(rest)}' of figure {number}; allowed: {one_of(list(panels))}"
            f"{near}"
        )
    return tuple(point for point in points if point.panel in found)


def is_figure(text: str) -> bool:
    """Tells whether a word of a command line means a figure, not a path.

    Args:
        text: The word.

    Returns:
        Whether it begins with a number and has no sign of a path in it.

    Example:
        >>> is_figure("7"), is_figure("4a"), is_figure("runs"), is_figure("./7")
        (True, True, False, False)
    """
    return bool(re.match(r"\d{1,2}(?!\d)[^/\\]*$", text))


def _bare(panel: str) -> str:
    """Returns a panel's name without spaces and signs, in small letters."""
    return re.sub(r"[\s:,]", "", panel).lower()
