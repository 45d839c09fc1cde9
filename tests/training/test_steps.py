"""One epoch of training and evaluation against a plain loop, float64 numpy and closed forms."""

from __future__ import annotations

import copy
import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.data import Batches, load_dataset
from lowrank.models import build_model
from lowrank.training import steps
from lowrank.training.optimizer import Optimizer
from lowrank.training.pack import Pack
from lowrank.training.schedule import learning_rate
from lowrank.training.step import by_autograd

SCHEDULES = {
    "constant": (Config(lr=0.3, schedule="constant", epochs=4), [0.3, 0.3, 0.3, 0.3]),
    "milestones": (
        Config(lr=1.0, milestones=(2, 4), gamma=0.2, epochs=5),
        [1.0, 0.2, 0.2, 0.04, 0.04],
    ),
    "cosine": (
        Config(lr=2.0, schedule="cosine", epochs=4),
        [1 + math.cos(math.pi * k / 4) for k in range(4)],
    ),
    "warm-up": (
        Config(lr=1.0, schedule="constant", warmup_epochs=3, epochs=5),
        [0.25, 0.5, 0.75, 1.0, 1.0],
    ),
    "warm-up of a cosine": (
        Config(lr=2.0, schedule="cosine", warmup_epochs=1, epochs=3),
        [0.5 * 2.0, 1.5, 0.5],
    ),
    "warm-up before milestones": (
        Config(lr=1.0, milestones=(4,), gamma=0.5, warmup_epochs=1, epochs=4),
        [0.5, 1.0, 1.0, 0.5],
    ),
}


@pytest.mark.parametrize(("config", "rates"), SCHEDULES.values(), ids=SCHEDULES)
def test_learning_rate_of_every_epoch(config, rates):
    found = [learning_rate(config, epoch) for epoch in range(1, config.epochs + 1)]
    assert found == pytest.approx(rates, rel=1e-12)


def test_the_papers_rates_hold_in_each_of_its_500_epochs():
    config = Config(lr=0.5, milestones=[60, 100, 200], epochs=500)
    for epoch in range(1, 501):
        drops = (epoch > 59) + (epoch > 99) + (epoch > 199)
        assert learning_rate(config, epoch) == pytest.approx(0.5 * 0.2**drops)


@pytest.fixture
def digits():
    return load_dataset("digits", train_size=50)


def batches_of(dataset, batch_size):
    return Batches(dataset.train, mean=dataset.mean, std=dataset.std, batch_size=batch_size)


def optimizer_of(model, config, *, fused=True):
    return Optimizer([config], list(model.parameters()), fused=fused)


