"""Muon for hidden matrices and AdamW for the rest, against torch's two, each on its own copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowrank.config import Config
from lowrank.config.packs import unpackable
from lowrank.measure.matrices import weight_matrices
from lowrank.training.optimizer import Optimizer
from tests.training.test_learner import learner_of

OWN = {"optimizer": "muon", "lr": 0.02, "weight_decay": 0.1}


class Net(nn.Module):
    """A module of each kind whose weights are seen as matrices."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)


def test_hidden_matrices_step_by_muon_and_the_rest_by_adamw():
    torch.manual_seed(0)
    network = Net()
    counted = [m for m in weight_matrices(network) if m.counted]
    assert [m.name for m in counted] == [
        "conv", "attention_q", "attention_k", "attention_v", "attention_out_proj",
    ]  # fmt: skip
    parameters = dict(network.named_parameters())
    hidden = {m.path for m in counted}
    own = {m.name: nn.Parameter(m.view().clone()) for m in counted}
    rest = {n: nn.Parameter(p.detach().clone()) for n, p in parameters.items() if n not in hidden}
    muon = torch.optim.Muon(own.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest.values(), lr=0.02, weight_decay=0.1)
    views = [m.view() for m in counted]
    optimizer = Optimizer([Config(**OWN)], list(parameters.values()), fused=True, hidden=views)
    for step in range(4):
        if step == 2:
            optimizer.set_rates([0.005])
            for each in (muon, adamw):
                each.param_groups[0]["lr"] = 0.005
        for parameter in parameters.values():
            parameter.grad = torch.randn_like(parameter)
        rows = parameters["attention.in_proj_weight"].grad.chunk(3)
        gradients = {f"attention_{n}": part for n, part in zip("qkv", rows, strict=True)}
        gradients["conv"] = parameters["conv.weight"].grad.flatten(1)
        gradients["attention_out_proj"] = parameters["attention.out_proj.weight"].grad
        for name, parameter in own.items():
            parameter.grad = gradients[name].clone()
        for name, parameter in rest.items():
            parameter.grad = parameters[name].grad.clone()
        for each in (optimizer, muon, adamw):
            each.step()
    for matrix in counted:
        assert torch.equal(matrix.view(), own[matrix.name])
    for name, parameter in rest.items():
        torch.testing.assert_close(parameters[name], parameter)


def test_a_step_moves_a_matrix_by_equal_singular_values():
    learner = learner_of(width=24, depth=2, train_size=100, **(OWN | {"weight_decay": 0.0}))
    weight = learner.pack.networks[0].linear2.weight
    before = weight.detach().clone()
    learner.train_epoch(lambda: True)  # of one batch
    moved = torch.linalg.svdvals((weight - before).detach()) / (0.02 * 0.2 * 24**0.5)
    assert moved.min() > 0.6  # of Newton and Schulz's five steps
    assert moved.max() < 1.3


def test_it_goes_on_bit_for_bit_from_its_state():
    fields = {"width": 12, "depth": 2, "train_size": 200, "epochs": 4, **OWN}
    one, other = learner_of(**fields), learner_of(**fields)
    one.train_epoch(lambda: True)
    other.load_state_dict(0, copy.deepcopy(one.state_dict(0)))
    for learner in (one, other):
        learner.train_epoch(lambda: True)
    for name, tensor in one.pack.networks[0].state_dict().items():
        assert torch.equal(other.pack.networks[0].state_dict()[name], tensor)


def test_what_it_cannot_do_is_said():
    assert "optimizer=muon" in unpackable(Config(optimizer="muon"))
    for fields in ({"weight_norm": True, "batch_norm": False}, {"compile": True}):
        with pytest.raises(ValueError, match="muon"):
            Config(optimizer="muon", **fields)
