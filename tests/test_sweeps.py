"""The sweep files of the repository: valid, complete, true to the paper, and able to run.

Truth is the paper's table of experiments, copied out by hand in `PAPER`; W&B's client, which reads
the files and makes an agent's command line; and the network that the first point of each trains
for one epoch on small made-up images.

    python -m pytest tests/test_sweeps.py
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml

import lowrank
from lowrank.config import Config, replace
from lowrank.config.arguments import parse
from lowrank.config.sweepfile import load_sweep_file
from lowrank.views.published.figures import FIGURES, compared, published
from train import main

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
SCHEMA = json.loads(
    (ROOT / "lowrank/config/sweepfile/sweep.schema.json").read_text(encoding="utf-8")
)
PARTS = ("Question", "Figure", "Runs", "Cost", "Expect", "Commands")

B6 = (4, 8, 16, 32, 64, 128)
W6 = (0, 0.0001, 0.0002, 0.0004, 0.0008, 0.006)
W7 = (0, 0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005)
M5 = (0.001, 0.01, 0.1, 0.5, 1)
WC = (0, 0.000001, 0.00001, 0.0001, 0.001)


class Row(NamedTuple):
    """A row of the paper's table: its number of runs, what is fixed, and the grid's axes."""

    runs: int
    fixed: dict[str, Any]
    axes: list[list[dict[str, Any]]]


def axis(name: str, values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def lr(*values: float) -> list[dict[str, Any]]:
    return axis("lr", values)


def wd(*values: float) -> list[dict[str, Any]]:
    return axis("weight_decay", values)


def batch(*values: int) -> list[dict[str, Any]]:
    return axis("batch_size", values)


def coupled(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"lr": rate, "weight_decay": decay} for rate, decay in pairs]


def mlp(depth: int, width: int, **fields: Any) -> dict[str, Any]:
    return {"model": "mlp", "depth": depth, "width": width, "batch_norm": True} | fields


LEAKY = {"model": "resnet18", "activation": "leaky_relu"}
RELU = {"model": "resnet18", "activation": "relu"}
DATASETS = RELU | {"batch_size": 16, "weight_decay": 0.0005}
VIT = {"model": "vit", "vit_patch": 4, "vit_depth": 6, "vit_heads": 8, "vit_width": 512,
       "vit_mlp_width": 512, "dropout": 0.1, "epochs": 200, "milestones": (60, 100)}  # fmt: skip
MIXED = {"model": "mixed", "depth": 5, "width": 256}
E003, E005 = {"epsilons": (0.03, 0.001)}, {"epsilons": (0.05, 0.001)}
NO_NORM = {"batch_norm": False}
CONVNET = {"model": "convnet", "depth": 5, "width": 1000, "batch_size": 128,
           "epochs": 2000, "schedule": "constant", "milestones": ()}  # fmt: skip
GRID = [lr(*M5), batch(*B6), wd(*W6)]
STAR = {"batch_size": 16, "lr": 0.2, "weight_decay": 0.004}
DIGITS = {"epochs": 40, "milestones": (28, 34), "dataset": "digits"}
CIFAR = {"epochs": 36, "milestones": (24, 30), "train_size": 10_000}
PROTOCOL: dict[str, Any] = {
    "dataset": "cifar10", "optimizer": "sgd", "momentum": 0, "loss": "cross_entropy", "epochs": 500,
    "schedule": "milestones", "milestones": (60, 100, 200), "gamma": 0.2, "warmup_epochs": 0,
    "augment": False, "train_size": None, "seed": 0, "activation": "relu", "dropout": 0,
    "weight_norm": False, "measure_every": 1, "epsilons": (0.001, 0.01),
}  # fmt: skip

PAPER: dict[str, Row] = {
    "fig01a": Row(12, LEAKY | {"batch_size": 8}, [lr(0.1, 0.5, 1, 2), wd(0.0001, 0.0003, 0.0005)]),
    "fig01b": Row(12, LEAKY | {"batch_size": 16}, [lr(0.1, 0.5, 1, 2), wd(0.0001, 0.0003, 0.0005)]),
    "fig01c": Row(24, LEAKY | {"lr": 0.5}, [batch(*B6), wd(0, 0.002, 0.004, 0.006)]),
    "fig01d": Row(30, LEAKY | {"weight_decay": 0.006}, [batch(*B6), lr(0.001, 0.2, 0.5, 0.7, 1)]),
    "fig02": Row(60, LEAKY | {"weight_decay": 0.0005},
                 [lr(0.1, 0.5, 1, 2), batch(4, 8, 16), axis("seed", range(5))]),
    "fig03": Row(15, LEAKY | {"lr": 1.5}, [wd(*W6[1:]), batch(8, 16, 32)]),
    "fig04": Row(18, RELU | E005,
                 [coupled((0.001, 0.006), (0.005, 0.006), (0.01, 0.0004)), batch(*B6)]),
    "fig06": Row(1, mlp(2, 10_000, batch_size=6, lr=0.1, weight_decay=0.008), []),
    "fig07": Row(48, mlp(10, 100, **E003),
                 [coupled(*((0.1, w) for w in W6), (0.01, 0.0004), (0.5, 0.0004)), batch(*B6)]),
    "fig07_b128": Row(
        8, mlp(10, 100, lr=0.1, batch_size=128, measure_every=10, **E003),
        [[{"weight_decay": w, "momentum": m, "seed": s} for w, m, s in (
            *((w, 0, 0) for w in W6[1:]), (0.006, 0, 1), (0.006, 0.9, 0), (0.0004, 0.9, 0))]]),
    "fig07_momentum": Row(
        18, mlp(10, 100, lr=0.1, momentum=0.9, **E003), [wd(*W6), batch(32, 64, 128)]),
    "fig10": Row(21, VIT | {"weight_decay": 0.0005}, [lr(0.004, 0.008, 0.04), batch(2, *B6)]),
    "fig11": Row(21, VIT | {"lr": 0.04}, [wd(*W7), batch(32, 64, 128)]),
    "fig13": Row(18, {"model": "vgg16"} | E005,
                 [coupled((0.001, 0.006), (0.005, 0.0005), (0.01, 0.0004)), batch(*B6)]),
    "fig14": Row(12, DATASETS,
                 [axis("dataset", ("svhn", "food101", "imagenette")), lr(0.1, 0.5, 1, 2)]),
    "fig15": Row(
        12, DATASETS,
        [[{"dataset": "mnist"}, {"dataset": "fashion_mnist"},
          {"dataset": "places365", "train_size": 100_000}], lr(0.1, 0.5, 1, 2)]),
    "fig16": Row(12, MIXED | {"lr": 0.01} | E005, [wd(*W6[1:5]), batch(16, 32, 64)]),
    "mlp_bn_10x100": Row(180, mlp(10, 100), GRID),
    "mlp_5x500": Row(180, mlp(5, 500, **NO_NORM), GRID),
    "vgg16": Row(180, {"model": "vgg16"}, GRID),
    "vgg16_dropout": Row(
        7, {"model": "vgg16", "dropout": 0.5, "lr": 0.01, "weight_decay": 0.0005, "momentum": 0.9},
        [batch(4, 8, 16, 32, 64, 128, 256)]),
    "resnet18_relu": Row(180, RELU, GRID),
    "resnet18_large_batch": Row(
        42, RELU | {"batch_size": 1024}, [lr(0.001, 0.01, 0.1, 0.5, 1, 2, 5), wd(*W6)]),
    "convnet_cross_entropy": Row(25, CONVNET, [lr(*M5), wd(*WC)]),
    "convnet_mse": Row(25, CONVNET | {"loss": "mse"}, [lr(*M5), wd(*WC)]),
    "mlp_wide_bound": Row(
        24, {"model": "mlp", "depth": 5} | NO_NORM,
        [coupled((0.01, 0.5), (0.1, 0.05), (1, 0.005)), batch(1, 4, 8, 16),
         axis("width", (5000, 10_000))]),
    "mlp_bn_constant_bound": Row(
        7, mlp(10, 100),
        [[{"lr": a, "weight_decay": b, "batch_size": c} for a, b, c in (
            (0.05, 0.0005, 4), (0.05, 0.001, 8), (0.1, 0.00025, 4), (0.1, 0.0005, 8),
            (0.1, 0.001, 16), (0.2, 0.00025, 8), (0.2, 0.0005, 16))]]),
    "resnet18_adam": Row(
        15, LEAKY | {"optimizer": "adam", "weight_decay": 0.0005},
        [lr(0.01, 0.5, 0.8, 1, 2), batch(4, 8, 16)]),
    "weight_norm_mlp": Row(
        120, mlp(10, 100, weight_norm=True, batch_norm=False),
        [lr(*M5), batch(*B6), wd(0.0001, 0.0002, 0.0004, 0.0008)]),
    "smoke_digits": Row(4, mlp(5, 100, lr=0.2) | DIGITS, [batch(8, 32), wd(0, 0.02)]),
    "smoke_cifar10": Row(
        33, mlp(5, 100) | CIFAR,
        [[STAR, *(STAR | other for other in [
            *wd(0, 0.001, 0.002, 0.008), *lr(0.05, 0.1, 0.4), *batch(8, 32, 64)])],
         axis("seed", range(3))]),
    "optimizers_rank": Row(
        36, mlp(5, 100, batch_size=16) | CIFAR,
        [[{"optimizer": name, "lr": rate, "weight_decay": decay}
          for name, rate, decays in (
              ("sgd", 0.2, (0, 0.001, 0.004)), ("adam", 0.001, (0, 0.001, 0.004)),
              ("adamw", 0.001, (0, 0.2, 0.8)), ("muon", 0.001, (0, 0.2, 0.8)))
          for decay in decays],
         axis("seed", range(3))]),
    "gpt": Row(
        12, {"model": "gpt", "dataset": "pydoc", "train_size": 6000, "epochs": 20,
             "milestones": (14, 17)},
        [lr(0.1, 0.2), wd(0, 0.001, 0.004), batch(4, 16)]),
    "landscape_cifar10": Row(
        25, mlp(5, 100, batch_size=16) | CIFAR,
        [lr(0.05, 0.1, 0.2, 0.4, 0.8), wd(0.0005, 0.001, 0.002, 0.004, 0.008)]),
}  # fmt: skip


def varied(row: Row) -> set[str]:
    return {name for choices in row.axes for fields in choices for name in fields}


def head_of(path: Path) -> dict[str, str]:
    """Returns the parts of the comment that a file opens with, by their names."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    parts: dict[str, str] = {}
    for line in list(lines)[1:]:
        if match := re.fullmatch(r"# ([A-Z][a-z]+):(.*)", line):
            part = match[1]
            assert part not in parts
            parts[part] = match[2].strip()
        else:
            assert line.startswith("#   "), line
            parts[part] += "\n" + line[4:]
    return parts