def take_steps(model, optimizer, loss, batches, precision="fp32"):
    """Steps once per batch, by autograd."""
    step = by_autograd(Pack([model]), optimizer, steps.make_loss(loss), precision=precision)
    model.train()
    for images, labels in batches:
        step(images, labels)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01, fused=False, foreach=False),
    "sgd with momentum": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=False, foreach=False
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01, fused=False, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01, fused=False, foreach=False),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_a_plain_loop(digits, name, fused):
    optimizer, _, momentum = name.partition(" with ")
    config = Config(
        optimizer=optimizer,
        momentum=0.9 if momentum else 0,
        weight_decay=0.01,
        width=12,
        depth=2,
        batch_norm=False,  # biases before it have a gradient of pure rounding, which Adam enlarges
    )
    torch.manual_seed(0)
    model = build_model(config, digits.image_shape, 10).double()
    plain = copy.deepcopy(model)
    batches = [(x.double(), y) for x, y in batches_of(digits, 16).epoch(torch.arange(50)[None])]
    take_steps(model, optimizer_of(model, config, fused=fused), "cross_entropy", batches)
    reference = OPTIMIZERS[name](plain.parameters())
    plain.train()
    for images, labels in batches:
        reference.zero_grad()
        nn.CrossEntropyLoss()(plain(images), labels).backward()
        reference.step()
    assert len(batches[-1][1]) == 2, "the short last batch is trained on"
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def numpy_step(name, weights, gradients, state, step, lr, decay=0.01):
    """Takes one step of an optimiser's definition on float64 arrays, in place.

    SGD with momentum as Sutskever et al. 2013 in torch's form, Adam as Kingma and Ba 2015 with L2
    decay, AdamW as Loshchilov and Hutter 2019.
    """
    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        if name == "adamw":
            weight *= 1 - lr * decay
        else:
            gradient = gradient + decay * weight
        first, second = state.setdefault(i, (0.0, 0.0))
        if name == "sgd":
            first = 0.9 * first + gradient
            weight -= lr * first
        else:
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
            weight -= lr * mean / (np.sqrt(square) + 1e-8)
        state[i] = first, second


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_steps_are_those_of_the_optimisers_definition(digits, name, fused):
    # A linear model under mse, whose gradient over a batch of B is 2 / (10 B) (logits - onehot)' x.
    config = Config(optimizer=name, momentum=0.9 if name == "sgd" else 0, weight_decay=0.01, lr=0.1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    optimizer = optimizer_of(model, config, fused=fused)
    weights = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    batches = [(x.double(), y) for x, y in batches_of(digits, 16).epoch(torch.arange(50)[None])]
    state, step = {}, 0
    for rate in (0.1, 0.03):
        optimizer.set_rates([rate])
        take_steps(model, optimizer, "mse", batches)
        for images, labels in batches:
            step += 1
            x, onehot = images.flatten(1).numpy(), np.eye(10)[labels.numpy()]
            error = 2 / onehot.size * (x @ weights[0].T + weights[1] - onehot)
            numpy_step(name, weights, [error.T @ x, error.sum(axis=0)], state, step, rate)
    assert step == 8
    for ours, expected in zip(model.parameters(), weights, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def means_of(model, loss, batches):
    evaluation = steps.Evaluation(model, steps.make_loss(loss))
    evaluation.begin()
    count = 0
    for images, labels in batches:
        evaluation.add(images, labels)
        count += len(labels)
    return evaluation.means(count)


@pytest.mark.parametrize("batch_size", [7, 50], ids="batch_size={}".format)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_evaluation_is_the_mean_over_examples_in_evaluation_mode(digits, loss, batch_size):
    torch.manual_seed(0)
    model = build_model(Config(width=12), digits.image_shape, 10).double()
    model.train()
    model(torch.randn(64, 1, 8, 8, dtype=torch.float64))  # running statistics other than 0 and 1
    batches = [
        (x.double(), y) for x, y in batches_of(digits, batch_size).epoch(torch.arange(50)[None])
    ]
    found = means_of(model, loss, batches)

    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches]).numpy()
    with torch.no_grad():
        logits = model.eval()(images).numpy()
    if loss == "mse":
        losses = ((logits - np.eye(10)[labels]) ** 2).mean(axis=1)
    else:
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        chosen = exponentials[np.arange(50), labels] / exponentials.sum(axis=1)
        losses = -np.log(chosen)
    expected = [losses.mean()], [(logits.argmax(axis=1) == labels).mean()]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs)


def test_evaluation_changes_nothing(digits):
    model = build_model(Config(width=12), digits.image_shape, 10)
    before = copy.deepcopy(model.state_dict())
    batches = batches_of(digits, 16).epoch(torch.arange(50)[None])
    means_of(model, "cross_entropy", batches)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bf16_trains_in_bfloat16_and_keeps_float32_weights(digits):
    config = Config(width=12)
    model = build_model(config, digits.image_shape, 10)
    kinds = []
    model.linear2.register_forward_hook(lambda *arguments: kinds.append(arguments[-1].dtype))
    batches = batches_of(digits, 25).epoch(torch.arange(50)[None])
    take_steps(model, optimizer_of(model, config), "cross_entropy", batches, precision="bf16")
    assert set(kinds) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_losses_of_bf16_logits_are_computed_in_float32(name):
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 10).bfloat16(), torch.randint(10, (64,))
    with steps.autocast("cpu", "bf16"):
        losses = steps.make_loss(name)(logits, labels)
    assert losses.dtype == torch.float32
    exact = steps.make_loss(name)(logits.double(), labels)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-6)


def test_epochs_draw_differently_and_repeatably():
    draws = []
    for seed, epoch in [(0, 1), (0, 2), (1, 1), (0, 1)]:
        steps.seed_epoch(seed, epoch)
        draws.append(torch.randperm(100).tolist())
    assert draws[0] == draws[3]
    assert draws[0] != draws[1]
    assert draws[0] != draws[2]


