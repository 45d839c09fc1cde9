"""`lowrank.watch` and `Watcher` in loops that are not ours.

Values against numpy in float64 on the weights themselves, names against those that train.py logs,
W&B's rows as wandb's own reader shows them, endings and distributed trainings in processes of their
own. Run with ``pytest tests/test_watch.py``.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.common.errors import InputError
from lowrank.measure.metrics import HISTOGRAM_EDGES
from lowrank.measure.watcher import Watcher
from lowrank.runs.lock import lock
from tests.segments import records


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def train(model, optimizer, steps=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 8, generator=generator)).square().mean().backward()
        optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.01)


def same(first, second):
    """Returns whether two rows are bitwise equal, NaN where the other is NaN."""
    assert first.keys() == second.keys()
    return all(np.array_equal(first[n], second[n], equal_nan=True) for n in first)


# What a row says.


def test_names_are_those_that_train_logs(tmp_path, monkeypatch):
    import train as entry_point

    monkeypatch.chdir(tmp_path)
    options = ["--train_size=100", "--width=10", "--epochs=1", "--tracking=disabled"]
    assert entry_point.main([*options, "--run_id=a", "--device=cpu"]) == 0
    theirs = lowrank.load_run("runs/a")
    from lowrank.config import load
    from lowrank.data import load_dataset
    from lowrank.models import build_model

    dataset = load_dataset("digits", train_size=100)
    model = build_model(load("runs/a/config.yaml"), dataset.image_shape, dataset.num_classes)
    watcher = lowrank.watch(model, record="runs/b", example_input=torch.zeros(1, 1, 8, 8))
    watcher.log(0, lr=0.1)
    watcher.close()
    ours = lowrank.load_run("runs/b")
    loops_own = {"train_loss", "train_accuracy", "test_loss", "test_accuracy", "dead"}
    loops_own |= {n for n in theirs.metrics if n.startswith(("time/", "throughput/"))}
    assert set(ours.metrics) == set(theirs.metrics) - loops_own
    assert ours.layers == theirs.layers


def test_values_are_numpys():
    model = network()
    watcher = lowrank.watch(model, epsilons=[0.3, 0.1])
    watcher.log(0)
    before = [model[i].weight.detach().double().numpy().copy() for i in (0, 2, 4)]
    train(model, sgd(model))
    row = watcher.log(1, test_accuracy=0.25)
    ranks = []
    for i, v in zip((0, 2, 4), before, strict=True):
        w = model[i].weight.detach().double().numpy()
        s = np.linalg.svd(w, compute_uv=False)
        norm = np.linalg.norm(w)
        ranks.append((s > 0.3 * norm).sum())
        assert row[f"rank/{i}"] == ranks[-1]
        assert row[f"rank@0.1/{i}"] == (s > 0.1 * norm).sum()
        assert row[f"frobenius_norm/{i}"] == pytest.approx(norm, rel=1e-12)
        assert row[f"spectral_norm/{i}"] == pytest.approx(s[0], rel=1e-12)
        distance = np.linalg.norm(w / norm - v / np.linalg.norm(v))
        assert row[f"distance/{i}"] == pytest.approx(distance, rel=1e-9)
        assert distance > 1e-3
    assert row["rank_mean"] == np.mean(ranks[:2])
    assert row["rank_mean_all"] == np.mean(ranks)
    assert (row["epoch"], row["test_accuracy"]) == (1, 0.25)


def test_a_row_has_its_spectra_with_it(tmp_path):
    model = nn.Sequential(nn.Linear(5, 12), nn.Linear(4, 2))
    watcher = lowrank.watch(model, record=tmp_path, split={"0": "qkv"})
    row = watcher.log(0, test_accuracy=0.5)
    watcher.close()
    blocks = dict(zip(("0_q", "0_k", "0_v"), model[0].weight.detach().chunk(3), strict=True))
    assert list(row.spectra) == [*blocks, "1"]
    for name, block in blocks.items():
        s = np.linalg.svd(block.double().numpy(), compute_uv=False)
        np.testing.assert_allclose(row.spectra[name], s, rtol=1e-12)
        assert row[f"rank/{name}"] == 4
    recorded = lowrank.load_run(tmp_path).spectra
    assert {n: s[0].tolist() for n, s in recorded.items()} == {
        name: s.tolist() for name, s in row.spectra.items()
    }


def test_distances_of_known_size():
    model = nn.Linear(4, 4, bias=False)
    watcher = lowrank.watch(model)
    assert math.isnan(watcher.log(0)["distance/weight"])
    with torch.no_grad():
        model.weight.mul_(3)
    assert watcher.log(1)["distance/weight"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.weight.mul_(-1)
    assert watcher.log(2)["distance/weight"] == pytest.approx(2)
    assert watcher.log(3)["distance/weight"] == 0


@pytest.mark.parametrize("size", [1e-1, 1e-5, 1e-9])
@pytest.mark.parametrize("stretch", [1.0, 1.001, 3.0])
def test_small_distances_keep_their_digits(size, stretch):
    generator = np.random.default_rng(0)
    before = generator.normal(size=(700, 900))
    after = stretch * (before + size * generator.normal(size=before.shape))
    module = nn.Linear(900, 700, bias=False).double()
    module.weight.data = torch.from_numpy(before)
    watcher = Watcher(module)
    watcher.advance()
    module.weight.data = torch.from_numpy(after)
    w, v = after.astype(np.longdouble), before.astype(np.longdouble)
    expected = np.sqrt(np.sum((w / np.sqrt(np.sum(w**2)) - v / np.sqrt(np.sum(v**2))) ** 2))
    found = watcher.measure(1).metrics["distance/weight"]
    assert found == pytest.approx(float(expected), rel=1e-9, abs=3e-8 * (stretch - 1))


def test_the_distance_of_complex_matrices():
    model = nn.Linear(4, 4, dtype=torch.complex64)
    watcher = lowrank.watch(model)
    watcher.log(0)
    with torch.no_grad():
        model.weight.mul_(1j)
    assert watcher.log(1)["distance/weight"] == pytest.approx(math.sqrt(2), rel=1e-6)


def test_a_module_may_change_its_type():
    model = network()
    watcher = lowrank.watch(model)
    watcher.log(0)
    model.bfloat16()
    assert 0 < watcher.log(1)["distance/0"] < 2**-8


def test_collapse_is_against_epoch_0():
    model = network()
    watcher = lowrank.watch(model)
    watcher.log(0)
    for epoch, (factor, collapsed) in enumerate([(1e-5, 0), (0.09, 1), (1.05, 1), (10, 0)], 1):
        with torch.no_grad():
            model[2].weight.mul_(factor)
        row = watcher.log(epoch)
        assert row["collapsed"] == collapsed, epoch
        for name in ("rank/2", "stable_rank/2", "rank_mean", "rank_mean@0.01", "rank_mean_all"):
            assert math.isnan(row[name]) == bool(collapsed), (epoch, name)
        assert math.isfinite(row["rank/0"])
        assert row["frobenius_norm/2"] > 0


def test_what_is_not_finite_is_collapsed():
    model = network()
    watcher = lowrank.watch(model)
    watcher.log(0)
    with torch.no_grad():
        model[4].weight[0, 0] = math.nan
    row = watcher.log(1)
    assert row["collapsed"] == 1
    assert math.isnan(row["rank/4"])
    assert math.isnan(row["distance/4"])
    assert row["rank_mean"] == 5.5  # the last matrix does not count


def test_a_training_begun_again_has_a_new_epoch_0():
    model = network()
    watcher = lowrank.watch(model)
    watcher.log(0)
    with torch.no_grad():
        model[0].weight.mul_(1e-7)
    assert watcher.log(0)["collapsed"] == 0


def test_exclude_and_include():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.first, self.second, self.head = (nn.Linear(4, 4) for _ in range(3))

    row = lowrank.watch(Net(), exclude=["second"], include=["table"], epsilons=[1e-9]).log(0)
    assert row["rank/table"] == 4
    assert row["rank_mean"] == (row["rank/table"] + row["rank/first"]) / 2
    with pytest.raises(InputError, match=r"exclude: 'scond' is .* no weight matrix.*'second'"):
        lowrank.watch(Net(), exclude=["scond"])


BOUND_OPTIONS = {"optimizer": "sgd", "weight_decay": 0.4, "batch_size": 1, "train_size": 20}


def test_rank_bounds_are_the_theorys():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 3))
    options = {"example_input": torch.zeros(5, 60), "theory": BOUND_OPTIONS, "epsilons": [1e-2]}
    watcher = lowrank.watch(model, **options)
    assert [layer.positions for layer in watcher.layers] == [1, 1]
    norms = [watcher.log(0)["spectral_norm/0"]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.4)
    for epoch in range(1, 4):
        for _ in range(20):
            optimizer.zero_grad()
            (model[0](torch.randn(1, 60)) - torch.ones(50)).square().sum().div(200).backward()
            optimizer.step()
        row = watcher.log(epoch, lr=0.5)
        norms.append(row["spectral_norm/0"])
    # The least k of whole epochs, 20 examples each, that leave 1e-2 of the weights; and the least
    # steps, where twice the spectral norm around them may be left.
    size = row["frobenius_norm/0"]
    usable = [20 * k for k in (1, 2, 3) if 0.8 ** (20 * k) * norms[-1 - k] <= 1e-2 * size]
    for n in range(1, 61):
        around = max(norms[(60 - n) // 20], norms[(60 - n) // 20 + 1])
        usable += [n] if 0.8**n * 2 * around <= 1e-2 * size else []
    assert row["rank_bound/0"] == min(usable)
    assert row["rank/0"] <= row["rank_bound/0"]
    assert "rank_bound/1" not in row
    assert "rank_bound/0" not in lowrank.watch(model, **options).log(1)


# Nothing is changed.


def test_nothing_is_hooked_into_the_module():
    model = network()
    keys = {name: set(vars(module)) for name, module in model.named_modules()}
    watcher = lowrank.watch(model, example_input=torch.zeros(1, 8))
    watcher.log(0)
    for name, module in model.named_modules():
        assert set(vars(module)) == keys[name]
        assert not any("hooks" in key and value for key, value in vars(module).items()), name
        assert not hasattr(module, "parametrizations")
        assert module.training
    assert all(p._backward_hooks is None and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "make",
    [sgd, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.LBFGS],
    ids=["sgd", "adamw", "rmsprop", "adagrad", "lbfgs"],
)
def test_any_optimizer_trains_the_same_with_and_without(make):
    watched, plain = network(), network()
    watcher = lowrank.watch(watched, example_input=torch.zeros(1, 8))
    state = torch.get_rng_state()
    for model in (watched, plain):
        optimizer = make(model.parameters() if make is not sgd else model)
        for epoch in range(3):
            if model is watched:
                assert watcher.log(epoch)["collapsed"] == 0

            def closure(model=model, optimizer=optimizer):
                optimizer.zero_grad()
                loss = model(torch.linspace(0, 1, 32).view(4, 8)).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)
    for ours, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(torch.get_rng_state(), state)


# The record.


def test_a_record_is_written_continued_and_corrected(tmp_path):
    model = network()
    watcher = lowrank.watch(model, record=tmp_path / "run")
    rows = [watcher.log(0, test_accuracy=0.1)]
    train(model, sgd(model))
    rows.append(watcher.log(1, test_accuracy=math.nan, **{"val/loss": 2.0}))
    assert lowrank.load_run(tmp_path / "run").state == "running"
    watcher.close()

    again = lowrank.watch(model, record=tmp_path / "run", resume=True)
    train(model, sgd(model))
    rows.append(again.log(2, test_accuracy=math.inf))
    train(model, sgd(model))
    rows[1] = again.log(1, test_accuracy=0.75)
    again.close("stopped")

    run = lowrank.load_run(tmp_path / "run")
    assert (run.id, run.state, len(run.sessions)) == ("run", "stopped", 2)
    assert run.epochs.tolist() == [0, 1, 2]
    assert run.metrics["test_accuracy"].tolist() == [0.1, 0.75, math.inf]
    assert np.isnan(run.metrics["val/loss"]).all()
    for name in rows[0].keys() | rows[1].keys():
        expected = [row.get(name, np.nan) for row in rows]
        np.testing.assert_array_equal(run.metrics[name], expected, err_msg=name)
    last = np.linalg.svd(model[0].weight.detach().double(), compute_uv=False)
    np.testing.assert_allclose(run.spectra["0"][1], last, rtol=1e-10)


def test_a_collapse_stays_one_when_the_record_is_continued(tmp_path):
    model = network()
    watcher = lowrank.watch(model, record=tmp_path)
    watcher.log(0)
    with torch.no_grad():
        model[0].weight.mul_(1e-8)
    watcher.close()
    again = lowrank.watch(model, record=tmp_path, resume=True)
    assert again.log(1)["collapsed"] == 1
    again.close()


def test_bounds_go_on_when_the_record_is_continued(tmp_path):
    def watch(model, directory):
        options = {"example_input": torch.zeros(1, 60), "theory": BOUND_OPTIONS}
        return lowrank.watch(model, record=directory, resume=True, epsilons=[1e-2], **options)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 3))
    whole, parts = watch(model, tmp_path / "a"), watch(model, tmp_path / "b")
    rates = [0.5, 0.1, 0.3]
    for epoch in range(4):
        given = {"lr": rates[epoch - 1]} if epoch else {}
        expected = whole.log(epoch, **given)
        found = parts.log(epoch, **given)
        parts.close()
        parts = watch(model, tmp_path / "b")
        assert found.get("rank_bound/0") == expected.get("rank_bound/0")
    assert "rank_bound/0" in expected
    whole.close()
    parts.close()


def test_a_record_of_another_network_is_refused(tmp_path):
    lowrank.watch(network(), record=tmp_path).close()
    for model, options in [
        (nn.Linear(8, 6), {}),
        (network(), {"exclude": ["0"]}),
        (network(), {"example_input": torch.zeros(1, 8)}),
    ]:
        with pytest.raises(InputError, match="is of another network, or was begun with other"):
            lowrank.watch(model, record=tmp_path, resume=True, **options)
    lowrank.watch(network(), record=tmp_path, resume=True).close()


def test_one_record_has_one_writer(tmp_path):
    watcher = lowrank.watch(network(), record=tmp_path / "mine")
    with pytest.raises(InputError, match=r"an earlier call of watch in this process .* close"):
        lowrank.watch(network(), record=tmp_path / "mine")
    watcher.close()
    elsewhere = lock(tmp_path / "theirs")
    with pytest.raises(InputError, match="another process is already working"):
        lowrank.watch(network(), record=tmp_path / "theirs")
    elsewhere.release()


def test_a_second_training_is_not_mixed_into_a_record(tmp_path):
    first = lowrank.watch(network(), record=tmp_path)
    first.log(0)
    first.log(1)
    first.close()
    with pytest.raises(InputError, match=r"up to epoch 1 \(finished\).*another place.*resume=True"):
        lowrank.watch(network(1), record=tmp_path)
    again = lowrank.watch(network(1), record=tmp_path, resume=True)
    for epoch in (0, 1):
        with pytest.raises(ValueError, match=rf"epoch {epoch}: .* has reached epoch 1"):
            again.log(epoch)
    again.log(2)
    again.close()
    assert lowrank.load_run(tmp_path).epochs.tolist() == [0, 1, 2]


def test_a_training_that_goes_back_to_a_checkpoint_replaces_what_came_after(tmp_path):
    first = lowrank.watch(network(), record=tmp_path)
    first.log(0)
    first.log(1)
    state = first.state_dict()
    first.log(2, loss=1.0)
    first.close()
    again = lowrank.watch(network(), record=tmp_path, resume=True)
    again.load_state_dict(state)
    with pytest.raises(ValueError, match=r"epoch 1: .* has reached epoch 1"):
        again.log(1)
    again.log(2, loss=2.0)
    again.close()
    assert lowrank.load_run(tmp_path).metrics["loss"][2] == 2


def test_what_the_watcher_was_told_is_in_the_record_and_readers_take_it_from_there(tmp_path):
    from lowrank.views.report.many import definitions
    from lowrank.views.table.rows import common_definition, read_row

    options = {"epsilons": (0.1, 0.2), "rank_norm": "spectral", "exclude": ["0"]}
    watcher = lowrank.watch(network(), record=tmp_path, **options)
    row = watcher.log(0)
    watcher.close()
    run = lowrank.load_run(tmp_path)
    assert run.config == {"epsilons": [0.1, 0.2], "rank_norm": "spectral"}
    assert [layer.name for layer in run.layers if layer.counted] == ["2"]
    definition = common_definition([run])
    assert (definition.epsilon, definition.rank_norm) == (0.1, "spectral")
    assert read_row(run, definition).ranks.tolist() == [row["rank_mean"]]
    assert [each.epsilon for each in definitions(run)] == [0.1, 0.2]
    with pytest.raises(InputError, match=r"begun with epsilons=\[0.1, 0.2\], got \[0.001, 0.01\]"):
        lowrank.watch(network(), record=tmp_path, resume=True, exclude=["0"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"epsilons": ()}, "epsilons: got none; allowed: one or more numbers from 0 to below 1"),
        ({"epsilons": [1e-3, 1.5]}, "epsilons: got 0.001, 1.5; allowed"),
        ({"rank_norm": "frobenus"}, "did you mean 'frobenius'"),
    ],
    ids=["none", "too large", "norm"],
)
def test_options_are_checked_before_the_first_measurement(options, line):
    with pytest.raises(InputError, match=line):
        lowrank.watch(network(), **options)


def test_the_commit_is_that_of_the_users_repository(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    (tmp_path / "mine.py").write_text(
        "import torch, lowrank\n"
        "w = lowrank.watch(torch.nn.Linear(3, 2), record='run')\n"
        "w.log(0)\nw.close()\n"
    )
    for words in (["init", "-q"], ["add", "mine.py"], ["commit", "-q", "-m", "mine"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(
        [sys.executable, str(tmp_path / "mine.py")],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(Path(lowrank.__file__).parents[1])},
        check=True,
    )
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert lowrank.load_run(tmp_path / "elsewhere" / "run").environment["commit"] == commit


def test_a_layer_that_began_at_zero_collapses_against_its_largest_norm(tmp_path):
    model = network()
    with torch.no_grad():
        model[2].weight.zero_()
    watcher = lowrank.watch(model, record=tmp_path)
    assert watcher.log(0)["collapsed"] == 0
    with torch.no_grad():
        model[2].weight.normal_()
    assert watcher.log(1)["collapsed"] == 0
    state = watcher.state_dict()
    watcher.close()
    with torch.no_grad():
        model[2].weight.mul_(1e-12)
    resumed = lowrank.watch(model, record=tmp_path, resume=True)
    loaded = lowrank.watch(model)
    loaded.load_state_dict(state)
    for each in (resumed, loaded):
        row = each.log(2)
        assert row["collapsed"] == 1
        assert math.isnan(row["rank/2"])
    resumed.close()


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e-160], ids=str)
def test_finite_matrices_of_any_size_are_measured(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5).double(), nn.Linear(5, 4).double())
    before = model[0].weight.detach().numpy().copy()
    change = 1e-3 * np.random.default_rng(0).normal(size=before.shape)
    watcher = lowrank.watch(model)
    with torch.no_grad():
        model[0].weight.mul_(size)
    first = watcher.log(0)
    with torch.no_grad():
        model[0].weight.add_(torch.from_numpy(change * size))
    row = watcher.log(1)
    after = before + change
    s = np.linalg.svd(after, compute_uv=False)
    assert (first["collapsed"], row["collapsed"]) == (0, 0)
    assert row["rank/0"] == 5
    assert row["frobenius_norm/0"] == pytest.approx(np.linalg.norm(s) * size, rel=1e-12)
    expected = np.linalg.norm(after / np.linalg.norm(after) - before / np.linalg.norm(before))
    assert row["distance/0"] == pytest.approx(expected, rel=1e-6)


def test_a_distance_between_matrices_of_very_different_size():
    model = nn.Linear(3, 3, bias=False).double()
    watcher = Watcher(model)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3).double() * 1e-200)
    watcher.advance()
    with torch.no_grad():
        model.weight.copy_(-torch.eye(3).double() * 1e200)
    assert watcher.measure(1).metrics["distance/weight"] == pytest.approx(2)


class OneRun:
    """What `watch` needs of a W&B run."""

    def __init__(self):
        self.id, self.config, self.summary, self.rows, self.hidden = "one", {}, {}, [], {}

    def define_metric(self, name, *, hidden, **_):
        self.hidden[name] = hidden

    def log(self, row, **_):
        self.rows.append(row)


def test_two_watchers_on_one_wandb_run_have_names_of_their_own():
    run = OneRun()
    student = lowrank.watch(network(), run=run)
    with pytest.raises(InputError, match=r"another watcher logs to the W&B run one.*prefix"):
        lowrank.watch(network(1), run=run)
    teacher = lowrank.watch(network(1), run=run, prefix="teacher/")
    plain, theirs = student.log(0), teacher.log(0, loss=1.0)
    assert run.rows[0]["rank_mean"] == plain["rank_mean"]
    assert run.rows[1]["teacher/rank_mean"] == theirs["rank_mean"]
    assert (run.rows[1]["epoch"], run.rows[1]["teacher/loss"]) == (0, 1)
    assert not run.rows[0].keys() & run.rows[1].keys() - {"epoch"}
    assert run.hidden["teacher/stable_rank/0"]
    assert not run.hidden["teacher/rank/0"]
    student.close()
    lowrank.watch(network(), run=run)


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(0.5, requires_grad=True),
        torch.tensor([0.5]),
        torch.tensor(0.5, dtype=torch.bfloat16),
        np.array([[0.5]]),
        np.float32(0.5),
    ],
    ids=["requires grad", "shape (1,)", "bfloat16", "array", "numpy number"],
)
def test_a_loss_may_be_a_tensor(tmp_path, value):
    watcher = lowrank.watch(network(), record=tmp_path)
    assert watcher.log(1, lr=value, train_loss=value)["train_loss"] == 0.5
    watcher.close()
    assert lowrank.load_run(tmp_path).metrics["train_loss"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2), r"loss must be a number, got one of shape \(2,\)"),
        ("low", "loss must be a number, got 'low'"),
        (None, "loss must be a number, got None"),
    ],
    ids=["vector", "text", "none"],
)
def test_what_is_no_number_is_not_logged(value, message):
    with pytest.raises(ValueError, match=message):
        lowrank.watch(network()).log(0, loss=value)


def test_a_state_dict_is_no_module():
    with pytest.raises(InputError, match=r"got a state dict .* lowrank spectra"):
        lowrank.watch(network().state_dict())
    with pytest.raises(InputError, match=r"must be a torch.nn.Module, got list"):
        lowrank.watch([torch.zeros(2, 2)])


def test_a_watcher_logs_from_any_thread(tmp_path):
    watcher = lowrank.watch(network(), record=tmp_path)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(watcher.log, range(8)))
    watcher.close()
    run = lowrank.load_run(tmp_path)
    assert run.epochs.tolist() == list(range(8))
    assert run.metrics["rank_mean"].tolist() == [row["rank_mean"] for row in rows]


@pytest.mark.parametrize(
    ("epoch", "more", "message"),
    [
        (-1, {}, "epoch must be a whole number, 0 or more, got -1"),
        (0.5, {}, "epoch must be a whole number, 0 or more, got 0.5"),
        (0, {"rank_mean": 1.0}, "rank_mean: measured here"),
    ],
    ids=["negative", "fraction", "name that is taken"],
)
def test_what_cannot_be_logged(tmp_path, epoch, more, message):
    watcher = lowrank.watch(network(), record=tmp_path)
    with pytest.raises(ValueError, match=message):
        watcher.log(epoch, **more)
    watcher.close()
    assert lowrank.load_run(tmp_path).epochs.tolist() == []


def test_a_closed_watcher_logs_nothing(tmp_path):
    for options in ({}, {"record": tmp_path}):
        watcher = lowrank.watch(network(), **options)
        watcher.log(0)
        watcher.close()
        with pytest.raises(ValueError, match="epoch 1: the watcher was closed"):
            watcher.log(1)
    assert lowrank.load_run(tmp_path).epochs.tolist() == [0]


def test_a_state_continues_bitwise(tmp_path):
    def watch(model):
        options = {"example_input": torch.zeros(1, 60), "theory": BOUND_OPTIONS}
        return lowrank.watch(model, epsilons=[1e-2], **options)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 3))
    whole = watch(model)
    parts = watch(model)
    for epoch in range(4):
        rate = 0.5 / (epoch + 1)
        assert same(whole.log(epoch, lr=rate), parts.log(epoch, lr=rate)), epoch
        torch.save(parts.state_dict(), tmp_path / "state.pt")
        parts = watch(model)
        parts.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        with torch.no_grad():
            model[0].weight.add_(0.01 * torch.randn(50, 60))


def test_a_state_does_not_follow_the_weights():
    model = network()
    watcher = Watcher(model)
    watcher.advance()
    state = copy.deepcopy(watcher.state_dict())
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(watcher.state_dict()["previous"]["0"], state["previous"]["0"])


# Endings, in processes of their own.

PRELUDE = """
import os, signal, sys, torch, lowrank
model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 3))
watcher = lowrank.watch(model, record="run")
watcher.log(0)
watcher.log(1)
"""


ENDINGS = {
    "end of the program": ("", "finished", 0),
    "exception": ("raise RuntimeError", "failed", 1),
    "kill -9": ("os.kill(os.getpid(), signal.SIGKILL)", "killed", -signal.SIGKILL),
}


def start(program, directory, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The directory of a program of each ending, and its exit code."""
    places = {name: tmp_path_factory.mktemp("ended") for name in ENDINGS}
    running = {name: start(PRELUDE + ENDINGS[name][0], places[name]) for name in ENDINGS}
    for process in running.values():
        process.communicate(timeout=120)
    return {name: (places[name], process.returncode) for name, process in running.items()}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_program_ends_is_recorded(ended, ending):
    directory, code = ended[ending]
    run = lowrank.load_run(directory / "run")
    assert (run.state, code) == ENDINGS[ending][1:]
    assert run.epochs.tolist() == [0, 1]


