"""Runs that measure changes, updates, gradients and products of attention too.

Their records are compared bit for bit with those of runs without, and of runs that were stopped at
the worst moments; spectra with numpy's float64 SVD, and with each other where one follows from the
other. Run with ``pytest tests/test_train_derived.py``.
"""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

import lowrank
from lowrank.runs import checkpoints
from lowrank.training.learner import Learner
from lowrank.training.member import Member
from tests.running import TINY, differences
from train import main

ALL = "--spectra_of=change,update,gradient"
USUAL = ("--epochs=3", "--tracking=disabled", "--seed=0")
VIT = (
    *("--model=vit", "--vit_patch=4", "--vit_depth=1", "--vit_heads=2", "--vit_width=12"),
    *("--vit_mlp_width=16", "--dropout=0.1", "--train_size=80", "--batch_size=32"),
    "--threads=1",
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(run_id, *flags, network=TINY, expected=0):
        names = {flag.partition("=")[0] for flag in flags}
        usual = [flag for flag in (*network, *USUAL) if flag.partition("=")[0] not in names]
        assert main([*usual, f"--run_id={run_id}", *flags]) == expected
        return lowrank.load_run(tmp_path / "runs" / run_id)

    return run


def same(one, other, names):
    return all(one[name].tobytes() == other[name].tobytes() for name in names)


@pytest.mark.parametrize("network", [TINY, VIT], ids=["mlp", "vit with dropout"])
def test_a_run_that_measures_them_is_bitwise_the_run_without(train, tmp_path, network):
    products = ("--attention_products=True",) if network is VIT else ()
    flags = ("--momentum=0.9", "--augment=True", "--keep_checkpoint=all")
    plain = train("a", *flags, network=network)
    full = train("b", *flags, ALL, *products, network=network)
    metrics = [name for name in plain.metrics if not name.startswith(("time/", "throughput/"))]
    assert same(plain.metrics, full.metrics, metrics)
    assert same(plain.spectra, full.spectra, plain.spectra)
    states = [checkpoints.load(tmp_path / f"runs/{n}/checkpoint.pt")["model"] for n in "ab"]
    assert same(*({k: v.numpy() for k, v in state.items()} for state in states), states[0])
    count = 3 * len(full.layers) + (4 if products else 0)
    assert (len(plain.derived), len(full.derived)) == (0, count)
    assert plain.layers == full.layers


def test_each_is_what_it_is_called(train):
    """One step an epoch, of all examples, without decay: the update is −lr times the gradient."""
    full = train("a", "--batch_size=120", "--weight_decay=0", "--lr=0.2", ALL)
    for layer in full.layers:
        change, update, gradient = (
            full.spectra[f"{layer.name}_{kind}"] for kind in ("change", "update", "gradient")
        )
        scale = gradient.max()
        assert np.isnan(update[0]).all() and not change[0].any()
        assert np.allclose(update[1:], 0.2 * gradient[:-1], rtol=0, atol=1e-5 * scale)
        assert np.allclose(change[1], update[1], rtol=0, atol=1e-6 * scale)
        assert (change[2, 0] <= change[1, 0] + update[2, 0] + 1e-6) and change[2].any()
        for kind in ("change", "update", "gradient"):
            name = f"{layer.name}_{kind}"
            ranks = full.metrics[f"rank/{name}"]
            assert np.isnan(ranks[0]) == (kind == "update")
            assert f"distance/{name}" not in full.metrics


def test_the_change_is_from_the_initial_weights(train, tmp_path):
    run = train("a", "--spectra_of=change", "--keep_checkpoint=all")
    state = checkpoints.load(tmp_path / "runs/a/checkpoint.pt")
    for layer in run.layers:
        now, start = state["model"][layer.path], state["watcher"]["start"][layer.name]
        true = np.linalg.svd((now.double() - start.double()).numpy(), compute_uv=False)
        found = run.spectra[f"{layer.name}_change"][-1]
        assert np.allclose(found, true, rtol=0, atol=1e-9)
        initial = np.linalg.svd(start.double().numpy(), compute_uv=False)
        assert np.allclose(run.spectra[layer.name][0], initial, rtol=0, atol=1e-9)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("moment", ["within an epoch", "before an epoch's last step", "at an end"])
def test_a_stop_changes_no_bit_of_them(train, tmp_path, monkeypatch, moment, every):
    """The step after the signal is taken: the second moment leaves an epoch to measure later."""
    flags = (ALL, "--momentum=0.9", f"--measure_every={every}")
    train("a", *flags, "--epochs=6")
    calls = []

    def at(call, function):
        def called(*arguments):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments)

        return called

    with monkeypatch.context() as patched:
        if moment == "within an epoch":
            patched.setattr(Learner, "_learn", at(10, Learner._learn))
        elif moment == "before an epoch's last step":
            patched.setattr(Member, "keep_before", at(4 - every, Member.keep_before))
        if moment == "at an end":
            train("b", *flags, "--epochs=3", "--keep_checkpoint=all")
        else:
            stopped = train("b", *flags, "--epochs=6", expected=143)
            assert stopped.epochs[-1] < 6
    train("b", *flags, "--epochs=6", *(["--keep_checkpoint=all"] if moment == "at an end" else []))
    assert not differences(tmp_path / "runs/a", tmp_path / "runs/b")


def test_members_of_a_pack_have_those_of_their_runs_alone(train, tmp_path):
    own = {"a": ("--lr=0.1",), "b": ("--lr=0.3", "--seed=1")}
    alone = {name: train(name, ALL, *flags) for name, flags in own.items()}
    usual = (*TINY, ALL, "--epochs=3", "--tracking=disabled", "--output_dir=packed")
    members = [[*usual, f"--run_id={n}", *own[n]] for n in own]
    assert main([*members[0], "--", *members[1]]) == 0
    for name, run in alone.items():
        member = lowrank.load_run(tmp_path / "packed" / name)
        assert member.derived == run.derived
        for layer in run.derived:
            one, other = member.spectra[layer.name], run.spectra[layer.name]
            scale = np.nanmax(other)
            assert np.allclose(one, other, rtol=0, atol=1e-3 * scale, equal_nan=True), layer.name


def test_a_compiled_step_has_an_update_too(train, monkeypatch):
    """The graph is run as it was traced: to compile it takes long and changes rounding only."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    plain, compiled = (train(f"{c}", ALL, f"--compile={c}", "--epochs=2") for c in (False, True))
    for layer in plain.derived:
        one, other = plain.spectra[layer.name], compiled.spectra[layer.name]
        atol = 1e-4 * np.nanmax(one)
        assert np.allclose(one, other, rtol=0, atol=atol, equal_nan=True), layer.name
