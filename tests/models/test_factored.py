"""Factored networks against the same network with its matrices truncated by numpy's SVD."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lowrank.config import Config
from lowrank.measure.matrices import weight_matrices
from lowrank.models import build_model
from lowrank.models.factored import factor, factored_size, plain, unfactorable

SMALL = {
    "mlp": {"width": 12, "depth": 2},
    "weight-normalised": {"width": 12, "depth": 2, "weight_norm": True, "batch_norm": False},
    "resmlp": {"model": "resmlp", "width": 12, "depth": 1},
    "convnet": {"model": "convnet", "width": 6, "depth": 2},
    "resnet18": {"model": "resnet18", "dataset": "cifar10"},
    "vit": {"model": "vit", "vit_depth": 1, "vit_width": 16, "vit_mlp_width": 24, "vit_heads": 2},
}


def network_of(name):
    torch.manual_seed(0)
    return build_model(Config(**SMALL[name]), (3, 32, 32), 10).double().eval()


def factorable(network):
    counted = [m for m in weight_matrices(network) if m.counted and m.view().numel() < 40_000]
    return [m for m in counted if not unfactorable(network, m.module)]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("share", [1, 0.5])
def test_factors_compute_what_truncated_matrices_do(name, share):
    network = network_of(name)
    images = torch.randn(1, 3, 32, 32).double()
    with torch.no_grad():
        before = network(images)
        whole = plain(copy.deepcopy(network))
        torch.testing.assert_close(network(images), before)  # a copy has changed, and no more
        network = whole
        torch.testing.assert_close(network(images), before)
        matrices = factorable(network)
        assert matrices
        ranks = {m.module: max(1, int(share * min(m.shape))) for m in matrices}
        factored = factor(copy.deepcopy(network), ranks)
        for matrix in matrices:
            u, s, vh = np.linalg.svd(matrix.view().numpy(), full_matrices=False)
            rank = ranks[matrix.module]
            matrix.view().copy_(torch.from_numpy((u * s)[:, :rank] @ vh[:rank]))
        expected = network(images)
        torch.testing.assert_close(factored(images), expected, rtol=1e-6, atol=1e-8)
        assert torch.allclose(expected, before, rtol=1e-6, atol=1e-8) == (share == 1)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(5, 7, bias=False),
        nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=1, dilation=2, padding_mode="circular"),
        nn.Conv2d(3, 6, 3, padding="same").double(),
    ],
    ids=str,
)
def test_a_layer_keeps_its_form(module):
    network = factor(nn.Sequential(copy.deepcopy(module)), {"0": 2})
    matrix = module.weight.detach().flatten(1)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    with torch.no_grad():
        module.weight.copy_(((u * s)[:, :2] @ vh[:2]).view_as(module.weight))
    given = torch.randn(2, 5) if isinstance(module, nn.Linear) else torch.randn(2, 3, 9, 9)
    given = given.to(module.weight)
    torch.testing.assert_close(network(given), module(given))
    size = sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
    assert size == factored_size(tuple(matrix.shape), 2)


def test_what_cannot_be_two_layers_is_said():
    network = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "groups": nn.Conv2d(4, 4, 3, groups=2),
            "other": nn.Conv1d(4, 4, 3),
        }
    )
    assert "attention" in unfactorable(network, "attention")
    assert "attention" in unfactorable(network, "attention.out_proj")
    assert "groups" in unfactorable(network, "groups")
    assert "Conv1d" in unfactorable(network, "other")
