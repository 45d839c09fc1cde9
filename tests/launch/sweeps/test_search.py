"""The points of a sweep: against W&B's order, closed forms of distributions and by repetition.

What Optuna draws is checked by its definition: bounds, multiples of q, and, for logarithmic ones,
that as many draws lie in each decade. What it has not is checked against scipy's distributions.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from scipy import stats

from lowrank.common.errors import InputError
from lowrank.config.sweepfile import load_sweep_file
from lowrank.launch.sweeps.search import Search


@pytest.fixture
def load(tmp_path):
    def make(parameters, method="random", **more):
        path = tmp_path / "a.yaml"
        sweep = {"program": "train.py", "method": method, "parameters": parameters, **more}
        path.write_text(yaml.safe_dump(sweep))
        return load_sweep_file(path)

    return make


def drawn(search, name, count=400, seed=0):
    return [search.point(i, search.propose(i, seed).params)[name] for i in range(count)]


def test_a_grid_has_wandbs_points_in_wandbs_order(load):
    parameters = {"seed": {"values": [2, 0]}, "lr": {"values": [0.1, 0.2, 0.3]}}
    search = Search(load(parameters, "grid"), {})
    points = [search.point(i, search.propose(i, 0).params) for i in range(search.size)]
    # W&B sorts parameters by name; the last changes fastest.
    expected = [(lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (2, 0)]
    assert [(point["lr"], point["seed"]) for point in points] == expected


def test_an_override_leaves_each_different_point_once(load):
    parameters = {"seed": {"values": [0, 1]}, "lr": {"values": [0.1, 0.2]}}
    assert Search(load(parameters, "grid"), {"lr": "0.5"}).size == 2


def test_lists_and_coupled_values_survive_optuna(load):
    parameters = {
        "milestones": {"values": [[1, 2], [], [3]]},
        "config": {"values": [{"lr": 0.1, "depth": 2}, "{lr: 0.2}"]},
    }
    search = Search(load(parameters, "grid"), {})
    points = [search.point(i, search.propose(i, 0).params) for i in range(search.size)]
    assert [point["milestones"] for point in points[:3]] == [[1, 2], [], [3]]
    assert points[0]["config"] == {"lr": 0.1, "depth": 2}
    assert points[-1]["config"] == "{lr: 0.2}"


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_seed_and_a_number_make_a_point(load, method):
    parameters = {"lr": {"min": 0.01, "max": 1.0}, "seed": {"values": [0, 1, 2]}}
    metric = {"name": "rank_mean", "goal": "minimize"}
    sweep = load(parameters, method, run_cap=9, metric=metric)
    again = [drawn(Search(sweep, {}), "lr", 9, seed=5) for _ in range(2)]
    assert again[0] == again[1]
    assert len(set(again[0])) == 9
    assert set(again[0]).isdisjoint(drawn(Search(sweep, {}), "lr", 9, seed=6))


def test_uniform_draws_fill_their_range(load):
    search = Search(load({"momentum": {"min": 0.2, "max": 0.8}}, run_cap=1), {})
    values = np.array(drawn(search, "momentum"))
    assert 0.2 <= values.min() < 0.25
    assert 0.75 < values.max() <= 0.8
    assert abs(np.mean(values < 0.5) - 0.5) < 0.1  # 4 standard deviations


def test_logarithmic_draws_fall_into_each_decade_alike(load):
    parameter = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}
    search = Search(load({"weight_decay": parameter}, run_cap=1), {})
    decades = np.floor(np.log10(drawn(search, "weight_decay", 600)))
    counts = [np.sum(decades == decade) for decade in (-4, -3, -2)]
    assert sum(counts) == 600
    assert all(abs(count - 200) < 50 for count in counts)  # 4.3 standard deviations


def test_whole_numbers_stay_whole_and_hit_both_ends(load):
    search = Search(load({"depth": {"min": 2, "max": 5}}, run_cap=1), {})
    values = drawn(search, "depth")
    assert set(values) == {2, 3, 4, 5}
    assert all(type(value) is int for value in values)


def test_draws_with_a_step_are_its_multiples(load):
    parameter = {"distribution": "q_uniform", "min": 10, "max": 100, "q": 16}
    values = drawn(Search(load({"batch_size": parameter}, run_cap=1), {}), "batch_size")
    assert set(values) == {16, 32, 48, 64, 80, 96}


def test_bayesian_search_goes_where_values_are_low(load):
    import optuna

    metric = {"name": "rank_mean", "goal": "minimize"}
    parameters = {"momentum": {"min": 0.0, "max": 0.9}}
    search = Search(load(parameters, "bayes", metric=metric, run_cap=99), {})
    past = [
        optuna.create_trial(
            params={"momentum": x}, distributions=search.space(), value=(x - 0.7) ** 2
        )
        for x in np.linspace(0.0, 0.9, 40).tolist()
    ]
    near = [search.propose(40, seed, past).params["momentum"] for seed in range(30)]
    far = [search.propose(40, seed).params["momentum"] for seed in range(30)]
    assert np.mean(np.abs(np.array(near) - 0.7)) < 0.5 * np.mean(np.abs(np.array(far) - 0.7))


MAPPED = {  # what scipy has of the same distribution, cut to what the field takes, and the step
    "normal": ("lr", {"mu": 0.3, "sigma": 0.2}, stats.truncnorm(-1.5, 1e9, 0.3, 0.2), None),
    "q_normal": ("depth", {"mu": 8, "sigma": 3, "q": 2}, stats.truncnorm(-7 / 3, 1e9, 8, 3), 2),
    "log_normal": ("lr", {"mu": -2, "sigma": 1}, stats.lognorm(1, scale=math.exp(-2)), None),
    "q_log_normal": (
        "batch_size",
        {"mu": 4, "sigma": 0.5, "q": 8},
        stats.lognorm(0.5, scale=math.exp(4)),
        8,
    ),
    "beta": ("momentum", {"a": 5, "b": 2}, stats.beta(5, 2), None),
    "q_beta": ("dropout", {"a": 2, "b": 5, "q": 0.05}, stats.beta(2, 5), 0.05),
    "inv_log_uniform_values": ("lr", {"min": 0.01, "max": 1.0}, stats.loguniform(0.01, 1), None),
    "q_log_uniform_values": (
        "batch_size",
        {"min": 8, "max": 512, "q": 8},
        stats.loguniform(8, 512),
        8,
    ),
}


@pytest.mark.parametrize("kind", MAPPED)
def test_distributions_that_optuna_has_not_are_those_of_scipy(load, kind):
    name, arguments, expected, step = MAPPED[kind]
    fixed = {"model": {"value": "vgg11"}} if name == "dropout" else {}
    sweep = load({name: {"distribution": kind, **arguments}, **fixed}, run_cap=1)
    values = np.array(drawn(Search(sweep, {}), name, 500))
    if step:
        assert np.allclose(values / step, np.round(values / step))
        assert len({*values.tolist()}) > 5
    # Of what is rounded, all that is rounded to a multiple lies below the middle to the next.
    share = np.mean(values[:, None] <= values, axis=0)
    error = np.abs(share - expected.cdf(values + (step or 0) / 2))
    assert error.max() < 1.95 / math.sqrt(500)  # Kolmogorov: less in 999 of 1,000 samples
    if name in ("depth", "batch_size"):
        assert all(type(value) is int for value in drawn(Search(sweep, {}), name, 3))


def test_weighted_choices_are_drawn_as_often_as_asked_for(load):
    parameter = {"values": [[1, 2], [3], []], "probabilities": [0.7, 0.0, 0.3]}
    values = drawn(Search(load({"milestones": parameter}, run_cap=1), {}), "milestones")
    counts = [values.count(each) for each in ([1, 2], [3], [])]
    assert counts[1] == 0
    assert abs(counts[0] - 280) < 37  # 4 standard deviations
    assert sum(counts) == 400


def test_what_a_field_does_not_take_is_cut_off_and_said(load):
    parameter = {"distribution": "normal", "mu": 0.0, "sigma": 0.1}
    search = Search(load({"lr": parameter}, run_cap=1), {})
    assert search.notes == ["lr: 50.0% of its distribution are cut off, which lr does not take"]
    values = np.array(drawn(search, "lr"))
    assert values.min() > 0
    assert abs(np.mean(values < 0.0674) - 0.5) < 0.1  # the median of a half normal


@pytest.mark.parametrize(
    ("parameters", "more", "message"),
    [
        (
            {"depth": {"distribution": "q_uniform", "min": 5, "max": 7, "q": 4}},
            {},
            "depth: no multiple of q 4 lies between min and max",
        ),
        (
            {"lr": {"min": 0.1, "max": 1.0}},
            {"early_terminate": {"type": "hyperband", "min_iter": 3}},
            "early_terminate: the file lacks 'metric'",
        ),
        (
            {"lr": {"min": 0.1, "max": 1.0}},
            {"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2.5}},
            "early_terminate.eta: got 2.5; allowed: a whole number from 2",
        ),
        (
            {"lr": {"min": 0.1, "max": 1.0}},
            {"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 2}},
            "early_terminate: no epoch at which a run may end",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(load, parameters, more, message):
    with pytest.raises(InputError, match=message):
        Search(load(parameters, run_cap=5, **more), {})


def test_a_search_without_end_is_refused(load):
    sweep = load({"lr": {"min": 0.1, "max": 1.0}})
    with pytest.raises(InputError, match="run_cap, or --count=N"):
        Search(sweep, {})
    assert Search(sweep, {}, count=7).size == 7


def test_a_point_that_the_configuration_refuses_is_told_beforehand(load):
    with pytest.raises(InputError, match="lr x weight_decay"):
        Search(load({"lr": {"values": [0.1, 100.0]}}, "grid"), {"weight_decay": "0.1"})
