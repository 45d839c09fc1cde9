"""The points of a sweep: a grid in W&B's order, random and Bayesian search by Optuna's samplers."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.sweepfile import Distribution, Fixed, SweepFile, Values
from lowrank.config.sweepfile.local import bounds, is_mapped, refusals
from lowrank.config.sweepfile.parameters import choices, steps
from lowrank.config.values import read_value
from lowrank.launch.names import GIVEN_BY, display_name
from lowrank.launch.sweeps.distributions import EDGE, cut, value_at
from lowrank.launch.sweeps.environment import environment_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_CUT = 1e-3  # the least share of a distribution whose loss is said

DEFAULT_METRIC = ("rank_mean", "minimize")
"""What a sweep without ``metric`` is said to be about: Optuna wants a value of each point."""


class Proposal(NamedTuple):
    """One point as Optuna keeps it.

    Attributes:
        params: Value of each parameter that varies; lists and mappings as JSON text.
        distributions: Where each came from.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class Search:
    """What points a sweep has.

    A grid's points are known from the start. A random point depends on the seed and its number
    only, so that every machine draws the same one; a Bayesian one also on the values known by then.

    Args:
        sweep: The file.
        overrides: Fields that have one value at every point.
        count: The most points, in place of the file's ``run_cap``; None leaves it to that.
        environment: What the environment decides of every point; None asks this process's.

    Attributes:
        sweep: The file.
        overrides: As given.
        environment: As given, or found.
        grid: Every point of a grid, by number; None for the other methods.
        cap: The most points; None where only the grid limits them.
        size: Number of points in all.
        metric: Name of the metric that is a point's value.
        direction: ``minimize`` or ``maximize``.
        varied: The parameters that do.
        first_epochs: Those of the sweep's first runs, before it grew.
        stood: At which values earlier points stood of those that did not vary then.
        notes: Lines on what the search does otherwise than the file says.
        spelled: The name in Optuna's storage of each that varies, where it is another.

    Raises:
        InputError: A line for each thing that Optuna cannot express, for a point that the
            configuration refuses, or if the sweep would have no end.
    """

    def __init__(
        self,
        sweep: SweepFile,
        overrides: Mapping[str, Any],
        *,
        count: int | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        lines = list(refusals(sweep.raw, sweep.parameters, overrides))
        if sweep.method != "grid":
            lines += sweep.contradictions(overrides)
        if lines:
            raise InputError([f"{sweep.path}: {line}" for line in lines])
        self.sweep = sweep
        self.overrides = dict(overrides)
        found = environment_of(sweep, overrides) if environment is None else environment
        self.environment = dict(found)
        self.metric, goal = sweep.metric or DEFAULT_METRIC
        self.direction: Literal["minimize", "maximize"] = (
            "maximize" if goal == "maximize" else "minimize"
        )
        self.varied = {
            name: parameter
            for name, parameter in sweep.parameters.items()
            if name not in overrides and not isinstance(parameter, Fixed)
        }
        self.first_epochs = self.epochs
        self.stood: dict[str, Any] = {}
        self.spelled: dict[str, str] = {}
        self._texts: dict[str, Any] = {}
        self._value_at: dict[str, Callable[[float], Any]] = {}
        self.notes: list[str] = []
        for name, parameter in self.varied.items():
            if not isinstance(parameter, Fixed) and is_mapped(parameter):
                self._value_at[name] = value_at(name, parameter)
                if (share := cut(name, parameter)) > _CUT:
                    self.notes.append(
                        f"{name}: {share:.1%} of its distribution are cut off, which {name} does "
                        "not take"
                    )
            elif isinstance(parameter, Values):
                self._texts |= {_encode(v): v for v in parameter.values if _encode(v) is not v}
        # Each point once: overrides can make several the same.
        self.grid = list(sweep.distinct(overrides).values()) if sweep.method == "grid" else None
        cap = sweep.run_cap if count is None else count
        self.cap = cap
        limits = [] if cap is None else [cap]
        if self.grid is not None:
            limits.append(len(self.grid))
            own = (each for name, each in sweep.parameters.items() if name not in overrides)
            if (combinations := math.prod(map(steps, own))) > len(self.grid):
                self.notes.append(
                    f"{combinations} combinations of values are {len(self.grid)} points: the "
                    "others differ from these only in what has no effect or is overridden"
                )
        if not limits:
            raise InputError(
                f"{sweep.path}: method {sweep.method} has no end; give it run_cap, or --count=N"
            )
        self.size = min(limits)

    @functools.cached_property
    def epochs(self) -> int | None:
        """The epochs of every run; None where they vary."""
        given = self.overrides.get("epochs", self.environment.get("epochs"))
        if given is None and "epochs" in self.sweep.swept:
            return None
        field = Config.model_fields["epochs"]
        if given is None:
            given = self.sweep.fixed.get("epochs", field.default)
        return int(read_value(field.annotation, given))

    @functools.cached_property
    def configs(self) -> list[Config]:
        """The configuration of every point of a grid, by number."""
        return [self.config(point) for point in self.grid or ()]

    def config(self, values: Mapping[str, Any]) -> Config:
        """Returns the configuration of a point's run, as far as the sweep decides it.

        Args:
            values: Of every parameter.
        """
        variables = {f"LOWRANK_{n.upper()}": str(value) for n, value in self.environment.items()}
        words = self.sweep.command(values, self.overrides)
        return parse(words, environ=variables, settle=Config.model_fields)

    def command(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the words of a point's run, which name it by the point unless it is named.

        Args:
            values: Of every parameter.
        """
        words = self.sweep.command(values, self.overrides)
        given = {*self.overrides, *self.sweep.fixed, *self.sweep.swept}
        if "name" in given or any(os.environ.get(variable) for variable in GIVEN_BY):
            return words
        swept = [field for field in self.sweep.swept if field not in self.overrides]
        name = display_name(swept, dict(self.config(values)))
        return [*words, f"--name={name}"] if name else words

    def propose(self, index: int, seed: int, past: Sequence[FrozenTrial] = ()) -> Proposal:
        """Makes a point.

        Args:
            index: Its number, from 0.
            seed: Of random and Bayesian search.
            past: Trials with a value, and those that run; used by Bayesian search only.

        Returns:
            The point.
        """
        import optuna

        space = self.space()
        if self.grid is not None:
            point = self.grid[index]
            return Proposal({name: _encode(point[name]) for name in space}, space)
        # Text seeds Python's generator through SHA-512: neighbours have nothing in common.
        own_seed = random.Random(f"{seed} {index}").randrange(2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: optuna.samplers.BaseSampler = (
                optuna.samplers.RandomSampler(seed=own_seed)
                if self.sweep.method == "random"
                # Running points count as bad ones, so that slots do not try the same place.
                else optuna.samplers.TPESampler(seed=own_seed, constant_liar=True)
            )
            study = optuna.create_study(sampler=sampler, direction=self.direction)
            if self.sweep.method == "bayes":
                study.add_trials(self.seen(past))
            return Proposal(study.ask(dict(space)).params, space)

    def seen(self, past: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Returns trials as points of the present space, also those of a sweep that was smaller.

        Args:
            past: The trials.
        """
        import optuna

        seen, space = [], self.space()
        for trial in past:
            if trial.distributions == space:
                seen.append(trial)
                continue
            values = (
                self.stood | {_plain(name): value for name, value in trial.params.items()}
                if self.grid is None
                else self.grid[int(trial.user_attrs["point"])]
            )
            with contextlib.suppress(ValueError):  # a value that the search cannot draw
                seen.append(
                    optuna.create_trial(
                        state=trial.state,
                        value=trial.value,
                        params={name: _encode(values[name]) for name in space},
                        distributions=dict(space),
                        intermediate_values=trial.intermediate_values,
                    )
                )
        return seen

    def space(self) -> dict[str, BaseDistribution]:
        """Returns Optuna's distribution of each parameter that varies."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        space: dict[str, BaseDistribution] = {}
        for name, parameter in self.varied.items():
            if name in self._value_at:
                space[name] = FloatDistribution(EDGE, 1 - EDGE)
            elif isinstance(parameter, Values) or self.grid is not None:
                space[name] = CategoricalDistribution([_encode(v) for v in choices(parameter)])
            elif isinstance(parameter, Distribution):
                space[name] = _distribution(parameter)
        return space

    def stored(self, proposal: Proposal) -> Proposal:
        """Returns a point as the storage takes it: there a list of choices has a name for ever.

        Args:
            proposal: The point.

        Returns:
            The point, with `spelled` names.
        """
        return Proposal(
            *({self.spelled.get(n, n): each for n, each in of.items()} for of in proposal)
        )

    def point(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the value of every parameter at a point, without overrides.

        Args:
            number: Of the point.
            params: Of a search, as Optuna keeps them.

        Returns:
            Values by name, in the file's order.
        """
        if self.grid is not None:
            point = self.grid[number]
            return {name: point[name] for name in self.sweep.parameters}
        fixed = {n: p.value for n, p in self.sweep.parameters.items() if isinstance(p, Fixed)}
        values = {
            _plain(name): self._texts.get(value, value) if isinstance(value, str) else value
            for name, value in params.items()
        }
        values |= {n: of(values[n]) for n, of in self._value_at.items() if n in values}
        known = fixed | self.stood | values
        return {name: known[name] for name in self.sweep.parameters if name in known}


def _plain(name: str) -> str:
    """Returns the parameter that a name in the storage is of."""
    return name.partition("#")[0]


def _distribution(parameter: Distribution) -> BaseDistribution:
    """Returns Optuna's distribution for one of W&B's that `refusals` has let pass."""
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high = bounds(parameter)
    q = parameter.arguments.get("q", 1)
    log = "log" in parameter.kind
    if parameter.kind == "int_uniform" or (
        parameter.kind.startswith("q_") and all(float(n).is_integer() for n in (low, high, q))
    ):
        step = 1 if log or parameter.kind == "int_uniform" else int(q)
        return IntDistribution(int(low), int(high), log=log, step=step)
    step_or_none = float(q) if parameter.kind == "q_uniform" else None
    return FloatDistribution(float(low), float(high), log=log, step=step_or_none)


def _encode(value: Any) -> Any:
    """Returns a value as Optuna keeps it: what is no number, text, truth or None as JSON.

    Example:
        >>> _encode(0.1), _encode([60, 100]), _encode({"lr": 0.1})
        (0.1, '[60, 100]', '{"lr": 0.1}')
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value)


def described(values: Mapping[str, Any]) -> str:
    """Returns a point in words.

    Args:
        values: By parameter.

    Returns:
        One line.

    Example:
        >>> described({"lr": 0.1, "milestones": [60, 100]})
        'lr=0.1 milestones=[60, 100]'
    """
    return " ".join(f"{name}={value}" for name, value in values.items())
