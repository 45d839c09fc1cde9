"""Formulas of the optimisers against torch's own, in float64, for one network and for members."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowrank.config import Config
from lowrank.config import optimizers as config_optimizers
from lowrank.training.formulas import FORMULAS
from lowrank.training.optimizer import Optimizer

CASES = {
    "sgd": ({"optimizer": "sgd"}, torch.optim.SGD),
    "momentum": ({"optimizer": "sgd", "momentum": 0.9}, torch.optim.SGD),
    "adam": ({"optimizer": "adam"}, torch.optim.Adam),
    "adamw": ({"optimizer": "adamw"}, torch.optim.AdamW),
}
OWN = ({"lr": 0.1, "weight_decay": 0.02}, {"lr": 0.03, "weight_decay": 0.0})
SHAPES = ((4, 3), (4,), (2, 3, 2, 2))


def test_the_configurations_table_names_those_that_have_a_formula():
    assert set(FORMULAS) == set(config_optimizers.FORMULAS)


def parameters(leading=()):
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(*leading, *shape, dtype=torch.float64)) for shape in SHAPES]


def torchs(kind, fields, own, weights):
    settings = {k: v for k, v in fields.items() if k != "optimizer"} | own
    return kind(weights, foreach=False, **settings)


def gradients_of(step, weights):
    torch.manual_seed(100 + step)
    return [torch.randn_like(weight) for weight in weights]


@pytest.mark.parametrize(("fields", "kind"), CASES.values(), ids=CASES)
def test_members_step_as_torch_steps_each_with_its_own_numbers(fields, kind):
    stacked = parameters((2,))
    configs = [Config(**fields, **own) for own in OWN]
    optimizer = Optimizer(configs, stacked, fused=False)
    alone = [[nn.Parameter(w[m].detach().clone()) for w in stacked] for m in range(2)]
    theirs = [torchs(kind, fields, own, of) for own, of in zip(OWN, alone, strict=True)]
    for step in range(7):
        if step == 3:
            optimizer.set_rates([0.02, 0.05])
            for other, rate in zip(theirs, (0.02, 0.05), strict=True):
                other.param_groups[0]["lr"] = rate
        for weight, gradient in zip(stacked, gradients_of(step, stacked), strict=True):
            weight.grad = gradient
        optimizer.step()
        for member, other in enumerate(theirs):
            for weight, own in zip(stacked, alone[member], strict=True):
                own.grad = weight.grad[member].clone()
            other.step()
            for weight, own in zip(stacked, alone[member], strict=True):
                torch.testing.assert_close(weight[member], own, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("fields", "kind"), CASES.values(), ids=CASES)
def test_the_state_is_torchs_and_goes_on_in_torch(fields, kind, fused):
    weights = parameters()
    optimizer = Optimizer([Config(**fields, **OWN[0])], weights, fused=fused)
    for step in range(3):
        for weight, gradient in zip(weights, gradients_of(step, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict(0))
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    other = torchs(kind, fields, OWN[0], copies)
    other.load_state_dict({**other.state_dict(), "state": saved["state"]})
    again = [nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = Optimizer([Config(**fields, **OWN[0])], again, fused=fused)
    resumed.load_state_dict(0, saved)
    for of in (weights, copies, again):
        for weight, gradient in zip(of, gradients_of(9, weights), strict=True):
            weight.grad = gradient.clone()
    for each in (optimizer, other, resumed):
        each.step()
    for weight, other, same in zip(weights, copies, again, strict=True):
        torch.testing.assert_close(other, weight, rtol=1e-12, atol=1e-14)
        assert torch.equal(same, weight)