# W&B.


def test_a_wandb_run_gets_the_rows_and_keeps_its_own(tmp_path):
    import wandb

    model = network()
    run = wandb.init(mode="offline", project="p", id="abc", dir=str(tmp_path), config={"lr": 0.1})
    run.define_metric("mine/*", step_metric="mine/step")
    watcher = lowrank.watch(model, run=run, record=tmp_path / "record")
    expected = []
    for epoch in range(3):
        for batch in range(2):
            run.log({"mine/loss": 1.0, "mine/step": 2 * epoch + batch})
        if epoch == 2:
            with torch.no_grad():
                model[0].weight.mul_(1e-9)
        expected.append(watcher.log(epoch, test_accuracy=math.nan, **{"val/loss": 0.5}))
    run.log({"mine/loss": 1.0, "mine/step": 6})
    segment = run.settings.sync_dir
    run.finish()
    with pytest.warns(UserWarning, match=r"record.sqlite was not sent to W&B: Run \(abc\) is fin"):
        watcher.close()

    rows = [record["item"] for record in records(Path(segment), "history")]
    defined = records(Path(segment), "metric")
    assert [row["_step"] for row in rows] == list(range(10))  # W&B counts, no row is lost
    ours = [row for row in rows if "rank_mean_all" in row or "epoch" in row]
    assert [row["epoch"] for row in ours] == [0, 1, 2]
    assert [row["mine/step"] for row in rows if row not in ours] == list(range(7))
    for row, wanted in zip(ours, expected, strict=True):
        finite = {name: value for name, value in wanted.items() if math.isfinite(value)}
        logged = {n: v for n, v in row.items() if not n.startswith(("_", "spectrum/"))}
        assert logged == pytest.approx(finite, rel=1e-12)
    assert ours[0]["spectrum/0.bins"] == HISTOGRAM_EDGES.tolist()
    assert sum(ours[0]["spectrum/0.values"]) == 6
    assert not any(name.startswith("spectrum/0.") for name in ours[2])  # collapsed
    assert [m["glob_name"] for m in defined if "glob_name" in m] == ["mine/*"]
    axes = {m["name"]: m.get("step_metric") for m in defined if "name" in m}
    finite = {n for row in expected for n, value in row.items() if math.isfinite(value)}
    wanted = dict.fromkeys(finite | {f"spectrum/{i}" for i in (0, 2, 4)}, "epoch")
    assert axes == wanted | {"epoch": None}
    hidden = {m["name"] for m in defined if "name" in m and m["options"].get("hidden")}
    assert {"epoch", "rank@0.01/0", "rank_mean@0.01", "distance/2", "spectrum/4"} <= hidden
    assert not {"rank_mean", "rank/0", "val/loss"} & hidden
    recorded = lowrank.load_run(tmp_path / "record")
    assert recorded.id == "abc"
    assert recorded.config == {"lr": 0.1, "epsilons": [1e-3, 1e-2], "rank_norm": "frobenius"}


