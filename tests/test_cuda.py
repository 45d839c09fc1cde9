"""Whole paths on a CUDA device that is not there: `tests.fake_cuda` says what that can show.

What must hold: nothing mixes two devices or draws from another's generator, the host waits for the
device at the end of an epoch, of an evaluation and of a measurement and never at a step, and no
operation is without a deterministic kernel.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.data import load_dataset
from lowrank.measure import spectra
from lowrank.measure.watcher import Watcher, measure_all
from lowrank.runs.directory import complete
from lowrank.training import rounds, steps
from lowrank.training.learner import Learner
from lowrank.training.pack import build
from tests import fake_cuda

MLP = {"model": "mlp", "depth": 1, "width": 8}
GPT = {"model": "gpt", "gpt_depth": 1, "gpt_heads": 2, "gpt_width": 16, "dataset": "pydoc"}
CONVNET = {"model": "convnet", "depth": 1, "width": 8}
BATCH = 8

NOT_DETERMINISTIC = (
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "avg_pool3d"),
    *("fractional_max_pool", "max_pool3d", "max_unpool", "reflection_pad", "replication_pad"),
    *("upsample", "grid_sampler", "nll_loss2d", "ctc_loss", "embedding_bag", "segment_reduce"),
    *("histc", "bincount", "kthvalue", "median", "put_", "resize_"),
)
"""Beginnings of the operators that `torch.use_deterministic_algorithms` says raise on CUDA."""


@pytest.fixture
def device():
    with fake_cuda.fake_cuda() as device:
        yield device


def learner(members=1, **fields):
    given = {"device": "cuda", "dataset": "synthetic", "batch_size": BATCH, **fields}
    config = complete(Config.model_validate(given), members)
    place = steps.configure_torch(config)
    request = {"train_size": 2 * BATCH, "context": config.context}
    dataset = load_dataset(config.dataset, **request).to(place)
    pack = build([config] * members, dataset.image_shape, dataset.num_classes, place)
    made = Learner([config] * members, dataset, pack)
    if config.compile:
        made.compile()
    return made


@pytest.mark.parametrize(
    "fields",
    [
        MLP,
        {**MLP, "members": 3},
        {**MLP, "members": 2, "compile": True, "optimizer": "adamw"},
        {**MLP, "optimizer": "adamw", "loss": "mse"},
        {"model": "resmlp", "depth": 1, "width": 8},
        {"model": "convnet", "depth": 1, "width": 8, "augment": True, "precision": "bf16"},
        {"model": "vit", "vit_depth": 1, "vit_width": 16, "vit_mlp_width": 16, "dropout": 0.1},
        {**GPT, "members": 2, "compile": True},
        {**GPT, "optimizer": "adamw"},
        {**GPT, "optimizer": "muon"},
        {**MLP, "members": 2, "compile": True, "optimizer": "muon"},
        pytest.param({"model": "vgg11", "dropout": 0.2}, marks=pytest.mark.slow),
        pytest.param({"model": "resnet18"}, marks=pytest.mark.slow),
        pytest.param({"model": "resnet50"}, marks=pytest.mark.slow),
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_an_epoch_mixes_no_devices_and_waits_at_its_end(device, fields):
    one = learner(**fields)
    assert all(parameter.is_cuda for parameter in one.pack.parameters())
    device.waits.clear()
    one.train_epoch(lambda: True)  # of two steps
    assert device.waits == {"copy from cpu to cuda": 1, "synchronize": 1}  # rates, and the end
    device.waits.clear()
    one.evaluate(one.dataset.train, lambda: True)
    # Constants, which what is compiled has already; the losses and accuracies are one copy each.
    copied, read = 0 if one.config.compile else 2, 2 * len(one.configs)
    assert device.waits["copy from cpu to cuda"] == copied
    assert device.waits["aten._local_scalar_dense.default"] == device.waits.total() - copied == read
    names = [name.removeprefix("aten.").lstrip("_") for name in device.operators]
    assert [name for name in names if name.startswith(NOT_DETERMINISTIC)] == []


@pytest.mark.parametrize("members", [1, 2])
def test_measuring_copies_spectra_and_distances_and_no_matrix(device, members):
    one = learner(members, **MLP)
    example = one.dataset.example
    watchers = [Watcher(network, example_input=example) for network in one.pack.networks]
    for watcher in watchers:
        watcher.advance()
    weights = copy.deepcopy([watcher.weights() for watcher in watchers])
    device.waits.clear()
    measure_all(watchers, weights, [0] * members, [()] * members)
    count = 2 * members  # matrices, of two shapes
    assert device.waits == {
        "copy from cuda to cpu": 2 + count,
        "aten._local_scalar_dense.default": count,  # peaks, one copy for each shape
    }


@pytest.mark.parametrize("places", [("cpu", "cuda"), ("cpu",)], ids=["card", "cores"])
def test_spectra_are_found_where_they_are_said_to_be(device, monkeypatch, places):
    monkeypatch.setattr(spectra, "PLACES", places)
    there = []
    solve = torch.linalg.eigvalsh
    monkeypatch.setattr(
        torch.linalg, "eigvalsh", lambda gram: (there.append(gram.device.type), solve(gram))[1]
    )
    spectra.singular_values([torch.ones(3, 4, device="cuda") for _ in range(2)])
    on_card = len(places) == 2
    assert there == (["cuda"] if on_card else ["cpu", "cpu"])
    assert device.waits["copy from cuda to cpu"] == len(there)  # the results, or the weights


@pytest.mark.usefixtures("device")
def test_an_svd_is_left_to_the_cpu(monkeypatch):
    asked = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(
        torch.linalg, "svdvals", lambda w: (asked.append(w.device.type), svdvals(w))[1]
    )
    monkeypatch.setattr(spectra, "SMALL", 2.0)  # no Gram matrix is good enough
    spectra.singular_values([torch.ones(3, 4, device="cuda")])
    assert asked == ["cpu"]


@pytest.mark.parametrize("fields", [MLP, {**CONVNET, "augment": True}], ids=["mlp", "convnet"])
def test_compiled_epochs_and_evaluations_are_recorded_before_training(device, fields):
    one = learner(compile=True, **fields)
    device.waits.clear()
    device.operators.clear()
    before = device.replays
    one.train_epoch(lambda: True)
    assert device.replays - before == 1  # both steps
    one.evaluate(one.dataset.train, lambda: True)
    assert device.replays - before == 2
    # Rates, the end, and two sums. What else is asked of the device is drawing and copying orders.
    assert device.waits == {
        "copy from cpu to cuda": 1,
        "synchronize": 1,
        "aten._local_scalar_dense.default": 2,
    }
    assert not {name for name in device.operators if "mm" in name or "conv" in name}


@pytest.mark.usefixtures("device")
def test_what_cannot_be_recorded_is_told_like_what_cannot_be_compiled(monkeypatch):
    def fail(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(rounds, "record", fail)
    with pytest.raises(InputError, match="compile=True is not possible here"):
        learner(compile=True, **MLP)


@pytest.mark.usefixtures("device")
def test_a_run_keeps_the_generator_of_its_own_gpu_only(monkeypatch):
    state = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: state)
    given = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, place: given.append(place))
    second = torch.device("cuda:1")
    states = steps.get_generators(second)
    assert len(states) == 2
    steps.set_generators(states, second)
    assert given == [second]
    assert len(steps.get_generators(torch.device("cpu"))) == 1


FAULTS = {
    "an index on the CPU": lambda there: there[torch.tensor([0])],
    "an operand on the CPU": lambda there: there + torch.ones(3),
    "a generator of the CPU": lambda there: there.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.usefixtures("device")
def test_the_stand_in_refuses_what_a_card_or_its_speed_would(fault):
    with pytest.raises(
        RuntimeError, match=r"operands on cpu and cuda|generator of cpu|same device"
    ):
        fault(torch.ones(3, device="cuda"))


def test_the_stand_in_notes_what_the_host_waits_for(device):
    there = torch.ones(3, device="cuda")
    there.sum().item()
    there.cpu()
    torch.tensor([1.0], device="cuda")
    assert device.waits == {
        "aten._local_scalar_dense.default": 1,
        "copy from cuda to cpu": 1,
        "copy from cpu to cuda": 1,
    }


def test_gradients_of_the_stand_in_are_those_of_torch():
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    ).double()
    value = (network(torch.randn(5, 2, 4, 4).double()) ** 2).sum()
    weights = list(network.parameters())
    expected = torch.autograd.grad(value, weights, retain_graph=True)
    for found, true in zip(fake_cuda.gradients(value, weights), expected, strict=True):
        torch.testing.assert_close(found, true)
