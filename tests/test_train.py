"""Whole runs of train.py: what they leave behind, and that stopping and going on changes nothing.

Records of interrupted runs are compared bit for bit with those of undisturbed ones; ranks and norms
with numpy's float64 SVD of the weights in the checkpoint; W&B's rows as ``wandb leet`` reads them.
"""

from __future__ import annotations

import itertools
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lowrank
from lowrank import cli
from lowrank.config import Config
from lowrank.measure.directions import alignment
from lowrank.runs import checkpoints
from lowrank.runs.writer import Record
from lowrank.training.console import Console
from lowrank.training.schedule import planned_efolds
from tests.running import differences, is_timing, piped
from tests.segments import inspect, segments
from train import main

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--train_size=120", "--width=16", "--depth=2", "--epochs=3", "--batch_size=32")
LAYERS = ("linear1", "linear2", "classifier")
HEADLINES = (
    *("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
    *("rank_mean", "rank_mean_all", "stable_rank_mean", "effective_rank_mean"),
    *("collapsed", "dead", "lr_now", "rank_mean@0.01"),
)
PER_LAYER = (
    *("rank", "rank@0.01", "stable_rank", "effective_rank"),
    *("spectral_norm", "frobenius_norm", "distance"),
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs main with tiny settings in an empty directory; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, tracking="disabled"):
        names = {flag.partition("=")[0] for flag in flags}
        tiny = [flag for flag in TINY if flag.partition("=")[0] not in names]
        return main([*tiny, "--threads=1", f"--tracking={tracking}", *flags])

    return run


def spawn(directory, *flags, **options):
    """Starts train.py as its own process; flags come instead of equal ones of TINY."""
    names = {flag.partition("=")[0] for flag in flags}
    tiny = [flag for flag in TINY if flag.partition("=")[0] not in names]
    words = [sys.executable, str(ROOT / "train.py"), *tiny, "--threads=1", *flags]
    return piped(words, directory, **options)


def wait_for_epoch(process, epoch):
    """Reads the process's lines until that of an epoch."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.strip().startswith(f"{epoch}/"):
            return lines
    raise AssertionError("".join(lines))


def assert_same_record(one, other):
    """Compares everything but times, bit for bit."""
    assert differences(one, other) == []


def test_a_run_records_every_name_of_the_design_from_epoch_0(train, tmp_path):
    assert train("--run_id=a") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.state == "finished"
    assert run.epochs.tolist() == [0, 1, 2, 3]
    expected = {*HEADLINES, *(f"{name}/{layer}" for name in PER_LAYER for layer in LAYERS)}
    assert {name for name in run.metrics if not is_timing(name)} == expected
    assert {name for name in run.metrics if is_timing(name)} == {
        *("time/train", "time/evaluate", "time/spectra", "throughput/images_per_second")
    }
    for name in expected:
        values = run.metrics[name]
        assert np.isnan(values[0]) == name.startswith("distance/"), name
        assert np.isfinite(values[1:]).all(), name
    assert [(layer.name, layer.shape, layer.counted) for layer in run.layers] == [
        ("linear1", (16, 64), True),
        ("linear2", (16, 16), True),
        ("classifier", (10, 16), False),
    ]
    assert sorted(path.name for path in (tmp_path / "runs/a").iterdir()) == [
        *(".lock", "checkpoint.pt", "config.yaml", "record.sqlite")
    ]


def test_quantities_are_those_of_a_float64_svd_of_the_weights(train, tmp_path):
    assert train("--run_id=a", "--epsilons=[0.02,0.2]", "--rank_norm=spectral") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    weights = torch.load(tmp_path / "runs/a/checkpoint.pt", weights_only=True)["model"]
    ranks = []
    for layer in LAYERS:
        s = np.linalg.svd(weights[f"{layer}.weight"].double().numpy(), compute_uv=False)
        p = s / s.sum()
        expected = {
            "rank": (s / s[0] > 0.02).sum(),
            "rank@0.2": (s / s[0] > 0.2).sum(),
            "stable_rank": (s**2).sum() / s[0] ** 2,
            "effective_rank": np.exp(-(p * np.log(p)).sum()),
            "spectral_norm": s[0],
            "frobenius_norm": np.sqrt((s**2).sum()),
        }
        for name, value in expected.items():
            assert run.metrics[f"{name}/{layer}"][-1] == pytest.approx(value, rel=1e-9), name
        np.testing.assert_allclose(run.spectra[layer][-1], s, rtol=1e-9)
        ranks.append(expected["rank"])
    assert run.metrics["rank_mean"][-1] == np.mean(ranks[:2])
    assert run.metrics["rank_mean_all"][-1] == np.mean(ranks)


@pytest.mark.slow
def test_resnet18_measures_21_matrices_and_averages_17(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--model=resnet18", "--dataset=synthetic", "--image_size=8", "--epochs=1")
    assert main([*flags, "--train_size=64", "--run_id=a", "--tracking=disabled"]) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    counted = [layer.name for layer in run.layers if layer.counted]
    assert (len(run.layers), len(counted)) == (21, 17)
    assert set(run.spectra) == {layer.name for layer in run.layers}
    assert all(np.isfinite(run.spectra[layer.name]).all() for layer in run.layers)
    ranks = [run.metrics[f"rank/{name}"] for name in counted]
    np.testing.assert_array_equal(run.metrics["rank_mean"], np.mean(ranks, axis=0))


def test_rank_bounds_appear_where_they_are_not_vacuous_and_hold(train, tmp_path):
    # lr * weight_decay = 0.01 forgets within 757 examples, fewer than the 1,000 rows.
    flags = ("--width=1000", "--batch_norm=False", "--train_size=300", "--batch_size=1")
    assert train("--run_id=a", *flags, "--lr=0.1", "--weight_decay=0.1", "--epochs=4") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert [layer.positions for layer in run.layers] == [1, 1, 1]
    bounds = run.metrics["rank_bound/linear2"]
    assert np.isnan(bounds[0])
    assert np.isfinite(bounds[-1])
    claimed = np.isfinite(bounds)
    assert (run.metrics["rank/linear2"][claimed] <= bounds[claimed]).all()
    assert bounds[claimed].max() < 1000
    assert train("--run_id=b", "--weight_decay=0") == 0
    assert not any("rank_bound" in name for name in lowrank.load_run(tmp_path / "runs/b").metrics)


def test_distance_is_from_the_normalised_weights_of_the_previous_epoch(train, tmp_path):
    assert train("--run_id=a", "--epochs=1", "--keep_checkpoint=all") == 0
    assert train("--run_id=b", "--epochs=2") == 0
    before, after = (
        torch.load(tmp_path / f"runs/{run}/checkpoint.pt", weights_only=True)["model"]
        for run in "ab"
    )
    run = lowrank.load_run(tmp_path / "runs/b")
    for layer in LAYERS:
        v, w = (weights[f"{layer}.weight"].double().numpy() for weights in (before, after))
        expected = np.linalg.norm(w / np.linalg.norm(w) - v / np.linalg.norm(v))
        assert run.metrics[f"distance/{layer}"][2] == pytest.approx(expected, rel=1e-9)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train, tmp_path):
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train(f"--run_id={run}", f"--seed={seed}") == 0
    assert_same_record(tmp_path / "runs/a", tmp_path / "runs/b")
    losses = [lowrank.load_run(tmp_path / f"runs/{run}").metrics["train_loss"] for run in "ac"]
    assert (losses[0] != losses[1]).all()


def test_a_stored_configuration_repeats_the_run_as_a_new_one(train, tmp_path):
    assert train("--run_id=a", "--seed=None", "--lr=0.05") == 0
    stored = yaml.safe_load((tmp_path / "runs/a/config.yaml").read_text())
    assert isinstance(stored["seed"], int)
    assert "run_id" not in stored
    assert "resume" not in stored
    assert main(["--config", "runs/a/config.yaml"]) == 0
    (again,) = {path.name for path in (tmp_path / "runs").iterdir()} - {"a"}
    assert_same_record(tmp_path / "runs/a", tmp_path / "runs" / again)


def test_a_finished_run_is_left_alone(train, tmp_path, capsys):
    assert train("--run_id=a") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs/a").iterdir()}
    capsys.readouterr()
    assert train("--run_id=a") == 0
    assert capsys.readouterr().out == "run a has ended, nothing is left to do: runs/a\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs/a").iterdir()} == before


def test_a_longer_run_goes_on_where_the_shorter_one_ended(train, tmp_path):
    assert train("--run_id=a", "--epochs=1") == 0
    assert train("--run_id=a", "--epochs=3") == 0
    assert train("--run_id=b", "--epochs=3") == 0
    assert_same_record(tmp_path / "runs/a", tmp_path / "runs/b")


def files_below(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_longer_run_with_momentum_needs_the_optimizers_state(train, tmp_path, capsys):
    assert train("--run_id=a", "--epochs=1", "--momentum=0.9") == 0
    before = files_below(tmp_path / "runs")
    assert train("--run_id=a", "--epochs=3", "--momentum=0.9") == 2
    assert "start a new run with keep_checkpoint=all" in capsys.readouterr().err
    assert files_below(tmp_path / "runs") == before
    assert train("--run_id=a", "--epochs=1", "--momentum=0.9") == 0
    for run, epochs in (("b", 1), ("b", 3), ("c", 3)):
        flags = (f"--run_id={run}", f"--epochs={epochs}", "--momentum=0.9")
        assert train(*flags, "--keep_checkpoint=all") == 0
    assert_same_record(tmp_path / "runs/b", tmp_path / "runs/c")


@pytest.mark.parametrize(
    ("keep", "left"),
    [("weights", {"model"}), ("all", {"model", "optimizer"}), ("none", None)],
    ids=["weights", "all", "none"],
)
def test_what_is_left_of_the_checkpoint(train, tmp_path, keep, left):
    assert train("--run_id=a", "--momentum=0.9", f"--keep_checkpoint={keep}") == 0
    path = tmp_path / "runs/a/checkpoint.pt"
    assert path.exists() == (left is not None)
    if left is not None:
        state = torch.load(path, weights_only=True)
        assert {"model", "optimizer"} & state.keys() == left


REFUSALS = {
    "another configuration": (
        ["--lr=0.3", "--batch_size=40"],
        ["run a was started with lr=0.1, not 0.3", "run a was started with batch_size=32, not 40"],
    ),
    "fewer epochs": (["--epochs=2"], ["run a was started with epochs=3, not 2"]),
    "resume=never": (["--resume=never"], ["resume=never, but the run directory runs/a exists"]),
    "resume=must": (
        ["--run_id=b", "--resume=must"],
        ["resume=must, but there is no run directory runs/b"],
    ),
}


@pytest.mark.parametrize(("flags", "lines"), REFUSALS.values(), ids=REFUSALS)
def test_what_a_run_directory_refuses(train, tmp_path, capsys, flags, lines):
    assert train("--run_id=a") == 0
    before = files_below(tmp_path / "runs")
    assert train(*(["--run_id=a"] if "--run_id=b" not in flags else []), *flags) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == len(lines)
    assert all(line in text for line, text in zip(lines, shown, strict=True))
    assert files_below(tmp_path / "runs") == before


def test_tracking_and_places_may_change_on_resuming(train, tmp_path):
    assert train("--run_id=a", "--epochs=1") == 0
    (tmp_path / "runs").rename(tmp_path / "moved")
    flags = ("--output_dir=moved", "--name=other", "--data_dir=elsewhere", "--seed=None")
    assert train("--run_id=a", "--epochs=2", *flags) == 0
    assert lowrank.load_run(tmp_path / "moved/a").epochs.tolist() == [0, 1, 2]


def test_a_directory_that_is_not_a_runs_is_refused_and_kept(train, tmp_path, capsys):
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/thesis.tex").write_text("precious")
    assert train("--run_id=a") == 2
    assert "is not a run directory, it holds thesis.tex" in capsys.readouterr().err
    assert (tmp_path / "runs/a/thesis.tex").read_text() == "precious"


LATE_INPUT = {
    "no data": (["--dataset=imagefolder", "--data_dir=nowhere"], "nowhere"),
    "offline archive": (["--dataset=cifar10", "--download=False"], "cifar-10"),
    "last batch of one": (["--train_size=33"], "batch_size=33 or train_size=32 works"),
    "one image": (["--train_size=1"], "train_size=2 works"),
    "no such device": (["--device=cuda:99"], "torch sees"),
}


@pytest.mark.parametrize(("flags", "text"), LATE_INPUT.values(), ids=LATE_INPUT)
def test_bad_input_that_only_data_or_machine_show_leaves_nothing_behind(
    train, tmp_path, capsys, flags, text
):
    assert train("--run_id=a", *flags, tracking="offline") == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "runs/a").exists()


def test_a_longer_run_that_lacks_its_data_leaves_the_shorter_one_as_it_was(train, tmp_path):
    import shutil

    from tests.data.test_folder import fill

    fill(tmp_path / "images")
    flags = ("--dataset=imagefolder", "--data_dir=images", "--train_size=None", "--batch_size=3")
    assert train("--run_id=a", *flags, "--epochs=1") == 0
    shutil.rmtree(tmp_path / "images")
    before = files_below(tmp_path / "runs")
    assert train("--run_id=a", *flags, "--epochs=2") == 2
    assert files_below(tmp_path / "runs") == before


@pytest.mark.parametrize("lost", ["record", "some epochs", "checkpoint"])
def test_what_is_lost_is_trained_again_and_never_missing(train, tmp_path, capsys, lost):
    run = tmp_path / "runs/a"
    assert train("--run_id=a", "--epochs=1") == 0
    early = (run / "record.sqlite").read_bytes()
    assert train("--run_id=a", "--epochs=3") == 0
    if lost == "checkpoint":
        (run / "checkpoint.pt").unlink()
    else:
        (run / "record.sqlite").unlink()
    if lost == "some epochs":
        (run / "record.sqlite").write_bytes(early)
    capsys.readouterr()
    assert train("--run_id=a", "--epochs=4") == 0
    shown = capsys.readouterr().out
    assert "training again from" in shown
    assert train("--run_id=b", "--epochs=4") == 0
    assert_same_record(run, tmp_path / "runs/b")


@pytest.mark.parametrize("lost", ["checkpoint.pt", "config.yaml", "wandb"])
def test_a_stopped_run_goes_on_without(train, tmp_path, lost):
    import shutil

    program = KILLED_BEFORE_ROW.format(root=str(ROOT), epoch=2, flags=[*TINY, "--threads=1"])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    gone = tmp_path / "runs/a" / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert train("--run_id=a", tracking="offline") == 0
    assert train("--run_id=b") == 0
    assert_same_record(tmp_path / "runs/a", tmp_path / "runs/b")


KILLED_BEFORE_ROW = """
import os, sys
sys.path.insert(0, {root!r})
import train
from lowrank import cli
from lowrank.runs.writer import Record
append = Record.append
Record.append = lambda self, epoch, *more: (
    os._exit(9) if epoch == {epoch} else append(self, epoch, *more)
)
train.main([*{flags!r}, "--run_id=a", "--tracking=offline"])
"""


def test_an_incomplete_stored_configuration_is_refused(train, tmp_path, capsys):
    assert train("--run_id=a", "--epochs=1") == 0
    (tmp_path / "runs/a/config.yaml").write_text("lr: 0.1\n")
    assert train("--run_id=a", "--epochs=2") == 2
    assert "is not complete, it lacks model, depth, width, ..." in capsys.readouterr().err


def test_alone_it_trains_what_shows_the_effect_and_says_what_is_next(monkeypatch, capsys):
    import train as program

    asked = []
    monkeypatch.setattr(program, "train", lambda requests: asked.extend(requests) or [0])
    assert program.main([]) == 0
    assert planned_efolds(asked[0].config) > 10  # where ranks fall clearly
    out = capsys.readouterr().out
    assert "no settings are given: training with --lr=0.2 " in out
    assert "train.py --lr=0.2 --batch_size=8 --milestones=19 --weight_decay=0\n" in out
    assert "lowrank sweep " in out
    monkeypatch.setenv("LOWRANK_LR", "0.3")
    assert program.main([]) == 0
    assert asked[1].config == Config(lr=0.3)
    assert capsys.readouterr().out == ""


@pytest.mark.slow  # half a minute where nothing else runs
def test_alone_it_ends_with_a_rank_that_fell(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_TRACKING", "disabled")
    assert main([]) == 0
    (path,) = (tmp_path / "runs").iterdir()
    metrics = lowrank.load_run(path).metrics
    assert metrics["rank_mean"][-1] < 0.93 * metrics["rank_mean"][0]
    assert metrics["test_accuracy"][-1] > 0.9


def test_a_run_goes_on_that_was_stored_before_there_were_some_fields(train, tmp_path):
    assert train("--run_id=a", "--epochs=1") == 0
    path = tmp_path / "runs/a/config.yaml"
    stored = yaml.safe_load(path.read_text())
    newer = ("compile", "measure_every_steps", "truncation_every", "directions", "figures_every")
    older = {name: v for name, v in stored.items() if name not in newer}
    path.write_text(yaml.safe_dump(older))
    assert train("--run_id=a", "--epochs=2") == 0
    assert yaml.safe_load(path.read_text()) == {**stored, "epochs": 2}
    assert lowrank.load_run(tmp_path / "runs/a").epochs.tolist() == [0, 1, 2]


def test_a_home_directory_is_expanded(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert train("--run_id=a", "--epochs=0", "--output_dir=~/runs") == 0
    assert (tmp_path / "home/runs/a/record.sqlite").exists()


@pytest.mark.parametrize("output", ["closed", "full", "head"])
def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path, output):
    end = {"closed": ">&-", "full": "> /dev/full", "head": "| head -n 1"}[output]
    words = shlex.join([sys.executable, str(ROOT / "train.py"), *TINY, "--tracking=disabled"])
    command = f"set -o pipefail; {words} --run_id=a {end}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    run = lowrank.load_run(tmp_path / "runs/a")
    assert (run.state, run.epochs.tolist()) == ("finished", [0, 1, 2, 3])
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_a_signal_while_data_is_loaded_is_answered_at_once(tmp_path):
    program = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); import train, lowrank.data as data\n"
        "data.load_dataset = lambda *_, **__: (print('loading', flush=True), time.sleep(60))\n"
        "sys.exit(train.main(['--tracking=disabled', '--run_id=a']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "loading\n"
    process.terminate()
    assert process.wait(timeout=20) == 143
    assert not (tmp_path / "runs/a").exists()


def test_epochs_0_measures_initialisation(train, tmp_path):
    assert train("--run_id=a", "--epochs=0") == 0
    assert lowrank.load_run(tmp_path / "runs/a").epochs.tolist() == [0]


def test_truncation_every_records_a_curve_that_a_stop_does_not_change(train, tmp_path):
    flags = ("--truncation_every=2", "--seed=0")
    assert train(*flags, "--run_id=a", "--epochs=4") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    curves = {name: values for name, values in run.metrics.items() if "truncated" in name}
    assert len(curves) == 20
    for values in curves.values():
        assert np.isfinite(values).tolist() == [True, False, True, False, True]
    whole = run.metrics["test_accuracy"][::2]
    assert np.abs(curves["truncated_accuracy@share_1"][::2] - whole).max() < 0.01
    assert train(*flags, "--run_id=b", "--epochs=3") == 0
    assert train(*flags, "--run_id=b", "--epochs=4") == 0
    assert not differences(tmp_path / "runs/a", tmp_path / "runs/b")


def test_directions_are_those_of_the_weights_and_a_stop_does_not_change_them(train, tmp_path):
    flags = ("--directions=2", "--measure_every=2", "--seed=0")
    assert train(*flags, "--run_id=a", "--epochs=4") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    name = run.layers[1].name
    for side in ("left", "right"):
        found = run.overlaps(name, side)
        assert np.isnan(found[[1, 3]]).all()
        np.testing.assert_allclose(np.diag(found)[::2], 1, atol=1e-6)
        logged = run.metrics[f"overlap_{side}/{name}"]
        assert logged[2:5:2].tolist() == [found[2, 0], found[4, 2]]
        assert np.isnan(logged[[0, 1, 3]]).all()
    aligned = alignment(run.directions(run.layers[0].name).left[4], run.directions(name).right[4])
    assert run.metrics[f"alignment/{name}"][4] == aligned
    assert train(*flags, "--run_id=b", "--epochs=2") == 0
    assert train(*flags, "--run_id=b", "--epochs=4") == 0
    assert not differences(tmp_path / "runs/a", tmp_path / "runs/b")


def test_measuring_within_epochs_changes_nothing_else(train, tmp_path, capsys):
    assert train("--run_id=a", "--seed=0") == 0
    assert train("--run_id=b", "--seed=0", "--measure_every_steps=3", "--measure_every=2") == 0
    a, b = (lowrank.load_run(tmp_path / "runs" / name) for name in "ab")
    assert a.metrics["train_loss"].tolist() == b.metrics["train_loss"].tolist()
    assert a.metrics["rank_mean"][[0, 2, 3]].tolist() == b.metrics["rank_mean"][[0, 2, 3]].tolist()
    assert a.within.epochs.size == 0
    assert b.within.epochs.tolist() == [0.75, 1.75, 2.75]
    assert b.within.steps.tolist() == [3, 3, 3]
    assert b.times.tolist() == [0, 0.75, 1, 1.75, 2, 2.75, 3]
    assert np.isnan(b.over_time("test_loss")).tolist() == [False, True] * 3 + [False]
    assert b.over_time("rank_mean")[3] == b.within.metrics["rank_mean"][1]
    assert np.isfinite(b.within.metrics["distance/classifier"]).all()
    assert "measure_every_steps" not in capsys.readouterr().out
    assert train("--run_id=c", "--measure_every_steps=4", "--epochs=1") == 0
    assert lowrank.load_run(tmp_path / "runs/c").within.epochs.size == 0
    assert "measure_every_steps=4: an epoch has 4 steps, so that nothing" in capsys.readouterr().out


def test_measurements_within_epochs_are_the_same_after_stops(train, tmp_path, monkeypatch):
    flags = ("--measure_every_steps=1", "--seed=0")
    assert train(*flags, "--run_id=a") == 0
    stepped, calls = Console.stepped, itertools.count(1)

    def stop_at_some(console):
        stepped(console)
        if next(calls) in (2, 7):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Console, "stepped", stop_at_some)
    assert train(*flags, "--run_id=b") == 143
    stopped = checkpoints.load(tmp_path / "runs/b/checkpoint.pt")["model"]
    assert [train(*flags, "--run_id=b") for _ in range(2)] == [143, 0]
    within = lowrank.load_run(tmp_path / "runs/b").within
    for layer in lowrank.load_run(tmp_path / "runs/b").layers:
        norm = np.linalg.norm(stopped[layer.path].double().numpy(), 2)
        assert within.metrics[f"spectral_norm/{layer.name}"][1] == pytest.approx(norm, rel=1e-12)
    assert lowrank.load_run(tmp_path / "runs/b").within.steps.tolist() == [1, 2, 3] * 3
    assert not differences(tmp_path / "runs/a", tmp_path / "runs/b")


def test_directions_change_nothing_else(train, tmp_path):
    assert train("--run_id=a", "--seed=0") == 0
    assert train("--run_id=b", "--seed=0", "--directions=3") == 0
    further = ("overlap_", "alignment")
    found = differences(tmp_path / "runs/a", tmp_path / "runs/b")
    assert [name for name in found if not name.startswith(further)] == ["directions"]


def test_muon_goes_on_bit_for_bit(train, tmp_path):
    flags = ("--optimizer=muon", "--lr=0.01", "--seed=0", "--keep_checkpoint=all")
    assert train(*flags, "--run_id=a", "--epochs=3") == 0
    assert train(*flags, "--run_id=b", "--epochs=2") == 0
    assert train(*flags, "--run_id=b", "--epochs=3") == 0
    assert not differences(tmp_path / "runs/a", tmp_path / "runs/b")


@pytest.mark.parametrize(
    ("flag", "slow"),
    [("--precision=bf16", True), ("--optimizer=muon", False)],
)
def test_what_computes_in_bfloat16_is_said_to_be_slow(train, monkeypatch, capsys, flag, slow):
    lacking = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: lacking)
    assert train(flag, "--lr=0.01", "--epochs=0", "--device=cpu") == 0
    told = f"\n{flag[2:]} will be slow: this processor has no instructions for bfloat16"
    assert (told in capsys.readouterr().out) == slow


def test_a_collapsed_matrix_has_no_truncated_rank(train, tmp_path):
    flags = ("--lr=0.4", "--weight_decay=2.4", "--batch_size=2", "--batch_norm=False")
    assert train(*flags, "--truncation_every=1", "--epochs=1", "--run_id=a") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.metrics["collapsed"].tolist() == [0, 3]
    for name in (n for n in run.metrics if "truncated" in n):
        assert np.isfinite(run.metrics[name]).tolist() == [True, False]


def test_measure_every_leaves_epochs_unmeasured_but_not_the_last(train, tmp_path):
    assert train("--run_id=a", "--measure_every=2", "--epochs=5") == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    measured = [True, False, True, False, True, True]
    assert (~np.isnan(run.metrics["rank_mean"])).tolist() == measured
    assert (~np.isnan(run.spectra["linear1"][:, 0])).tolist() == measured
    assert np.isfinite(run.metrics["test_accuracy"]).all()


def test_a_run_measured_at_its_last_epoch_goes_on_only_where_a_longer_one_is_too(
    train, tmp_path, capsys
):
    flags = ("--measure_every=2", "--seed=0")
    assert train("--run_id=odd", "--epochs=3", *flags) == 0
    stored = (tmp_path / "runs/odd/config.yaml").read_text()
    assert train("--run_id=odd", "--epochs=6", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was measured at its last epoch, 3, where a run of 6 epochs with measure_every=2" in line
    assert (tmp_path / "runs/odd/config.yaml").read_text() == stored
    assert train("--run_id=odd", "--epochs=3", *flags) == 0
    assert train("--run_id=even", "--epochs=4", *flags) == 0
    assert train("--run_id=even", "--epochs=6", *flags) == 0
    assert train("--run_id=straight", "--epochs=6", *flags) == 0
    assert_same_record(tmp_path / "runs/even", tmp_path / "runs/straight")


def test_a_last_measurement_that_was_not_recorded_is_not_gone_on_from(train, tmp_path, monkeypatch):
    """A kill between checkpoint and record: the checkpoint has what a longer run does not."""
    flags = ("--measure_every=2", "--seed=0")
    with monkeypatch.context() as patch:
        append = Record.append

        def cut(self, epoch, *values):
            if epoch == 3:
                raise OSError("cut")
            append(self, epoch, *values)

        patch.setattr(Record, "append", cut)
        with pytest.raises(OSError, match="cut"):
            train("--run_id=a", "--epochs=3", *flags)
    assert train("--run_id=a", "--epochs=6", *flags) == 0
    assert train("--run_id=straight", "--epochs=6", *flags) == 0
    assert_same_record(tmp_path / "runs/a", tmp_path / "runs/straight")


COLLAPSING = ("--batch_norm=False", "--lr=0.999", "--weight_decay=1")
"""Every step leaves a thousandth of the weights."""


def test_collapse_has_no_rank(train, tmp_path):
    assert train("--run_id=a", *COLLAPSING) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.state == "finished"
    assert run.metrics["collapsed"].tolist() == [0, 3, 3, 3]
    for name in ("rank_mean", "rank_mean_all", "rank/linear1", "effective_rank/linear1"):
        assert np.isnan(run.metrics[name]).tolist() == [False, True, True, True]
    norms = run.metrics["frobenius_norm/linear1"]
    assert 0 < norms[1] < 1e-6 * norms[0]


def test_collapse_stops_the_run_if_asked_to(train, tmp_path, capsys):
    assert train("--run_id=a", "--on_collapse=stop", *COLLAPSING) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert (run.state, run.epochs.tolist()) == ("collapsed", [0, 1])
    capsys.readouterr()
    assert train("--run_id=a", "--on_collapse=stop", *COLLAPSING) == 0
    assert "has ended" in capsys.readouterr().out


def test_a_dead_run_is_marked_and_goes_on_unless_told_to_stop(train, tmp_path):
    flags = ("--batch_norm=False", "--lr=1e-9", "--epochs=5")
    assert train("--run_id=a", *flags) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.metrics["train_accuracy"].max() <= 0.15
    assert run.metrics["dead"].tolist() == [0, 0, 1, 1, 1, 1]
    assert run.state == "finished"
    assert train("--run_id=b", "--on_collapse=stop", *flags) == 0
    stopped = lowrank.load_run(tmp_path / "runs/b")
    assert (stopped.state, stopped.epochs.tolist()) == ("collapsed", [0, 1, 2])


def test_death_wins_over_the_lowest_rank(train, tmp_path, capsys):
    flags = ("--batch_norm=False", "--lr=1e-9", "--epochs=4")
    assert train("--run_id=a", *flags, tracking="offline") == 0
    out = capsys.readouterr().out
    run = lowrank.load_run(tmp_path / "runs/a")
    accuracy = f"train accuracy {run.metrics['train_accuracy'][-1]:.3g}"
    assert f"no rank any more: dead since epoch 2, {accuracy}\n" in out
    assert f"run a is dead and has no rank: dead since epoch 2, {accuracy}\n" in out
    (segment,) = segments(tmp_path / "runs/a")
    shown = inspect(segment, "--summary")["summary"]
    assert not {name for name in shown if "rank_mean" in name}, "a search has no value of it"
    assert (shown["state"], shown["dead"]) == ("dead", 1)
    assert shown["lost"] == f"dead since epoch 2, {accuracy}"
    rows = [line["history"]["item"] for line in inspect(segment) if line["type"] == "history"]
    assert all("rank_mean" in row for row in rows), "what was measured is in the history"

    assert train("--run_id=b", *COLLAPSING, tracking="offline") == 0
    out = capsys.readouterr().out
    assert "run b is collapsed and has no rank: collapsed since epoch 1: linear1, " in out
    shown = inspect(segments(tmp_path / "runs/b")[0], "--summary")["summary"]
    assert "rank_mean" not in shown
    assert shown["state"] == "collapsed"


def test_offline_wandb_holds_the_headline_metrics_and_every_epoch(train, tmp_path, capsys):
    assert train("--run_id=a", tracking="offline") == 0
    (segment,) = segments(tmp_path / "runs/a")
    out = capsys.readouterr().out
    assert "upload it with: lowrank sync runs/a\n" in out
    (line,) = re.findall("see it with: lowrank (.*)", out)
    assert cli.main(shlex.split(line)) == 0
    assert Path("report.html").is_file()
    summary = inspect(segment, "--summary")
    assert set(HEADLINES) <= summary["summary"].keys()
    run = lowrank.load_run(tmp_path / "runs/a")
    for name in HEADLINES:
        assert summary["summary"][name] == run.metrics[name][-1], name
    assert {"rank_heatmap", "spectrum_over_time"} <= summary["summary"].keys()


SWEEP = """\
wandb_version: 1
lr: {value: '2e-1'}
config: {value: '{weight_decay: 1e-3, momentum: 0.5}'}
"""


def test_values_of_a_sweep_win_in_use_and_in_the_record(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    variables = {
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "sweep.yaml"),
        "WANDB_SWEEP_ID": "abcd1234",
        "WANDB_RUN_ID": "agentrun",
    }
    flags = ("--lr=0.7", "--weight_decay=0.9", "--tracking=offline")
    process = spawn(tmp_path, *flags, env=os.environ | variables)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    run = lowrank.load_run(tmp_path / "runs/agentrun")
    chosen = {"lr": 0.2, "weight_decay": 1e-3, "momentum": 0.5}
    assert {name: run.config[name] for name in chosen} == chosen
    assert run.metrics["lr_now"][0] == 0.2
    (segment,) = segments(tmp_path / "runs/agentrun")
    recorded = inspect(segment, "--summary")["config"]
    assert {name: recorded[name] for name in chosen} == chosen


LONG = (
    *("--run_id=a", "--tracking=offline", "--train_size=1440", "--batch_size=2"),
    *("--momentum=0.9", "--augment"),
)
"""An epoch takes about half a second: a signal shortly after an epoch's line comes in the next."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run directory of LONG, trained in one go."""
    directory = tmp_path_factory.mktemp("undisturbed")
    assert spawn(directory, *LONG).wait(timeout=120) == 0
    return directory / "runs/a"


SIGNALS = {
    "SIGINT": (signal.SIGINT, 130),
    "SIGTERM": (signal.SIGTERM, 143),
    "SIGUSR1": (signal.SIGUSR1, 75),
}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(*of, id=name, marks=() if name == "SIGTERM" else pytest.mark.slow)
        for name, of in SIGNALS.items()
    ],
)
def test_a_signal_stops_cleanly_and_the_run_goes_on_bitwise(tmp_path, undisturbed, number, code):
    process = spawn(tmp_path, *LONG)
    wait_for_epoch(process, 1)
    time.sleep(0.2)
    os.killpg(process.pid, number)  # Ctrl-C in a terminal reaches the whole group
    rest = process.stdout.read()
    assert process.wait(timeout=60) == code, rest
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.state == "stopped"
    state = torch.load(tmp_path / "runs/a/checkpoint.pt", weights_only=True)
    assert state["epoch"] == run.epochs[-1]
    assert state["step"] > 0, "the signal came within an epoch"
    (segment,) = segments(tmp_path / "runs/a")
    record = (segment / "files/record.sqlite").read_bytes()
    assert record == run.path.read_bytes(), "the record is added at every ending"

    process = spawn(tmp_path, *LONG)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_same_record(tmp_path / "runs/a", undisturbed)
    assert_each_epoch_once(tmp_path / "runs/a")


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "some where"], ids=["here", "elsewhere"])
def test_the_line_that_goes_on_names_what_is_there(tmp_path, below):
    """It is given to a shell as it is printed, where train.py does not lie."""
    directory = tmp_path / below
    directory.mkdir(exist_ok=True)
    process = spawn(directory, *LONG, "--epochs=2")
    wait_for_epoch(process, 0)
    os.killpg(process.pid, signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 143, rest
    (line,) = [line for line in rest.splitlines() if line.startswith("go on with: ")]
    again = subprocess.run(line.partition(": ")[2], shell=True, cwd=directory, check=False)
    assert again.returncode == 0
    assert lowrank.load_run(directory / "runs/a").state == "finished"


@pytest.mark.parametrize(
    "every", [1, pytest.param(2, marks=pytest.mark.slow)], ids="checkpoint_every={}".format
)
def test_a_killed_run_goes_on_bitwise(tmp_path, undisturbed, every):
    process = spawn(tmp_path, *LONG, f"--checkpoint_every={every}")
    wait_for_epoch(process, 1)
    time.sleep(0.2)
    process.kill()
    process.wait(timeout=60)
    assert lowrank.load_run(tmp_path / "runs/a").state == "killed"
    process = spawn(tmp_path, *LONG, f"--checkpoint_every={every}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_same_record(tmp_path / "runs/a", undisturbed)
    assert_each_epoch_once(tmp_path / "runs/a")


def assert_each_epoch_once(run_dir):
    """Reads the W&B segments of a run in order: every epoch once, in order, with equal values."""
    run = lowrank.load_run(run_dir)
    lines = [line for segment in segments(run_dir) for line in inspect(segment)]
    rows = [line["history"]["item"] for line in lines if line["type"] == "history"]
    assert [row["epoch"] for row in rows] == run.epochs.tolist()
    for place, row in enumerate(rows):
        assert row["train_loss"] == run.metrics["train_loss"][place]
        assert row["rank/linear1"] == run.metrics["rank/linear1"][place]


def test_piped_output_is_one_plain_line_per_epoch(tmp_path):
    process = spawn(tmp_path, "--tracking=disabled")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "\x1b" not in output
    assert "\r" not in output
    assert re.findall(r"^ +(\d)/3 ", output, flags=re.MULTILINE) == ["0", "1", "2", "3"]
    assert max(len(line) for line in output.splitlines()) <= 80


def test_a_terminal_shows_a_bar_with_rate_and_time_left(tmp_path):
    ours, theirs = pty.openpty()
    process = spawn(
        tmp_path, "--tracking=disabled", stdout=theirs, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert re.search(r"epoch \d/3", text)
    assert re.search(r"[\d,]+ images/s", text)
    assert re.search(r"\d+:\d\d", text)


def test_help_and_errors_load_neither_torch_nor_wandb(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import train;"
        "code = train.main(['--wdith=3']);"
        "print(code, sorted({'torch', 'wandb', 'numpy', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, ROOT], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.stdout == "2 []\n"
    assert "did you mean 'width'?" in result.stderr