def test_a_disabled_wandb_run_is_taken_too():
    import wandb

    with wandb.init(mode="disabled") as run:
        assert lowrank.watch(network(), run=run).log(0)["rank_mean"] == 5.5


# Wrapped modules.

DISTRIBUTED = """
import sys, torch, lowrank
from torch.nn.parallel import DistributedDataParallel
rank = int(sys.argv[1])
store = torch.distributed.FileStore("store", 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
theory = {"optimizer": "sgd", "weight_decay": 0.1, "batch_size": 3, "train_size": 12}
options = {"record": "run", "example_input": torch.zeros(1, 8)}
try:
    lowrank.watch(model, theory=theory, **options)
    raise AssertionError("the batch of one process was taken for that of both")
except lowrank.common.errors.InputError as error:
    assert "that of all 2 processes together, which is a multiple of 2, got 3" in str(error)
watcher = lowrank.watch(model, theory=theory | {"batch_size": 4}, **options)
measured = []
measure = watcher._measured
watcher._measured = lambda *args: measured.append(args) or measure(*args)
for epoch in range(3):
    row = watcher.log(epoch)
    assert bool(row) == (rank == 0), row
    optimizer.zero_grad()
    model(torch.randn(4, 8) + rank).square().mean().backward()
    optimizer.step()
assert len(measured) == (3 if rank == 0 else 0)
watcher.close()
torch.distributed.destroy_process_group()
"""