def test_generators_are_restored():
    steps.seed_epoch(0, 1)
    torch.rand(5)
    cpu = torch.device("cpu")
    states = steps.get_generators(cpu)
    expected = torch.rand(5)
    steps.set_generators(states, cpu)
    assert torch.equal(torch.rand(5), expected)


LAST_BATCHES = {
    "digits, the last of one": (41, 8, "batch_size=9 or train_size=40 works"),
    "batch size one": (40, 1, "batch_size=2 works"),
}


@pytest.mark.parametrize(("size", "batch_size", "remedy"), LAST_BATCHES.values(), ids=LAST_BATCHES)
def test_a_last_batch_of_one_is_refused_with_batchnorm(size, batch_size, remedy):
    dataset = load_dataset("digits", train_size=size)
    model = build_model(Config(), dataset.image_shape, 10)
    with pytest.raises(InputError) as refused:
        steps.check_last_batch(model, dataset, batch_size)
    assert str(refused.value).endswith(remedy)
    assert f"batch_size={batch_size} leaves a batch of one" in str(refused.value)


def test_the_proposed_sizes_train():
    dataset = load_dataset("digits", train_size=41)
    model = build_model(Config(), dataset.image_shape, 10)
    steps.check_last_batch(model, dataset, 9)
    steps.check_last_batch(model, load_dataset("digits", train_size=40), 8)


def test_a_last_batch_of_one_is_allowed_without_batchnorm():
    dataset = load_dataset("digits", train_size=41)
    model = build_model(Config(batch_norm=False), dataset.image_shape, 10)
    steps.check_last_batch(model, dataset, 8)


# The last maps of a ResNet are an eighth of the image, those before VGG's last pool a sixteenth:
# BatchNorm trains on one image as soon as a map has several pixels.
CONVOLUTIONAL = {
    "resnet18 with maps of one pixel": (Config(model="resnet18"), 8, False),
    "resnet18 with maps of four": (Config(model="resnet18"), 16, True),
    "resnet50 with maps of one pixel": (Config(model="resnet50"), 8, False),
    "vgg11 with maps of four": (Config(model="vgg11"), 32, True),
    "convnet, which has no BatchNorm": (Config(model="convnet"), 8, True),
    "vit, which has no BatchNorm": (Config(model="vit"), 8, True),
    "resmlp": (Config(model="resmlp"), 8, False),
}


@pytest.mark.parametrize(("config", "size", "trains"), CONVOLUTIONAL.values(), ids=CONVOLUTIONAL)
def test_a_last_batch_of_one_is_refused_where_maps_have_one_pixel(config, size, trains):
    dataset = load_dataset("synthetic", train_size=5, image_size=size)
    model = build_model(config, dataset.image_shape, 10)
    if trains:
        steps.check_last_batch(model, dataset, 4)
    else:
        with pytest.raises(InputError, match="batch_size=5 or train_size=4 works"):
            steps.check_last_batch(model, dataset, 4)


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="torch sees 0 CUDA devices"):
        steps.configure_torch(Config(device="cuda", threads=1))


@pytest.mark.parametrize("named", ["7", "GPU-gone"])
def test_visible_devices_that_are_not_there_are_no_fall_to_the_cpu(monkeypatch, named):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with pytest.raises(InputError, match=f"CUDA_VISIBLE_DEVICES={named} names no GPU that torch"):
        steps.configure_torch(Config(threads=1))
    assert steps.configure_torch(Config(device="cpu", threads=1)).type == "cpu"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert steps.configure_torch(Config(threads=1)).type == "cpu"


def test_cublas_is_told_to_be_deterministic_before_a_run_that_need_not_be(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    steps.configure_torch(Config(device="cpu", threads=1))
    allowed = (":4096:8", ":16:8")  # by torch.use_deterministic_algorithms
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") in allowed


@pytest.mark.parametrize(
    ("features", "slow"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_bf16_is_slow_where_the_processor_has_no_instructions_for_it(monkeypatch, features, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert steps.lacks_bfloat16(torch.device("cpu")) == slow
    assert not steps.lacks_bfloat16(torch.device("cuda"))
