"""How many runs fit into memory: counted by hand, measured of processes, and for every model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.datasets import DATASETS
from lowrank.config.families import FAMILIES
from lowrank.training.memory import MOST_ON_CPU, free_memory, member_bytes, most_members

SMALL = {"device": "cpu", "depth": 2, "width": 10, "batch_size": 4, "optimizer": "adam"}


def test_a_small_networks_bytes_are_those_counted_by_hand():
    weights = 64 * 10 + 10 + 10 * 10 + 10 + 2 * 2 * 10 + 10 * 10 + 10
    buffers = 2 * (10 + 10 + 1)  # of BatchNorm: mean, variance, count
    outputs = 64 + 64 + 2 * 3 * 10 + 10  # images, flattened; linear, norm, activation; logits
    # Weight, gradient, a step's result, two snapshots and their float64; two of Adam's, four times
    # each; three of each output.
    expected = 4 * (17 * weights + 2 * buffers + 3 * 4 * outputs)
    assert member_bytes(Config(**SMALL)) == expected


def test_members_share_what_is_free_and_leave_a_fifth():
    config = Config(**SMALL)
    one = member_bytes(config)
    assert most_members(config, free=round(10 * one / 0.8) + 1) == 10
    assert most_members(config, free=round(10 * one / 0.8) + 1, sharing=2) == 5
    assert most_members(config, free=0) == 1
    assert most_members(config, free=2**50) == MOST_ON_CPU


def test_more_of_anything_takes_more():
    less = member_bytes(Config(**SMALL))
    for more in ({"batch_size": 8}, {"width": 20}, {"depth": 3}):
        assert member_bytes(Config(**SMALL | more)) > less


@pytest.mark.parametrize(
    ("model", "dataset"),
    [(m, d) for d, of in DATASETS.items() for m, by in FAMILIES.items() if of.text == by.text],
)
def test_every_model_is_estimated_on_every_data_set(model, dataset):
    padded = DATASETS[dataset].native == 8 or (model == "vit" and not DATASETS[dataset].text)
    size = {"image_size": 32} if padded else {}
    config = Config(model=model, dataset=dataset, **size)
    weights = {"resnet18": 11e6, "vgg16": 14e6, "vit": 2e6}.get(model, 0)
    assert member_bytes(config) > 4 * 4 * weights


def test_the_machine_has_memory():
    import torch

    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, train
from benchmarks.resident import resident
code = train.main(sys.argv[1:])
print(resident())
sys.exit(code)
"""


def peak(directory, members, flags):
    """Returns the bytes that a process takes at most which trains so many runs as one."""
    words = []
    for seed in range(members):
        words += [*(["--"] if seed else []), *flags, f"--seed={seed}", f"--run_id={members}-{seed}"]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return 2**20 * float(ran.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_member_takes_no_more_than_estimated_and_more_than_half_of_it(tmp_path, optimizer):
    flags = ["--width=500", "--depth=5", "--batch_size=128", "--train_size=512", "--epochs=2"]
    flags += ["--lr=0.001", f"--optimizer={optimizer}", "--threads=1", "--tracking=disabled"]
    growth = (peak(tmp_path, 17, flags) - peak(tmp_path, 9, flags)) / 8
    assert growth <= member_bytes(parse(flags, {})) <= 2 * growth
