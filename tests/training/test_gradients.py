"""Compiled gradients against autograd's, in float64, where both are the same but for rounding.

Every family's graph is run as it was traced, and some are compiled; runs of ``train.py --compile``
are compared with themselves bit for bit, and with plain ones to rounding.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowrank import load_run
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.data import load_dataset
from lowrank.models import build_model
from lowrank.training import gradients, steps
from lowrank.training.learner import Learner
from lowrank.training.replicas import Replicas
from tests.test_train import assert_same_record, spawn

FAMILIES = [
    {"model": "mlp", "depth": 2, "width": 12, "batch_norm": False, "activation": "leaky_relu"},
    {"model": "mlp", "depth": 2, "width": 12, "batch_norm": False, "weight_norm": True},
    {"model": "resmlp", "depth": 2, "width": 12},
    {"model": "convnet", "depth": 1, "width": 6, "loss": "mse"},
    {"model": "resnet18"},
    {"model": "vgg11"},
    {"model": "vit", "vit_depth": 1, "vit_heads": 2, "vit_width": 16, "vit_mlp_width": 24},
]
COMPILED = [FAMILIES[place] for place in (1, 3, 6)]


def batch(count, shape, replicas=None):
    torch.manual_seed(1)
    size = (count,) if replicas is None else (replicas, count)
    return torch.randn(*size, *shape, dtype=torch.float64), torch.randint(10, size)


def built(config, shape, seed=0):
    steps.seed_epoch(seed, 0)
    return build_model(config, shape, 10).double()


def assert_same_step(first, second, config, images, labels):
    """Asserts that two gradients of equal models agree, in place, statistics included.

    Fused optimisers go through weights and gradients in the order of memory: strides are equal too.
    """
    plain = gradients.by_autograd(first, steps.make_loss(config.loss))
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    compiled = gradients.compiled(second, steps.make_loss(config.loss), images, labels)
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # compiling is not training
    smaller = images[..., 1:, :, :, :], labels[..., 1:]
    for _ in range(2):
        for given in ((images, labels), smaller):
            plain(*given)
            compiled(*given)
            for name, own in second.named_parameters():
                assert own.grad.stride() == own.stride(), name
            pairs = zip(first.named_parameters(), second.parameters(), strict=True)
            largest = max(float(own.grad.abs().max()) for own in second.parameters())
            for (name, expected), found in pairs:
                difference = float((found.grad - expected.grad).abs().max())
                assert difference < 1e-10 * largest, name
    for name, tensor in first.state_dict().items():
        assert torch.allclose(second.state_dict()[name].double(), tensor.double(), rtol=1e-12), name


@pytest.mark.slow
def test_compiled_gradients_of_an_mlp_with_batchnorm_are_autograds():
    config = Config(depth=2, width=12)
    model = built(config, (1, 4, 4))
    assert_same_step(model, copy.deepcopy(model), config, *batch(9, (1, 4, 4)))


@pytest.mark.parametrize("fields", FAMILIES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_the_graph_of_every_family_gives_autograds_gradients(fields, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # minutes for all of them
    config = Config(**fields)
    model = built(config, (3, 32, 32))
    assert_same_step(model, copy.deepcopy(model), config, *batch(3, (3, 32, 32)))


@pytest.mark.slow
@pytest.mark.parametrize("fields", COMPILED, ids=lambda fields: fields["model"])
def test_compiled_gradients_are_autograds(fields):
    config = Config(**fields)
    model = built(config, (3, 32, 32))
    assert_same_step(model, copy.deepcopy(model), config, *batch(4, (3, 32, 32)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"model": "convnet", "depth": 1, "width": 6}, {"model": "resnet18"}]
)
def test_compiled_gradients_of_images_with_channels_last_are_autograds(fields):
    config = Config(**fields)
    model = built(config, (3, 32, 32))
    images, labels = batch(4, (3, 32, 32))
    images = images.contiguous(memory_format=torch.channels_last)
    assert_same_step(model, copy.deepcopy(model), config, images, labels)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"depth": 2, "width": 12}, {"model": "convnet", "depth": 1}])
def test_compiled_gradients_of_replicas_are_autograds(fields):
    config = Config(**{"width": 6, **fields})
    stacks = [Replicas([built(config, (3, 32, 32), seed) for seed in range(3)]) for _ in range(2)]
    assert_same_step(*stacks, config, *batch(5, (3, 32, 32), replicas=3))


@pytest.mark.slow
def test_a_compiled_run_repeats_and_resumes_bit_for_bit_and_learns_as_a_plain_one(tmp_path):
    sizes = ["--train_size=333", "--batch_size=32", "--width=20", "--depth=2"]  # last batch: 13
    for flags in (
        ["--run_id=whole", "--epochs=3", "--compile"],
        ["--run_id=parts", "--epochs=1", "--compile"],
        ["--run_id=parts", "--epochs=3", "--compile"],
        ["--run_id=plain", "--epochs=3"],
    ):
        process = spawn(tmp_path, *sizes, "--tracking=disabled", *flags)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert ("compiled in " in output) == ("--compile" in flags)
    runs = tmp_path / "runs"
    assert_same_record(runs / "whole", runs / "parts")
    compiled, plain = (load_run(runs / name) for name in ("whole", "plain"))
    for name in ("train_loss", "test_loss"):
        assert compiled.metrics[name] == pytest.approx(plain.metrics[name], rel=1e-3)


@pytest.mark.slow
def test_dropout_in_a_compiled_step_is_drawn_from_torchs_generator():
    config = parse(["--model=vit", "--dropout=0.5", "--vit_depth=1", "--vit_width=16"])
    model = built(config, (3, 32, 32))
    images, labels = batch(4, (3, 32, 32))
    compiled = gradients.compiled(model, steps.make_loss(config.loss), images, labels)

    def drawn(seed):
        torch.manual_seed(seed)
        compiled(images, labels)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_without_a_compiler_the_error_says_what_works(monkeypatch):
    from torch._inductor import exc

    def fail(*_):
        raise RuntimeError("backend='inductor' raised") from exc.InvalidCxxCompiler()

    monkeypatch.setattr(gradients, "_compile", fail)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    images, labels = batch(2, (1, 2, 2))
    with pytest.raises(
        InputError, match=r"compile=True is not possible here \(.*\); compile=False"
    ):
        gradients.compiled(model, steps.make_loss("cross_entropy"), images, labels)


def test_a_learner_compiles_for_the_shape_of_its_batches(monkeypatch):
    seen = []
    monkeypatch.setattr(gradients, "compiled", lambda *given, **_: seen.append(given[2].shape))
    digits = load_dataset("digits", train_size=20)
    for size, replicas, expected in ((16, 1, (16,)), (64, 1, (20,)), (8, 2, (2, 8))):
        config = Config(depth=1, width=5, batch_size=size)
        networks = [build_model(config, digits.image_shape, 10) for _ in range(replicas)]
        model = networks[0] if replicas == 1 else Replicas(networks)
        Learner(config, digits, model, range(replicas)).compile()
        assert seen[-1] == (*expected, 1, 8, 8)
