"""Sweep files: what is read, every kind of fault, and the points of a grid.

Truth is W&B's own client for what an agent passes, `itertools.product` for the points, and the
wording written out here. Each fault is a file that really has it.

    python -m pytest tests/config/test_sweepfile.py
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank import load_run
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.sweepfile import Distribution, Fixed, Metric, Values, load_sweep_file, schema
from lowrank.config.sweepfile.keys import METRICS, metric_problem
from lowrank.config.yamltext import read_yaml
from train import main

HEAD = "program: train.py\nmethod: grid\n"


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def sweep(folder: Path, parameters: str, head: str = HEAD):
    """Reads a sweep file of these parameters, given as lines without their indent."""
    lines = "".join(f"  {line}\n" for line in parameters.splitlines())
    return load_sweep_file(write(folder, f"{head}parameters:\n{lines}"))


def said(folder: Path, text: str | bytes) -> list[str]:
    """Returns the lines of complaint about a file, its path written FILE."""
    path = folder / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_sweep_file(path)
    return [line.replace(str(path), "FILE") for line in caught.value.lines]


def with_parameters(lines: str, method: str = "grid") -> str:
    return f"program: train.py\nmethod: {method}\nparameters:\n  {lines}\n"


def test_everything_that_a_file_says_is_read(tmp_path):
    path = write(
        tmp_path,
        """\
program: train.py
method: bayes
name: wide
description: two words
project: ranks
metric: {name: rank_mean, goal: maximize}
early_terminate: {type: hyperband, min_iter: 3}
run_cap: 40
parameters:
  seed: {value: null}
  batch_norm: {values: [true, false], probabilities: [0.25, 0.75]}
  lr: {distribution: log_uniform_values, min: 1.0e-3, max: 1}
  depth: {min: 2, max: 6}
  weight_decay: {min: 0.0, max: 0.01}
  width: {distribution: q_normal, mu: 100, sigma: 10}
  config: {values: ['{momentum: 0.9}', {momentum: 0.0, gamma: 0.5}]}