def test_of_two_distributed_processes_only_rank_0_measures(tmp_path):
    processes = [start(DISTRIBUTED, tmp_path, str(rank)) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    run = lowrank.load_run(tmp_path / "run")
    assert (run.state, run.epochs.tolist()) == ("finished", [0, 1, 2])
    assert [(layer.name, layer.positions) for layer in run.layers] == [("0", 1), ("2", 1)]
    assert (run.metrics["distance/0"][1:] > 0).all()


SHARDED = """
import sys, torch, lowrank
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from lowrank.common.errors import InputError
rank = int(sys.argv[1])
store = torch.distributed.FileStore("store", 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
for layer in (model[0], model[2], model):
    fully_shard(layer)
assert type(model[2].weight).__name__ == "DTensor"
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
watcher = lowrank.watch(model, record="run")
for epoch in range(3):
    row = watcher.log(epoch, loss=0.5)
    assert bool(row) == (rank == 0), row
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 32).view(4, 8)).square().mean().backward()
    optimizer.step()
watcher.close()
flat = FullyShardedDataParallel(nn.Sequential(nn.Linear(8, 6)), device_id=torch.device("cpu"))
try:
    lowrank.watch(flat)
except InputError as error:
    assert "FSDP1" in str(error) and len(error.lines) == 1
else:
    raise AssertionError("FSDP1 was taken")
torch.distributed.destroy_process_group()
"""


def test_sharded_parameters_are_gathered_by_all_processes_and_measured_by_rank_0(tmp_path):
    processes = [start(SHARDED, tmp_path, str(rank)) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    run = lowrank.load_run(tmp_path / "run")
    assert (run.state, run.epochs.tolist()) == ("finished", [0, 1, 2])
    assert run.metrics["loss"].tolist() == [0.5] * 3
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    watcher = lowrank.watch(model)
    for epoch in range(3):
        expected = watcher.log(epoch)
        for i in (0, 2, 4):
            s = np.linalg.svd(model[i].weight.detach().double(), compute_uv=False)
            np.testing.assert_allclose(run.spectra[str(i)][epoch], s, rtol=1e-5)
            assert run.metrics[f"distance/{i}"][epoch] == pytest.approx(
                expected[f"distance/{i}"], rel=1e-3, nan_ok=True
            )
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 32).view(4, 8)).square().mean().backward()
        optimizer.step()


@pytest.mark.slow
def test_a_compiled_module_is_measured_as_itself():
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    model = network()
    compiled = torch.compile(model)
    optimizer = sgd(model)
    outside = lowrank.watch(compiled, example_input=torch.zeros(1, 8))
    inside = lowrank.watch(model, example_input=torch.zeros(1, 8))
    for epoch in range(3):
        assert same(outside.log(epoch), inside.log(epoch))
        train(compiled, optimizer)
    assert graphs["unique_graphs"] == before + 1  # measuring compiles nothing
    assert outside.layers == inside.layers


def test_under_autocast_the_weights_are_measured_as_they_are():
    model = network()
    watcher = lowrank.watch(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.zeros(1, 8)).dtype == torch.bfloat16
        row = watcher.log(0)
        assert same(row, lowrank.watch(model).log(0))
    assert same(row, lowrank.watch(model).log(0))
    exact = np.linalg.svd(model[0].weight.detach().double(), compute_uv=False)
    assert row["spectral_norm/0"] == pytest.approx(exact[0], rel=1e-12)