def scalars(value: Any) -> list[Any]:
    """Returns the scalars of a document, also those of inline mappings in it."""
    if isinstance(value, dict):
        return [scalar for inner in value.values() for scalar in scalars(inner)]
    if isinstance(value, list):
        return [scalar for inner in value for scalar in scalars(inner)]
    inline = isinstance(value, str) and value.startswith("{")
    return scalars(yaml.safe_load(value)) if inline else [value]


@pytest.fixture(scope="module")
def sweep_costs():
    spec = importlib.util.spec_from_file_location("sweep_costs", ROOT / "scripts/sweep_costs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_formula_of_costs_is_that_of_the_docs_by_hand(sweep_costs):
    # MLP-BN-1-100 on CIFAR-10 at batch 128: 391 steps of an epoch, 5 modules, 3,072·100 + 100·10
    # products, with 100 + 10 biases and 200 of BatchNorm's beside them.
    products, weights = 308_200, 308_200 + 310
    spectra = 2 * 100**2 * 3072 + 4 * 100**3 + 2 * 10**2 * 100 + 4 * 10**3
    counted = sweep_costs.network_of(Config(depth=1, dataset="cifar10"))
    assert counted[:4] == (weights, products, 5, spectra)
    config = Config(depth=1, dataset="cifar10", batch_size=128, epochs=10)
    step = 128 * 6 * products / 30e12 + 36 * weights / 2.5e12
    assert step < 250e-6 < 100 * step
    for members, longest in ((1, 250e-6), (100, 100 * step)):
        expected = 10 * (391 * longest + members * 60_000 * 2 * products / 30e12)
        assert sweep_costs.seconds(config, counted, members) == pytest.approx(expected)
    pair = [config, replace(config, lr=0.5)]
    assert sweep_costs.hours(pair, packed=False) == pytest.approx(
        2 * sweep_costs.hours(pair, packed=True), rel=0.02
    )


def test_every_row_of_the_papers_table_has_a_file():
    assert sorted(NAMES) == sorted(PAPER)


def test_every_published_value_has_a_point_in_its_figures_file():
    files = {number: f"fig{int(number):02d}" for number in FIGURES}
    files |= {"8": "fig07", "9": "fig07"}
    points = {
        name: [
            (compared(config.recorded()), config.epsilons[0])
            for config in load_sweep_file(ROOT / f"sweeps/{name}.yaml").configs()
        ]
        for name in set(files.values())
    }
    for point in published():
        wanted = {name: value for name, value in point.settings.items() if name != "milestones"}
        found = [
            epsilon
            for settings, epsilon in points[files[point.figure]]
            if {name: settings[name] for name in wanted} == wanted
        ]
        assert found, point
        assert set(found) == {point.epsilon}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
class TestEveryFile:
    """What holds for each of the files."""

    def test_it_is_valid_by_wandbs_schema_that_its_first_line_names(self, path):
        first = path.read_text().splitlines()[0]
        schema = first.removeprefix("# yaml-language-server: $schema=")
        assert (
            path.parent / schema
        ).resolve() == ROOT / "lowrank/config/sweepfile/sweep.schema.json"
        jsonschema.Draft7Validator(SCHEMA).validate(yaml.safe_load(path.read_text()))

    def test_it_opens_with_six_parts(self, path):
        head = head_of(path)
        assert tuple(head) == PARTS
        assert all(text.strip() for text in head.values())
        commands = head["Commands"]
        for command in ("wandb sweep {}", "lowrank sweep {}", "lowrank figures runs --sweep={}"):
            assert command.format(f"sweeps/{path.name}") in commands
        for command in ("wandb agent", "lowrank agent"):
            assert f"{command} ENTITY/PROJECT/ID" in commands
        last = [line for line in commands.splitlines() if "lowrank" in line][-1]
        assert last.startswith(f"lowrank figures runs --sweep=sweeps/{path.name}")
        cost = " ".join(head["Cost"].split())
        assert "one GPU" in cost or "CPU" in cost
        assert ("Reasoned, not measured:" in cost) != ("Measured" in cost)

    def test_its_points_are_those_of_the_paper_and_of_its_head(self, path):
        row = PAPER[path.stem]
        found = load_sweep_file(path)
        assert found.name == path.stem
        assert found.raw["project"] == "lowrank"
        assert found.metric == ("rank_mean", "minimize")
        assert found.count == row.runs == int(head_of(path)["Runs"].split()[0])
        configs = found.configs()
        assert len(configs) == row.runs
        names = sorted(PROTOCOL.keys() | row.fixed.keys() | varied(row))
        wanted = set()
        for choice in itertools.product(*row.axes):
            point = PROTOCOL | row.fixed
            for fields in choice:
                point |= fields
            wanted.add(tuple(point[name] for name in names))
        assert len(wanted) == row.runs
        assert {tuple(getattr(config, name) for name in names) for config in configs} == wanted

    def test_its_cost_on_a_gpu_follows_from_the_formula(self, path, sweep_costs):
        said = " ".join(head_of(path)["Cost"].split())
        if not path.stem.startswith(("smoke_", "landscape_", "fig07_b128")):  # which a CPU has run
            assert said.startswith(sweep_costs.cost(path))

    def test_what_varies_is_what_the_papers_grid_varies(self, path):
        assert set(load_sweep_file(path).swept) == varied(PAPER[path.stem])

    def test_its_numbers_are_numbers(self, path):
        for scalar in scalars(yaml.safe_load(path.read_text())):
            if isinstance(scalar, str):
                with pytest.raises(ValueError, match="could not convert"):
                    float(scalar)

    def test_the_seed_is_a_parameter(self, path):
        found = load_sweep_file(path)
        assert "seed" in {*found.swept, *found.fixed}

    def test_wandbs_client_accepts_it_and_its_agent_says_the_same(self, path):
        from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
        from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, load_sweep_config

        found = load_sweep_file(path)
        read = load_sweep_config(str(path))
        assert read == found.raw
        sent = _validate_config_and_fill_distribution(read)
        assert json.loads(json.dumps(sent)) == read
        for point, config in zip(found.points(), found.configs(), strict=True):
            args = {name: {"value": value} for name, value in point.items()}
            words = create_sweep_command_args({"args": args})["args"]
            assert words == found.command(point)
            assert parse(words, environ={}) == config


@pytest.mark.parametrize(
    ("name", "count"), [("smoke_cifar10", 33), ("landscape_cifar10", 25), ("fig07_b128", 8)]
)
def test_the_head_shows_how_to_use_an_image_folder(name, count, tmp_path):
    path = ROOT / f"sweeps/{name}.yaml"
    line = f"lowrank sweep sweeps/{path.name} --dataset=imagefolder --data_dir=DIR"
    assert line in head_of(path)["Commands"]
    overrides = {"dataset": "imagefolder", "data_dir": str(tmp_path)}
    configs = load_sweep_file(path).configs(overrides)
    assert len(configs) == count
    assert {(config.dataset, config.data_dir) for config in configs} == {tuple(overrides.values())}


SMALL: dict[str, Any] = {
    "dataset": "synthetic", "train_size": 64, "image_size": 8, "epochs": 1,
    "tracking": "disabled", "device": "cpu", "threads": 1,
}  # fmt: skip
NARROW = {"mlp_wide_bound": {"width": 64}, "convnet_cross_entropy": {"width": 16},
          "convnet_mse": {"width": 16}, "vgg16": {"image_size": 32},
          "vgg16_dropout": {"image_size": 32}, "fig13": {"image_size": 32},
          "fig06": {"width": 64}, "fig16": {"width": 16},
          "fig10": {"vit_width": 32}, "fig11": {"vit_width": 32},
          "gpt": {"dataset": "pydoc", "image_size": None, "gpt_width": 16, "context": 8},
          "fig07_b128": {"measure_every": 1}}  # fmt: skip


def trained() -> Iterator[Any]:
    """Yields the files; of those with a ResNet or VGG, whose spectra take seconds, the first."""
    seen = set()
    for path in FILES:
        model = PAPER[path.stem].fixed["model"]
        deep = model in ("resnet18", "vgg16")
        if not deep or model not in seen:
            yield pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * deep)
        seen.add(model)


@pytest.mark.parametrize("path", list(trained()))
def test_the_first_point_trains_an_epoch(path, tmp_path):
    found = load_sweep_file(path)
    point = found.points()[0]
    overrides = SMALL | NARROW.get(path.stem, {}) | {"output_dir": str(tmp_path)}
    assert main([*found.command(point, overrides), f"--sweep={path.stem}"]) == 0
    (run,) = lowrank.load_sweep(tmp_path)
    assert run.epochs.tolist() == [0, 1]
    assert run.state == "finished"
    config = found.config(point, overrides).recorded()
    kept = set(found.config(point).recorded()) - overrides.keys() - {"sweep"}
    assert {name: run.config[name] for name in kept} == {name: config[name] for name in kept}
    assert {"lr", "weight_decay", "batch_size", "momentum", "loss", "optimizer"} <= kept