""",
    )
    read = load_sweep_file(path)
    assert (read.path, read.name, read.description, read.method) == (
        path, "wide", "two words", "bayes",
    )  # fmt: skip
    assert read.metric == Metric("rank_mean", "maximize")
    assert (read.early_terminate, read.run_cap) == ({"type": "hyperband", "min_iter": 3}, 40)
    assert read.raw == yaml.safe_load(path.read_text())
    assert list(read.parameters.items()) == [
        ("seed", Fixed(None)),
        ("batch_norm", Values((True, False), (0.25, 0.75))),
        ("lr", Distribution("log_uniform_values", {"min": 1e-3, "max": 1})),
        ("depth", Distribution("int_uniform", {"min": 2, "max": 6})),
        ("weight_decay", Distribution("uniform", {"min": 0.0, "max": 0.01})),
        ("width", Distribution("q_normal", {"mu": 100, "sigma": 10, "q": 1.0})),
        ("config", Values(("{momentum: 0.9}", {"momentum": 0.0, "gamma": 0.5}))),
    ]
    assert read.swept == (
        "depth", "width", "batch_norm", "lr", "momentum", "weight_decay", "gamma",
    )  # fmt: skip
    assert read.count is None
    with pytest.raises(InputError, match="method bayes has no list of points, only grid"):
        read.points()


def test_what_a_file_does_not_say(tmp_path):
    read = sweep(tmp_path, "lr: {value: 0.1}")
    assert (read.name, read.description, read.metric) == ("a", "", None)
    assert (read.early_terminate, read.run_cap, read.swept) == (None, None, ())
    assert read.points() == [{"lr": 0.1}]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_point_of_a_search_has_a_configuration(tmp_path, method):
    head = f"program: train.py\nmethod: {method}\nmetric: {{name: rank_mean}}\n"
    read = sweep(tmp_path, "lr: {min: 0.1, max: 0.2}\ndepth: {min: 1, max: 9}", head)
    assert read.metric == Metric("rank_mean", "minimize")
    assert read.config({"lr": 0.15, "depth": 4.0}) == Config(lr=0.15, depth=4)


DISTRIBUTIONS = [
    "uniform, min: 0.1, max: 0.2",
    "log_uniform_values, min: 0.1, max: 0.2",
    "inv_log_uniform_values, min: 0.1, max: 0.2",
    "q_uniform, min: 0.1, max: 0.2, q: 0.01",
    "q_log_uniform_values, min: 0.1, max: 0.2, q: 0.01",
    "normal",
    "normal, mu: 0.1, sigma: 0.01",
    "log_normal",
    "q_normal, q: 0.1",
    "q_log_normal",
    "beta",
    "q_beta, a: 2, b: 3, q: 0.1",
]


@pytest.mark.parametrize("text", DISTRIBUTIONS)
def test_every_distribution_of_wandb_is_read(tmp_path, text):
    head = "program: train.py\nmethod: random\n"
    read = sweep(tmp_path, f"lr: {{distribution: {text}}}", head)
    found = read.parameters["lr"]
    assert isinstance(found, Distribution)
    stated = yaml.safe_load(f"{{distribution: {text}}}")
    assert found.kind == stated.pop("distribution")
    defaults = {"mu": 0, "sigma": 1, "a": 1, "b": 1, "q": 1}
    assert found.arguments == {name: defaults.get(name) for name in found.arguments} | stated
    assert read.swept == ("lr",)


# Each: the file, the lines expected.
FAULTS: dict[str, tuple[str | bytes, list[str]]] = {
    "nothing": ("", ["FILE must be a mapping with method, program and parameters"]),
    "a list": ("- 1\n", ["FILE must be a mapping with method, program and parameters"]),
    "no text": (b"\xff\xfe\x00", ["FILE is not a text file in UTF-8"]),
    "too long": ("#" * 200_001, ["FILE is no sweep file: it is longer than 200000 bytes"]),
    "broken": (
        "method: [1\n", ["FILE is not plain YAML: line 2: did not find expected ',' or ']'"],
    ),
    "an object": (
        with_parameters("lr: {value: !!python/name:os.system x}"),
        ["FILE is not plain YAML: line 4: tags (!) are not read"],
    ),
    "an alias": (
        with_parameters("lr: &a {value: [*a]}"),
        ["FILE is not plain YAML: line 4: *a stands within what it is"],
    ),
    "laughs": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
            for before, name in itertools.pairwise("abcdef")
        ),
        ["FILE is not plain YAML: line 5: aliases make more than 100000 values"],
    ),
    "deep": (
        with_parameters("lr: {value: [[[[[[1]]]]]]}"),
        ["FILE is not plain YAML: line 4: nested more than 8 deep"],
    ),
    "a name twice": (
        with_parameters("lr: {value: 1}\n  lr: {value: 2}"),
        ["FILE is not plain YAML: given twice: 'lr'"],
    ),
    "a sexagesimal flood": (
        with_parameters(f"lr: {{value: {'1:' * 400}1.5}}"),
        ["FILE is not plain YAML: int too large to convert to float"],
    ),
    "a name that is no text": (
        with_parameters("on: {value: 1}"),
        ["FILE: parameters: the name True is not read as text; write it in quotes"],
    ),
    "a date": (
        with_parameters("name: {value: 2026-01-02}"),
        ["FILE: parameters.name.value: got 2026-01-02, read as a date; write it in quotes"],
    ),
    "a huge number": (
        with_parameters("seed: {value: 0x1ffffffffffffffffffff}"),
        ["FILE: parameters.seed.value: got a whole number of 81 bits; allowed: 63"],
    ),
    "an infinite number": (
        with_parameters("lr: {values: [0.1, .inf]}"),
        ["FILE: parameters.lr.values: got inf; allowed: a finite number"],
    ),
    "neither program nor parameters": (
        "method: grid\n",
        [
            "FILE: the file: lacks 'parameters'",
            "FILE: the file: lacks 'program'; allowed: train.py",
        ],
    ),
    "parameters of another kind": (
        "program: train.py\nmethod: grid\nparameters: [lr]\n",
        ["FILE: parameters: got ['lr']; allowed: a mapping"],
    ),
    "no parameter": (
        "program: train.py\nmethod: grid\nparameters: {}\n",
        ["FILE: parameters: got {}; allowed: at least 1"],
    ),
    "mistakes in the head": (
        "program: tran.py\nmethdo: grid\nmethod: gird\nmetric: {name: 3, gaol: minimize}\n"
        "run_cap: 0\nparameters:\n  lr: {value: 0.1}\n",
        [
            "FILE: the file: unknown key 'methdo', did you mean 'method'?",
            "FILE: method: got 'gird'; allowed: bayes, random, grid or custom, "
            "did you mean 'grid'?",
            "FILE: run_cap: got 0; allowed: above 0",
            "FILE: metric: unknown key 'gaol', did you mean 'goal'?",
            "FILE: metric.name: got 3; allowed: a text",
            "FILE: program: got 'tran.py'; allowed: train.py",
        ],
    ),
    "a goal that is none": (
        "program: train.py\nmethod: grid\nmetric: {name: rank_mean, goal: minimise}\n"
        "parameters:\n  lr: {value: 0.1}\n",
        ["FILE: metric.goal: got 'minimise'; allowed: minimize or maximize, "
         "did you mean 'minimize'?"],
    ),
    "half a Hyperband": (
        "program: train.py\nmethod: grid\nearly_terminate: {type: hyperband, max_iter: 9}\n"
        "parameters:\n  lr: {value: 0.1}\n",
        ["FILE: early_terminate: lacks max_iter and s or min_iter"],
    ),
    "what is not read": (
        "program: train.py\nmethod: custom\ncommand: [a]\nparameters:\n  lr: {value: 0.1}\n"
        "scheduler: {engine: optuna}\n",
        [
            "FILE: method: got 'custom'; allowed: grid, random or bayes",
            "FILE: scheduler is not read: the search is W&B's or that of lowrank sweep; "
            "leave it out",
            "FILE: command: got the word 'a'; allowed: ${env}, python, ${program}, --NAME=VALUE "
            "and ${args}",
            "FILE: command: lacks ${args}, so that every run would be the same",
        ],
    ),
    "bayes without a metric": (
        with_parameters("lr: {min: 0.1, max: 0.2}", "bayes"),
        ["FILE: the file: lacks 'metric', which method bayes minimises or maximises"],
    ),
    "unknown names": (
        with_parameters("weight_dcay: {values: [1]}\n  Config: {value: 1}"),
        [
            "unknown name 'weight_dcay' from FILE, did you mean 'weight_decay'?",
            "unknown name 'Config' from FILE, did you mean 'config'?",
        ],
    ),
    "numbers that YAML reads as text": (
        with_parameters("lr: {values: [0.1, 1e-4]}\n  epsilons: {value: [1e-3, 1.0e-2]}\n"
                        "  depth: {value: '3'}\n  weight_decay: {value: 1.5e3}\n"
                        "  gamma: {value: .5e-1}\n  config: {value: {momentum: 9e-1}}"),
        [
            "lr: got '1e-4' from FILE, which W&B reads as text; write 1.0e-4",
            "epsilons: got '1e-3' from FILE, which W&B reads as text; write 1.0e-3",
            "depth: got '3' from FILE, which W&B reads as text; write 3",
            "weight_decay: got '1.5e3' from FILE, which W&B reads as text; write 1.5e+3",
            "momentum: got '9e-1' from FILE, which W&B reads as text; write 9.0e-1",
        ],
    ),
    "values that no field allows": (
        with_parameters("lr: {values: [0.1, quick, 0]}\n  model: {value: resnet81}\n"
                        "  depth: {value: 2.5}\n  milestones: {value: [3, 2]}"),
        [
            "lr: got 'quick' from FILE; allowed: a finite number above 0",
            "lr: got 0 from FILE; allowed: a finite number above 0",
            "model: got 'resnet81' from FILE; allowed: mlp, resmlp, convnet, mixed, resnet18, "
            "resnet34, resnet50, vgg11, vgg13, vgg16, vgg19, vit or gpt, did you mean 'resnet18'?",
            "depth: got 2.5 from FILE; allowed: a whole number from 1 to 1000",
            "milestones: got [3, 2] from FILE; allowed: a list of increasing whole numbers from 1 "
            "such as [60,100,200], or [] for none",
        ],
    ),
    "values twice": (
        with_parameters("depth: {values: [8, 4, 8.0]}\n  model: {values: [mlp, 'mlp ']}"),
        [
            "depth: 8 and 8.0 from FILE are the same; allowed: each value once",
            "model: 'mlp' and 'mlp ' from FILE are the same; allowed: each value once",
        ],
    ),
    "coupled points twice": (
        with_parameters("config: {values: ['{lr: 0.2}', '{depth: 5, lr: 2e-1}', {lr: 0.3}]}"),
        [
            "config: '{lr: 0.2}' and '{depth: 5, lr: 2e-1}' from FILE are the same; "
            "allowed: each value once",
        ],
    ),
    "coupled values that are none": (
        with_parameters("config: {values: [3, a.yaml, '{lr: [}', '{lr: 0}', '{ll: 1}', '[1]']}"),
        [
            "config: got 3 from FILE; allowed: mappings such as '{lr: 0.1, weight_decay: 5.0e-4}'",
            "config: got 'a.yaml' from FILE; allowed: mappings such as "
            "'{lr: 0.1, weight_decay: 5.0e-4}'",
            "'{lr: [}' from FILE is not plain YAML: line 1: did not find expected node content",
            "lr: got '0' from FILE; allowed: a finite number above 0",
            "unknown name 'll' from FILE",
            "config: got '[1]' from FILE; allowed: mappings such as "
            "'{lr: 0.1, weight_decay: 5.0e-4}'",
        ],
    ),
    "coupled and alone": (
        with_parameters("lr: {value: 0.1}\n  config: {values: ['{lr: 0.2}', '{lr: 0.3}']}"),
        ["lr from FILE is a parameter and in config as well; allowed: one"],
    ),
    "what belongs to one run": (
        with_parameters("run_id: {value: a}\n  config: {value: '{resume: must}'}"),
        [
            "run_id from FILE belongs to one run, not to a sweep; leave it out",
            "resume from FILE belongs to one run, not to a sweep; leave it out",
        ],
    ),
    "parameters of no form": (
        with_parameters("lr: 0.1\n  gamma: {}\n  depth: {valeus: [1]}\n  width: {values: []}\n"
                        "  seed: {value: 1, values: [1]}"),
        [
            "FILE: parameters.lr: got 0.1; allowed: a mapping with value, values, or min and max",
            "FILE: parameters.gamma: got {}; allowed: a mapping with value, values, "
            "or min and max",
            "FILE: parameters.depth: got {'valeus': [1]}; allowed: a mapping with value, values, "
            "or min and max",
            "FILE: parameters.width.values: got []; allowed: at least 1",
            "FILE: parameters.seed: unknown key 'values', did you mean 'value'?",
        ],
    ),
    "nested parameters": (
        with_parameters("lr: {parameters: {a: {value: 1}}}"),
        ["FILE: parameters.lr: nested parameters are not read; write them side by side, or values "
         "that change together as values of 'config'"],
    ),
    "bounds": (
        with_parameters("lr: {min: 0.2, max: 0.1}\n  gamma: {min: 0, max: 0.5}\n"
                        "  dropout: {min: 0.1}\n  momentum: {min: a, max: 0.5}\n"
                        "  weight_decay: {min: 0.0, max: 1.0, q: 0.1}", "random"),
        [
            "FILE: parameters.lr: min 0.2 is not less than max 0.1",
            "FILE: parameters.gamma: min 0 and max 0.5 are a whole number and a fraction; "
            "write both as one of these, or a distribution",
            "FILE: parameters.dropout: lacks 'max'",
            "FILE: parameters.momentum.min: got 'a'; allowed: a number",
            "FILE: parameters.weight_decay: unknown key 'q'",
        ],
    ),
    "distributions": (
        with_parameters("lr: {distribution: log_uniform, min: -3, max: 0}\n"
                        "  gamma: {distribution: unifrom, min: 0.1, max: 0.5}\n"
                        "  momentum: {distribution: normal, sigma: -1}\n"
                        "  dropout: {distribution: q_normal, q: 0}", "random"),
        [
            "FILE: parameters.lr: W&B takes exponents for log_uniform; write log_uniform_values, "
            "with values",
            "FILE: parameters.gamma.distribution: got 'unifrom'; allowed: categorical, "
            "categorical_w_probabilities, constant, normal, log_normal, q_log_normal, q_normal, "
            "uniform, log_uniform_values, inv_log_uniform_values, q_uniform, "
            "q_log_uniform_values, int_uniform, beta or q_beta, did you mean 'uniform'?",
            "FILE: parameters.momentum.sigma: got -1; allowed: at least 0.0",
            "FILE: parameters.dropout.q: got 0; allowed: above 0",
        ],
    ),
    "distributions that a field cannot have": (
        with_parameters("model: {min: 1, max: 2}\n  config: {min: 1, max: 2}\n"
                        "  milestones: {min: 1, max: 2}\n  depth: {min: 1.0, max: 2.0}\n"
                        "  width: {distribution: q_uniform, min: 1, max: 9, q: 0.5}\n"
                        "  lr: {min: 0, max: 1}\n  momentum: {min: 0.5, max: 1.5}", "random"),
        [
            "model from FILE: int_uniform makes numbers; allowed: value or values",
            "config from FILE: int_uniform makes numbers; allowed: value or values",
            "milestones from FILE: int_uniform makes numbers; allowed: value or values",
            "depth from FILE: uniform makes fractions; allowed: int_uniform, or a distribution "
            "q_... with a whole q",
            "width from FILE: q_uniform makes fractions; allowed: int_uniform, or a distribution "
            "q_... with a whole q",
            "lr: got 0 from min in FILE; allowed: a finite number above 0",
            "momentum: got 1.5 from max in FILE; allowed: a finite number of at least 0 and "
            "below 1",
        ],
    ),
    "what a grid cannot have": (
        with_parameters("lr: {min: 0.1, max: 0.2}\n"
                        "  depth: {values: [1, 2], probabilities: [0.5, 0.5]}\n"
                        "  weight_decay: "
                        "{distribution: q_uniform, min: 1.0, max: 1.0e+308, q: 1.0e-9}"),
        [
            "lr from FILE: a grid has no steps of uniform; allowed: value, values, int_uniform "
            "or q_uniform",
            "depth from FILE: a grid has no probabilities; leave them out",
            "weight_decay from FILE: q 1e-09 is too small for the range",
        ],
    ),
    "probabilities": (
        with_parameters("lr: {values: [0.1, 0.2], probabilities: [0.5]}\n"
                        "  depth: {values: [1, 2], probabilities: [0.5, 0.6]}", "random"),
        [
            "FILE: parameters.lr: 2 values and 1 probabilities",
            "FILE: parameters.depth: the probabilities add up to 1.1, not to 1",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FAULTS.values(), ids=FAULTS)
def test_every_fault_is_answered_by_a_line_of_its_own(tmp_path, text, expected):
    assert said(tmp_path, text) == expected


def test_a_long_text_for_a_number_is_refused_at_once(tmp_path):
    start = time.process_time()
    (line,) = said(tmp_path, with_parameters(f"lr: {{value: '{'1' * 190_000}x'}}"))
    assert line.startswith("lr: got '1111") and line.endswith("allowed: a finite number above 0")
    assert time.process_time() - start < 60  # a pattern that tries every split would take hours


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.yaml: No such file or directory"):
        load_sweep_file(tmp_path / "none.yaml")


def test_points_come_in_the_order_of_sorted_names(tmp_path):
    read = sweep(tmp_path, "weight_decay: {values: [0.2, 0.1]}\nlr: {value: 0.5}\n"
                           "depth: {values: [3, 1]}")  # fmt: skip
    assert read.points() == [
        {"depth": depth, "lr": 0.5, "weight_decay": decay}
        for depth in (3, 1)
        for decay in (0.2, 0.1)
    ]


@pytest.mark.parametrize(
    ("low", "high", "q"), [(0.1, 1.0, 0.1), (0.5, 2.0, 0.5), (1, 9, 2), (0.3, 0.9, 0.2)]
)
def test_steps_of_a_grid_are_numpys_as_in_wandb(tmp_path, low, high, q):
    lines = f"weight_decay: {{distribution: q_uniform, min: {low}, max: {high}, q: {q}}}"
    read = sweep(tmp_path, lines)
    expected = np.arange(low, high, q).tolist()
    assert [point["weight_decay"] for point in read.points()] == expected
    assert read.count == len(expected)


def test_whole_numbers_of_a_grid_include_both_bounds(tmp_path):
    read = sweep(tmp_path, "depth: {min: 3, max: 6}")
    assert [point["depth"] for point in read.points()] == [3, 4, 5, 6]


def test_a_grid_is_counted_without_being_made_and_refused_when_too_large(tmp_path):
    lines = "seed: {min: 0, max: 999999999}\ndepth: {min: 1, max: 1000}\nlr: {values: [0.1, 0.2]}"
    start = time.process_time()
    read = sweep(tmp_path, lines)
    assert read.count == 2 * 10**12
    with pytest.raises(InputError) as caught:
        read.points()
    with pytest.raises(InputError):
        read.configs()
    assert caught.value.lines == [
        f"{tmp_path / 'a.yaml'}: 2000000000000 points; allowed: at most 100000"
    ]
    assert time.process_time() - start < 60  # hours, were it made


POINT = {"lr": 0.1, "batch_norm": True, "seed": None, "milestones": [6, 10], "name": "a b",
         "depth": 16.0, "config": "{weight_decay: 1e-3}"}  # fmt: skip


def test_the_command_is_what_wandbs_agent_passes(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    read = sweep(tmp_path, "lr: {value: 0.1}")
    ours = read.command(POINT)
    args = {name: {"value": value} for name, value in POINT.items()}
    assert ours == create_sweep_command_args({"args": args})["args"]
    assert parse(ours, environ={}) == read.config(POINT)
    assert read.config(POINT) == Config(
        lr=0.1, seed=None, milestones=(6, 10), name="a b", depth=16, weight_decay=1e-3
    )


def test_an_override_stands_in_the_place_of_the_value_or_at_the_end(tmp_path):
    read = sweep(tmp_path, "lr: {value: 0.1}\ndepth: {value: 3}")
    words = read.command({"depth": 3, "lr": 0.1}, {"depth": 4, "milestones": (1, 2)})
    assert words == ["--depth=4", "--lr=0.1", "--milestones=[1, 2]"]


def test_coupled_values_change_together(tmp_path):
    read = sweep(
        tmp_path,
        "config: {values: ['{lr: 0.1, weight_decay: 1e-3}', {lr: 0.2, momentum: 0.5}]}\n"
        "depth: {values: [1, 2]}",
    )
    assert read.swept == ("depth", "lr", "momentum", "weight_decay")
    assert read.configs() == [
        Config(lr=0.1, weight_decay=1e-3, depth=1),
        Config(lr=0.1, weight_decay=1e-3, depth=2),
        Config(lr=0.2, momentum=0.5, depth=1),
        Config(lr=0.2, momentum=0.5, depth=2),
    ]


LEVEL = {
    "metric": (
        "metric: {name: test_acuracy}",
        "metric.name: got 'test_acuracy', which train.py does not log; allowed: train_loss,",
    ),
    "metric of another project": ("metric: {name: val_acc, goal: maximize}", "does not log"),
    "metric at an unknown threshold": ("metric: {name: rank_mean@0.5}", "does not log"),
    "metric at the first threshold": ("metric: {name: rank_mean@0.001}", "does not log"),
    "metric of a part that the model lacks": (
        "metric: {name: rank_mean/convolutions}",
        "does not log",
    ),
    "metric of no layer": ("metric: {name: rank/}", "does not log"),
    "name": (f"name: {'x' * 129}", "name: got 129 characters; allowed: 1 to 128"),
    "project": ("project: me/proj", "project: got 'me/proj'; allowed: 1 to 128 characters, none"),
    "entity": (f"entity: {'x' * 129}", "entity: got 'xxx"),
    "a path as entity": ("entity: me/proj", "entity: got 'me/proj'; allowed: 1 to 128 characters"),
}


@pytest.mark.parametrize(("text", "line"), LEVEL.values(), ids=LEVEL)
def test_what_would_blind_or_fail_every_point_is_refused_before_anything_starts(
    text, line, tmp_path
):
    (told,) = said(tmp_path, f"{text}\n{with_parameters('lr: {value: 0.1}')}")
    assert line in told


def test_the_nearest_metric_is_named(tmp_path):
    (told,) = said(tmp_path, f"{LEVEL['metric'][0]}\n{with_parameters('lr: {value: 0.1}')}")
    assert told.endswith("did you mean 'test_accuracy'?")


@pytest.mark.parametrize("entry", ["value: [0.001, 0.5]", "values: [[0.1, 0.5], [0.2, 0.5, 0.3]]"])
def test_a_further_threshold_of_every_point_is_a_metric(entry, tmp_path):
    head = f"metric: {{name: rank_mean@0.5}}\n{HEAD}"
    assert sweep(tmp_path, f"epsilons: {{{entry}}}", head).metric.name == "rank_mean@0.5"


@pytest.mark.parametrize("at", ["", "@0.01"])
def test_the_mean_of_a_models_part_is_a_metric(at, tmp_path):
    head = f"metric: {{name: rank_mean{at}/convolutions}}\n{HEAD}"
    assert sweep(tmp_path, "model: {value: mixed}", head).metric.name[-13:] == "/convolutions"


@pytest.mark.parametrize("name", ["nuclear_rank_mean", "nuclear_rank/linear1"])
def test_a_quantity_that_every_point_records_is_a_metric(name, tmp_path):
    head = f"metric: {{name: {name}}}\n{HEAD}"
    assert sweep(tmp_path, "quantities: {value: [srank, nuclear_rank]}", head).metric.name == name
    with pytest.raises(InputError, match=f"got '{name}', which train.py does not log"):
        sweep(tmp_path, "quantities: {values: [[srank], [nuclear_rank]]}", head)


@pytest.mark.parametrize("name", ["overlap_left_mean", "alignment/linear2"])
def test_a_quantity_of_directions_is_a_metric_where_every_point_keeps_them(name, tmp_path):
    head = f"metric: {{name: {name}}}\n{HEAD}"
    assert sweep(tmp_path, "directions: {value: 4}", head).metric.name == name
    for parameters in ("directions: {values: [4, null]}", "lr: {values: [0.1, 0.2]}"):
        with pytest.raises(InputError, match=f"got '{name}', which train.py does not log"):
            sweep(tmp_path, parameters, head)


def test_every_scalar_of_a_run_and_no_other_is_a_metric(tmp_path):
    words = ["--epochs=1", "--width=8", "--depth=1", "--train_size=100", "--device=cpu"]
    assert main([*words, "--tracking=disabled", "--run_id=a", f"--output_dir={tmp_path}"]) == 0
    logged = list(load_run(tmp_path / "a").metrics)
    assert not [name for name in logged for _ in metric_problem({"metric": {"name": name}})]
    assert set(METRICS) == {name for name in logged if "/" not in name and "@" not in name}


STANDARD = """
  - ${env}
  - ${interpreter}
  - ${program}
  - --batch_size=8
  - --milestones=[3, 5]
  - ${args}
