"""Sweeps that grow: which files continue one is stated case by case, and one is really trained.

What ran elsewhere counts by what it is, not by where it ran.

What must hold of every growth: an earlier point keeps its number and so its run, none is lost, and
what is not a point any more is refused by its name.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from lowrank import load_run
from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.sweepfile import load_sweep_file
from lowrank.launch.sweeps import elsewhere as elsewhere_module
from lowrank.launch.sweeps.growth import contradictions, definition_of, grow, search_of
from lowrank.launch.sweeps.identity import begin
from lowrank.launch.sweeps.points import Ended
from lowrank.launch.sweeps.presence import Presence
from lowrank.launch.sweeps.search import Search
from lowrank.launch.sweeps.standing import contradicting
from lowrank.launch.sweeps.storage import file_url, open_storage
from lowrank.launch.sweeps.study import SweepStudy
from tests.launch.sweeps.helpers import TINY, runs, sweep, write_sweep

METRIC = {"name": "rank_mean", "goal": "minimize"}


@pytest.fixture
def load(tmp_path):
    def make(parameters, overrides=None, method="grid", environment=None):
        path = tmp_path / "a.yaml"
        file = {"program": "train.py", "method": method, "metric": METRIC, "run_cap": 50}
        path.write_text(yaml.safe_dump({**file, "parameters": parameters}))
        return Search(load_sweep_file(path), overrides or {}, environment=environment)

    return make


def several(*values):
    return {"values": list(values)}


LR = {"lr": several(0.1, 0.2)}
STATE, ALL = {"momentum": {"value": 0.9}}, {"keep_checkpoint": {"value": "all"}}
GROWS = {
    "a value": (LR, {"lr": several(0.05, 0.1, 0.2)}),
    "seeds, at the default before": (LR, {**LR, "seed": several(2, 1, 0)}),
    "a parameter, fixed before": (
        {**LR, "depth": {"value": 3}},
        {**LR, "depth": several(2, 3)},
    ),
    "a fixed one at its default": (LR, {**LR, "momentum": {"value": 0.0}}),
    "epochs": ({**LR, "epochs": {"value": 4}}, {**LR, "epochs": {"value": 9}}),
    "epochs, with all that a checkpoint holds": (
        {**LR, "epochs": {"value": 4}, **STATE, **ALL},
        {**LR, "epochs": {"value": 9}, **STATE, **ALL},
    ),
    "epochs that vary": ({**LR, "epochs": {"value": 4}}, {**LR, "epochs": several(2, 4, 9)}),
    "what is not of the experiment": (LR, {**LR, "tracking": {"value": "disabled"}}),
}


@pytest.mark.parametrize("case", GROWS)
def test_a_grid_that_has_all_earlier_points_goes_on_with_their_numbers(load, case):
    before, now = (load(parameters) for parameters in GROWS[case])
    assert contradictions(before, now) == {}
    earlier = [before.config(point) for point in before.grid]
    grow(now, [before])
    later = [now.config(point) for point in now.grid]
    assert len({repr(config) for config in later}) == len(later)
    for old, new in zip(earlier, later, strict=False):
        own = dict(new) | {"epochs": old.epochs, "tracking": old.tracking}
        assert own == dict(old)
        assert new.epochs == old.epochs or now.epochs is not None


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        (LR, {"lr": several(0.2)}, {"lr"}),
        ({**LR, "depth": {"value": 3}}, {**LR, "depth": several(2, 4)}, {"depth"}),
        ({**LR, "depth": {"value": 3}}, LR, {"depth"}),
        ({**LR, "epochs": {"value": 4}}, {**LR, "epochs": {"value": 3}}, {"epochs"}),
        (
            {**LR, "epochs": {"value": 4}, "schedule": {"value": "cosine"}},
            {**LR, "epochs": {"value": 8}, "schedule": {"value": "cosine"}},
            {"epochs"},
        ),
        (
            {**LR, "epochs": {"value": 5}, "measure_every": {"value": 2}},
            {**LR, "epochs": {"value": 8}, "measure_every": {"value": 2}},
            {"epochs"},
        ),
        (
            {**LR, "epochs": {"value": 5}, "momentum": several(0.0, 0.9)},
            {**LR, "epochs": {"value": 8}, "momentum": several(0.0, 0.9)},
            {"epochs"},
        ),
        (
            {**LR, "epochs": {"value": 5}, **STATE},
            {**LR, "epochs": {"value": 8}, **STATE, **ALL},  # too late for the earlier runs
            {"epochs"},
        ),
        (
            {"lr": several(0.1, 0.2), "depth": several(2, 3)},
            {"config": {"values": ["{lr: 0.1, depth: 2}", "{lr: 0.2, depth: 3}"]}},
            {"parameters"},
        ),
    ],
)
def test_a_grid_that_lacks_an_earlier_point_is_refused_by_name(load, before, now, names):
    assert contradictions(load(before), load(now)).keys() == names


def test_overrides_and_environment_are_values_like_others(load):
    plain = load({**LR, "depth": several(2, 3)}, environment={"batch_size": 64})
    one_depth = load(LR, {"depth": "3"}, environment={"batch_size": 64})
    assert contradictions(one_depth, plain) == {}
    assert contradictions(plain, one_depth).keys() == {"depth"}
    assert contradictions(plain, load(plain.sweep.raw["parameters"])).keys() == {"batch_size"}


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ({"min": 0.1, "max": 0.5}, {"min": 0.05, "max": 0.5}, False),
        ({"min": 0.1, "max": 0.5}, {"min": 0.2, "max": 0.5}, True),
        (several(0.1, 0.2), several(0.2, 0.1, 0.4), False),
        (several(0.1, 0.2), several(0.2, 0.4), True),
        ({"value": 0.2}, {"min": 0.1, "max": 0.5}, False),
        ({"value": 0.2}, {"min": 0.3, "max": 0.5}, True),
    ],
)
def test_a_search_may_become_wider(load, before, now, refused):
    seeds = {"seed": {"values": [0, 1]}}
    old, new = (load({"lr": lr, **seeds}, method="random") for lr in (before, now))
    assert bool(contradictions(old, new)) == refused


def test_a_definition_says_what_the_points_were(load):
    search = load({**LR, "milestones": several([1, 2], [])}, {"depth": "3"}, environment={})
    again = search_of(definition_of(search), search.sweep)
    assert again.grid == search.grid
    assert contradictions(again, search) == contradictions(search, again) == {}


def join(directory, search):
    """Joins the sweep as a launcher does that has another file than those before."""
    storage = open_storage(file_url(directory / "points.sqlite"))
    study, identity, _ = begin(
        storage,
        "a",
        direction=search.direction,
        definition=definition_of(search),
        search_seed=None,
        heartbeat=1,
        contradictions=lambda before: contradicting(search, before),
    )
    earlier = [search_of(each, search.sweep) for each in identity.definitions[:-1]]
    if earlier:
        grow(search, earlier)
    joined = SweepStudy(storage, study, identity, search, Presence(directory / "runs"), 1)
    joined.fill()
    return joined


def take(study, name="lr"):
    taken = {}
    while points := study.claim(lambda _: True):
        for point in points:
            taken[point.index] = point.values
            study.finish(point, Ended("finished", float(point.values[name])))
    return taken


def test_only_what_is_new_is_handed_out_and_longer_runs_are_once_more(load, tmp_path):
    file = {"lr": several(0.1, 0.3), "epochs": {"value": 2}}
    old = join(tmp_path, load(file))
    assert take(old).keys() == {0, 1}
    file |= {"lr": several(0.2, 0.1, 0.3), "milestones": several([], [1])}
    new = take(join(tmp_path, load(file)))
    assert new.keys() == {2, 3, 4, 5}
    assert {(p["lr"], *p["milestones"]) for p in new.values()} == {
        *((0.2,), (0.2, 1), (0.1, 1), (0.3, 1))
    }
    file["epochs"] = {"value": 5}
    study = join(tmp_path, load(file))
    assert study.tally().done == 0
    longer = take(study)
    assert {n: longer[n]["lr"] for n in (0, 1)} == {0: 0.1, 1: 0.3}
    assert {n: longer[n]["milestones"] for n in new} == {n: new[n]["milestones"] for n in new}
    assert join(tmp_path, load(file)).tally().settled
    assert take(old) == {}  # whoever still has the earlier file
    assert (old.tally().done, old.tally().size) == (2, 2)


def test_what_the_first_runs_kept_decides_whether_they_can_be_longer(load, tmp_path):
    file = {**LR, **STATE, "epochs": {"value": 2}}
    join(tmp_path, load(file))
    join(tmp_path, load(file | ALL))
    with pytest.raises(InputError, match="goes on only where keep_checkpoint was all"):
        join(tmp_path, load(file | ALL | {"epochs": {"value": 4}}))
    kept = [load(file | {"epochs": {"value": n}}, {"keep_checkpoint": "all"}) for n in (2, 4)]
    (tmp_path / "kept").mkdir()
    join(tmp_path / "kept", kept[0])
    assert join(tmp_path / "kept", kept[1]).tally().size == 2


def test_a_bayesian_search_keeps_its_points_and_knows_of_them(load, tmp_path, monkeypatch):
    file = {"lr": {"min": 0.1, "max": 0.5}, "batch_size": several(16, 32), "depth": {"value": 3}}
    first = load(file, method="bayes")
    first.size = 3
    made = take(join(tmp_path, first))
    file |= {"batch_size": several(16, 32, 64), "depth": several(2, 3)}
    second = load(file, method="bayes")
    second.size = 6
    seen = []
    of_now = second.seen
    monkeypatch.setattr(second, "seen", lambda past: seen.append(of_now(past)) or seen[-1])
    study = join(tmp_path, second)
    assert {n: second.point(n, study.points()[n][0].params) for n in made} == made
    assert {values["depth"] for values in made.values()} == {3}
    assert take(study).keys() == {3, 4, 5}
    assert [trial.params["lr"] for trial in seen[0]] == [made[n]["lr"] for n in range(3)]
    assert {trial.params["depth"] for trial in seen[0]} == {3}


def test_what_ran_elsewhere_counts_where_it_is_the_same_experiment(load, tmp_path, monkeypatch):
    search = load({**LR, "seed": several(0, 1), "epochs": {"value": 2}})

    def ran(run_id, state="finished", **other):
        config = Config(lr=0.2, seed=1, epochs=2).recorded() | other
        metrics = {"rank_mean": np.array([9.0, 7.0])}
        return SimpleNamespace(id=run_id, state=state, config=config, metrics=metrics)

    elsewhere = [
        *(ran("a", "killed"), ran("b", epochs=3), ran("c", epsilons=[0.5]), ran("d", depth=2)),
        ran("e", device="cuda", threads=3, output_dir="there", tracking="online"),
        ran("f", lr=0.1, seed=0),
    ]
    monkeypatch.setattr(elsewhere_module, "find", lambda _: (elsewhere, []))
    monkeypatch.setattr(elsewhere_module, "lost", lambda _: None)
    ends, lines = elsewhere_module.found_in(search, ["there"])
    assert ends == dict.fromkeys((0, 3), Ended("finished", 7.0))
    assert lines == ["2 of 4 points ran to their end in there"]
    study = join(tmp_path, search)
    study.credit(ends)
    assert study.tally().done == 2
    assert take(study).keys() == {1, 2}


@pytest.mark.slow
def test_a_sweep_really_grows_and_its_runs_go_on(tmp_path, monkeypatch, capsys):
    tracking = {"tracking": {"value": "disabled"}}
    file = str(write_sweep(tmp_path, {"lr": {"values": [0.1]}, **tracking}))
    first = sweep(tmp_path, file)
    assert first.returncode == 0, first.stdout + first.stderr
    (old,) = runs(tmp_path).values()
    before = {name: old.metrics[name].copy() for name in ("rank_mean", "train_loss")}
    parameters = {"lr": {"values": [0.2, 0.1]}, "epochs": {"value": 4}, **tracking}
    write_sweep(tmp_path, parameters)
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", file, "--dry_run", "--gpus=none"]) == 0
    told = capsys.readouterr().out
    assert "it has grown from 1 to 2 points" in told
    assert "it has grown from 2 to 4 epochs" in told
    assert "0 of 2 points count already, 1 is new, 1 goes on" in told
    second = sweep(tmp_path, file)
    assert second.returncode == 0, second.stdout + second.stderr
    assert {run.config["lr"]: run.epochs[-1] for run in runs(tmp_path).values()} == {0.1: 4, 0.2: 4}
    grown = load_run(tmp_path / "runs" / old.id)
    for name, values in before.items():
        assert np.array_equal(grown.metrics[name][:3], values)
    write_sweep(tmp_path, {**parameters, "lr": {"values": [0.2]}})
    assert main(["sweep", file, "--gpus=none"]) == 2
    error = capsys.readouterr().err
    assert (
        "sweep tiny was begun differently: parameters.lr.values was [0.2, 0.1], not [0.2]" in error
    )


@pytest.mark.slow
def test_only_what_is_missing_in_other_directories_is_run(tmp_path, monkeypatch, capsys):
    tiny = {**TINY, "tracking": "disabled"}
    file = str(write_sweep(tmp_path, {"lr": {"values": [0.1, 0.2]}}, tiny=tiny))
    assert sweep(tmp_path, file).returncode == 0
    write_sweep(tmp_path, {"lr": {"values": [0.4, 0.2]}}, tiny=tiny)
    monkeypatch.chdir(tmp_path)
    words = [file, "--missing_from=runs", "--output_dir=more"]
    assert main(["sweep", *words, "--gpus=none", "--dry_run"]) == 0
    assert "1 of 2 points ran to their end in runs" in capsys.readouterr().out
    done = sweep(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 points are done already" in done.stdout
    (missing,) = (tmp_path / "more").glob("*/record.sqlite")
    assert load_run(missing).config["lr"] == 0.4
