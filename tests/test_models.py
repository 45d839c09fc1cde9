"""Networks against the parameter counts of the paper and torchvision's own blocks."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from lowrank.config import Config
from lowrank.matrices import weight_matrices
from lowrank.models import FAMILIES, build_model

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 32, 32), "cifar": (3, 32, 32), "stl10": (3, 96, 96)}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_model_of_the_configuration_has_a_family():
    assert list(FAMILIES) == list(get_args(Config.model_fields["model"].annotation))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_forward_and_backward_reach_every_parameter(name, shape):
    model = build_model(Config(model=name), shape, 7)
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("batch_norm", [True, False], ids=["batch_norm", "plain"])
def test_mlp_has_the_parameters_of_its_definition(batch_norm):
    config = Config(depth=10, width=100, batch_norm=batch_norm)
    model = build_model(config, (3, 32, 32), 10)
    hidden = (3072 * 100 + 100) + 9 * (100 * 100 + 100)
    assert parameters(model) == hidden + (100 * 10 + 10) + batch_norm * 10 * 2 * 100


def test_mean_full_rank_of_the_wide_mlp_is_the_papers():
    # MLP-5-5000 on CIFAR-10, on the meta device because it has 116 million parameters.
    with torch.device("meta"):
        model = build_model(Config(depth=5, width=5000), (3, 32, 32), 10)
    shapes = [layer.weight.shape for layer in model if isinstance(layer, nn.Linear)]
    assert sum(min(shape) for shape in shapes[:-1]) / 5 == pytest.approx(4614.4)


def test_resnet18_has_the_papers_parameters_and_matrices():
    model = build_model(Config(model="resnet18"), (3, 32, 32), 10)
    matrices = weight_matrices(model)
    counted = [matrix for matrix in matrices if matrix.counted]
    assert parameters(model) == 11_173_962
    assert (len(matrices), len(counted)) == (21, 17)
    mean = sum(min(matrix.shape) for matrix in counted) / len(counted)
    assert mean == pytest.approx(227.47, abs=0.005)


def test_resnet18_differs_from_torchvisions_in_the_stem_and_classifier_only():
    ours = build_model(Config(model="resnet18"), (3, 32, 32), 1000).state_dict()
    theirs = resnet18().state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].shape != theirs[name].shape] == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


def test_resnet18_keeps_the_resolution_in_the_stem():
    model = build_model(Config(model="resnet18"), (3, 32, 32), 10)
    seen = []
    model.layer1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model(torch.randn(2, 3, 32, 32))
    assert seen == [(2, 64, 32, 32)]


def test_weights_are_drawn_as_pytorch_draws_them():
    # PyTorch's default for a convolution is uniform within 1/sqrt(fan_in); torchvision's is normal.
    torch.manual_seed(0)
    model = build_model(Config(model="resnet18"), (3, 32, 32), 10)
    weight = model.layer4[1].conv2.weight.detach()
    limit = (512 * 9) ** -0.5
    assert 0.99 * limit < weight.abs().max() <= limit
    assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_leaky_relu_replaces_every_relu(name):
    model = build_model(Config(model=name, activation="leaky_relu"), (3, 32, 32), 10)
    kinds = {type(module) for module in model.modules()}
    assert nn.LeakyReLU in kinds
    assert nn.ReLU not in kinds


def test_a_seed_decides_the_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model(Config(), (1, 8, 8), 10).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