"""


def test_wandbs_own_forms_say_what_the_plain_one_says(tmp_path):
    (tmp_path / "plain").mkdir()
    ours = sweep(
        tmp_path / "plain",
        "lr: {values: [0.1, 0.2]}\nmomentum: {values: [0.5, 0.9]}\nseed: {values: [0, 1]}\n"
        "batch_size: {value: 8}\nmilestones: {value: [3, 5]}",
    )
    theirs = sweep(
        tmp_path,
        "config: {parameters: {lr: {values: [0.1, 0.2]}, momentum: {values: [0.5, 0.9]}}}\n"
        "seed: {values: [0, 1]}",
        f"program: ./train.py\nmethod: grid\ncommand:{STANDARD}",
    )
    assert set(theirs.configs()) == set(ours.configs())
    assert theirs.swept == ours.swept == ("lr", "momentum", "seed")


def test_anchors_and_merges_are_read_as_wandb_reads_them(tmp_path):
    text = with_parameters(
        "lr: &rates {values: [0.1, 0.2]}\n  weight_decay: *rates\n"
        "  width: &sizes\n    value: 8\n  depth:\n    <<: *sizes"
    )
    rates, sizes = {"values": [0.1, 0.2]}, {"value": 8}
    plain = {"lr": rates, "weight_decay": rates, "width": sizes, "depth": sizes}
    assert load_sweep_file(write(tmp_path, text)).raw["parameters"] == plain
    assert yaml.safe_load(text)["parameters"] == plain


FORMS = {
    "boolean flags without values": (
        "command: ['${env}', python, '${program}', '${args_no_boolean_flags}']",
        ["got the word '${args_no_boolean_flags}'", "lacks ${args}"],
    ),
    "another program": ("command: [bash, -c, train.py, '${args}']", ["'bash'", "'-c'"]),
    "a flag that is a parameter": (
        "command: [python, '${program}', '--lr=0.1', '${args}']",
        ["lr: given twice"],
    ),
    "no list": ("command: python train.py", ["command: got 'python train.py'; allowed: a list"]),
}


@pytest.mark.parametrize(("text", "parts"), FORMS.values(), ids=FORMS)
def test_a_command_of_another_meaning_is_refused(text, parts, tmp_path):
    lines = said(tmp_path, f"{text}\n{with_parameters('lr: {value: 0.1}')}")
    for part in parts:
        assert any(part in line for line in lines)


def test_a_chain_of_aliases_is_no_way_around_the_depth(tmp_path):
    chain = "".join(f"a{n}: &a{n} [[[*a{n - 1}]]]\n" for n in range(1, 300))
    (line,) = said(tmp_path, f"a0: &a0 [1]\n{chain}")
    assert "nested more than 8 deep" in line


def test_an_overridden_field_loses_its_values_and_points_that_are_then_the_same_are_one(tmp_path):
    read = sweep(tmp_path, "lr: {values: [0.1, 0.2]}\ndepth: {values: [1, 2]}\n"
                           "config: {values: ['{seed: 1}', '{seed: 2}']}")  # fmt: skip
    assert read.configs({"lr": "0.5", "seed": 7, "epochs": 3}) == [
        Config(lr=0.5, depth=depth, seed=7, epochs=3) for depth in (1, 2)
    ]


def test_bad_overrides_are_reported_together_and_once(tmp_path):
    read = sweep(tmp_path, "lr: {values: [0.1, 0.2]}")
    with pytest.raises(InputError) as caught:
        read.configs({"depht": 3, "depth": 0})
    assert caught.value.lines == [
        "unknown name 'depht' from --depht, did you mean 'depth'?",
        "depth: got 0 from --depth; allowed: a whole number from 1 to 1000",
    ]


def test_conflicts_within_points_are_reported_unless_an_override_settles_them(tmp_path):
    read = sweep(tmp_path, "lr: {values: [0.1, 2.0]}\nweight_decay: {values: [0.1, 0.7]}")
    with pytest.raises(InputError) as caught:
        read.configs()
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path / 'a.yaml'}: lr x weight_decay is 1.4; allowed: below 1")
    assert len(read.configs({"weight_decay": 0.0})) == 2


def test_a_swept_field_without_effect_is_at_its_default_there_and_such_points_are_one(tmp_path):
    read = sweep(tmp_path, "optimizer: {values: [sgd, adam]}\nmomentum: {values: [0.5, 0.9]}")
    assert read.configs() == [
        Config(momentum=0.5), Config(optimizer="adam"), Config(momentum=0.9)
    ]  # fmt: skip
    notes = []
    read.config({"optimizer": "adam", "momentum": 0.9}, notes=notes)
    assert len(notes) == 1


def test_a_field_that_no_point_uses_is_a_mistake_of_the_file(tmp_path):
    text = "optimizer: {value: adam}\nmomentum: {value: 0.9}\nlr: {values: [0.1, 0.2]}"
    with pytest.raises(InputError, match=r"momentum=0\.9 has no effect with optimizer=adam"):
        sweep(tmp_path, text).configs()
    read = sweep(tmp_path, text.replace("adam", "sgd"))
    assert len(read.configs({"optimizer": "adam"})) == 2, "an override asks for it"


def test_many_conflicts_are_summed_up(tmp_path):
    read = sweep(tmp_path, f"lr: {{values: {list(range(2, 32))}}}\nweight_decay: {{value: 0.9}}")
    with pytest.raises(InputError) as caught:
        read.configs()
    assert len(caught.value.lines) == 21
    assert caught.value.lines[-1] == f"{tmp_path / 'a.yaml'}: and 10 more"


def test_the_environment_has_no_part_in_a_points_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_WIDTH", "7")
    assert sweep(tmp_path, "lr: {value: 0.1}").configs() == [Config()]


numbers = st.floats(min_value=1e-9, max_value=1.0, exclude_max=True)
AXES = {
    "lr": numbers,
    "weight_decay": numbers,
    "depth": st.integers(1, 1000),
    "batch_norm": st.booleans(),
    "seed": st.none() | st.integers(0, 2**32 - 1),
    "milestones": st.lists(st.integers(1, 20), unique=True, max_size=3).map(sorted),
    "activation": st.sampled_from(["relu", "leaky_relu"]),
}


def grids() -> st.SearchStrategy[dict[str, list[Any]]]:
    return st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(values, min_size=1, max_size=3, unique_by=repr)
            for name, values in AXES.items()
        },
    ).filter(bool)


@settings(max_examples=60, deadline=None)
@given(grid=grids())
def test_the_points_are_the_product_of_the_values_each_once(tmp_path_factory, grid):
    parameters = {name: {"values": values} for name, values in grid.items()}
    document = {"program": "train.py", "method": "grid", "parameters": parameters}
    text = yaml.safe_dump(document, sort_keys=False)
    read = load_sweep_file(write(tmp_path_factory.mktemp("grid"), text))
    names = sorted(grid)
    expected = [dict(zip(names, values, strict=True))
                for values in itertools.product(*(grid[name] for name in names))]  # fmt: skip
    assert read.points() == expected
    assert read.count == len(expected)
    assert read.configs() == [Config(**point) for point in expected]
    assert len(set(read.configs())) == len(expected)
    assert set(read.swept) == {name for name, values in grid.items() if len(values) > 1}


scalar = st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-1, 2) | st.sampled_from("ab")
KINDS = ["uniform", "normal", "beta", "constant", "categorical", "q_uniform", "log_uniform", "odd"]
entries = st.dictionaries(
    st.sampled_from(["value", "min", "max", "mu", "sigma", "q", "a", "odd"]), scalar, max_size=3
).flatmap(
    lambda entry: st.fixed_dictionaries(
        {name: st.just(value) for name, value in entry.items()},
        optional={
            "values": st.lists(scalar, max_size=2),
            "probabilities": st.lists(st.floats(-1, 1), max_size=2),
            "distribution": st.sampled_from(KINDS),
            "parameters": st.just({"a": {"value": 1}}),
        },
    )
)
BEYOND = ("is not less than", "a whole number and a fraction", "takes exponents", "probabilities")


@settings(max_examples=400, deadline=None)
@given(entry=entries)
def test_a_parameter_is_refused_where_wandbs_whole_schema_refuses_it(entry):
    whole = jsonschema.Draft7Validator(json.loads(schema.SCHEMA.read_text(encoding="utf-8")))
    valid = whole.is_valid({"method": "random", "parameters": {"lr": entry}})
    lines = list(schema.of_parameter("lr", entry))
    if valid:  # what is said then is what W&B's client and search check besides
        assert all(any(text in line for text in BEYOND) for line in lines)
    else:
        assert lines


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="{}[]:, \n-&*!|>'\"%@`?#abe01.\t~<", max_size=80))
def test_any_text_is_a_sweep_or_an_input_error(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("any"), f"{HEAD}parameters:\n  lr: {text}\n")
    try:
        load_sweep_file(path)
    except InputError as error:
        assert all("\n" not in line for line in error.lines)


@pytest.mark.parametrize("text", ["1e-4", "0.1", "1.0e-4", "on", "2026-01-02", "~", "0x10", "a"])
def test_typed_scalars_are_those_of_yaml_safe_load(text):
    assert read_yaml(f"[{text}]", typed=True) == yaml.safe_load(f"[{text}]")
