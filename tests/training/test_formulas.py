"""Muon's formula against singular values in float64 numpy, and against torch's own two optimisers.

The other formulas are compared with torch's in test_optimizer.py.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lowrank.config import Config
from lowrank.training import formulas
from lowrank.training.formulas import orthogonalised
from lowrank.training.optimizer import Optimizer
from tests.training.test_learner import learner_of

RATES = ((0.02, 0.1), (0.05, 0.0))
OWN = {"optimizer": "muon", "lr": 0.02, "weight_decay": 0.1}
SHAPES = {"conv": (4, 3, 3, 3), "qkv": (12, 4), "tall": (7, 3), "bias": (4,), "head": (2, 4)}
ROWS = {"conv": (4,), "qkv": (4, 4, 4), "tall": (7,), "bias": (), "head": ()}


def iterated(matrix):
    """What five iterations make of the singular values, scaled to AdamW's root mean square."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return 0.2 * max(matrix.shape) ** 0.5 * (u * s) @ vt


def parameters(leading=(), dtype=torch.float64):
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*leading, *shape, dtype=dtype)) for shape in SHAPES.values()]


def slow_step(weight, gradient, average, rows, lr, decay):
    """Steps one member's matrix by numpy; returns its weights and the average of gradients."""
    average = 0.95 * average + 0.05 * gradient
    ahead = (0.05 * gradient + 0.95 * average).reshape(len(weight), -1)
    steps = [iterated(part) for part in np.split(ahead, np.cumsum(rows)[:-1])]
    moved = (1 - lr * decay) * weight - lr * np.concatenate(steps).reshape(weight.shape)
    return moved, average


def test_hidden_matrices_of_members_step_by_muon_and_the_rest_by_adamw():
    stacked = parameters((2,))
    configs = [Config(optimizer="muon", lr=lr, weight_decay=decay) for lr, decay in RATES]
    optimizer = Optimizer(configs, stacked, fused=True, rows=list(ROWS.values()))
    weights = [[w[m].detach().numpy().copy() for w in stacked] for m in range(2)]
    averages = [[np.zeros_like(w) for w in of] for of in weights]
    rest = [[nn.Parameter(stacked[p][m].detach().clone()) for p in (3, 4)] for m in range(2)]
    adamw = [
        torch.optim.AdamW(of, lr=lr, weight_decay=decay)
        for of, (lr, decay) in zip(rest, RATES, strict=True)
    ]
    rates = [lr for lr, _ in RATES]
    for step in range(4):
        if step == 2:
            rates = [0.005, 0.01]
            optimizer.set_rates(rates)
            for member, rate in enumerate(rates):
                adamw[member].param_groups[0]["lr"] = rate
        for weight in stacked:
            weight.grad = torch.randn_like(weight)
        for member, rate in enumerate(rates):
            for place, rows in enumerate(ROWS.values()):
                gradient = stacked[place].grad[member]
                if not rows:
                    rest[member][place - 3].grad = gradient.clone()
                    continue
                weights[member][place], averages[member][place] = slow_step(
                    weights[member][place],
                    gradient.numpy(),
                    averages[member][place],
                    rows,
                    rate,
                    RATES[member][1],
                )
            adamw[member].step()
        optimizer.step()
    for member in range(2):
        expected = [*weights[member][:3], *(p.detach().numpy() for p in rest[member])]
        for weight, values in zip(stacked, expected, strict=True):
            np.testing.assert_allclose(weight[member].detach(), values, rtol=1e-9, atol=1e-11)


def test_torchs_own_muon_steps_alike_but_for_its_bfloat16():
    ours, theirs = parameters(dtype=torch.float32)[2:3], parameters(dtype=torch.float32)[2:3]
    optimizer = Optimizer([Config(**OWN)], ours, fused=True, rows=[(7,)])
    muon = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = ours[0].detach().clone()
        ours[0].grad = torch.randn_like(ours[0])
        theirs[0].grad = ours[0].grad.clone()
        for each in (optimizer, muon):
            each.step()
        step = torch.linalg.norm(ours[0].detach() - before)
        assert torch.linalg.norm(ours[0].detach() - theirs[0].detach()) < 0.05 * step
        theirs[0].data.copy_(ours[0].detach())


@pytest.mark.parametrize("iterate", [formulas._by_matrices, formulas._by_gram_matrices])
def test_both_ways_to_iterate_are_near_the_exact_one_in_float32(iterate):
    torch.manual_seed(0)
    for rows, columns in ((24, 24), (10, 300)):
        s = np.logspace(0, -6, rows)
        u, v = (
            np.linalg.qr(np.random.default_rng(0).normal(size=(n, rows)))[0]
            for n in (rows, columns)
        )
        matrix = (u * s / np.linalg.norm(s)) @ v.T
        found = iterate(torch.tensor(matrix, dtype=torch.float32)).numpy()
        exact = iterated(matrix) / (0.2 * columns**0.5)
        assert np.linalg.norm(found - exact, 2) < 2e-3, "torch's bfloat16: about 1e-2"


def test_matrices_of_one_shape_are_as_each_alone():
    torch.manual_seed(0)
    shapes = ((3, 5), (5, 3), (3, 5), (2, 2))
    matrices = [torch.randn(2, *shape, dtype=torch.float64) for shape in shapes]
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        for one, of in zip(matrix, found, strict=True):
            np.testing.assert_allclose(of, iterated(one.numpy()), rtol=1e-9, atol=1e-12)
    assert orthogonalised([]) == []
    assert not orthogonalised([torch.zeros(3, 2)])[0].any(), "no gradient is no step"


@pytest.mark.parametrize("fields", [{"compile": True}, {}])
def test_a_step_moves_a_matrix_by_equal_singular_values(monkeypatch, fields):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    learner = learner_of(
        width=24, depth=2, train_size=100, **(OWN | {"weight_decay": 0.0} | fields)
    )
    if fields:
        learner.compile()
    weight = learner.pack.networks[0].linear2.weight
    before = weight.detach().clone()
    learner.train_epoch(lambda: True)  # of one batch
    moved = torch.linalg.svdvals((weight - before).detach()) / (0.02 * 0.2 * 24**0.5)
    assert moved.min() > 0.6  # of Newton and Schulz's five steps
    assert moved.max() < 1.3


@pytest.mark.parametrize("members", [1, 2])
def test_it_goes_on_bit_for_bit_from_its_state(members):
    fields = {"width": 12, "depth": 2, "train_size": 200, "epochs": 4, "members": members, **OWN}
    one, other = learner_of(**fields), learner_of(**fields)
    one.train_epoch(lambda: True)
    for member in range(members):
        other.load_state_dict(member, copy.deepcopy(one.state_dict(member)))
    for learner in (one, other):
        learner.train_epoch(lambda: True)
    for name, tensor in one.pack.stack.state_dict().items():
        assert torch.equal(other.pack.stack.state_dict()[name], tensor)


def test_query_key_and_value_are_a_matrix_each_and_the_last_layer_is_none():
    fields = {"model": "vit", "vit_depth": 1, "vit_heads": 2, "vit_width": 8, "vit_mlp_width": 12}
    learner = learner_of(members=2, train_size=4, batch_size=4, **fields, **OWN)
    names = [name for name, _ in learner.pack.stack.named_parameters()]
    found = dict(zip(names, learner.optimizer.state, strict=True))
    stepped = {name for name, kept in found.items() if "momentum_buffer" in kept}
    expected = {n for n, p in learner.pack.stack.named_parameters() if p.ndim > 2} - {"head.weight"}
    assert stepped <= expected
    (fused,) = [name for name in stepped if name.endswith("in_proj_weight")]
    assert learner._hidden_rows()[names.index(fused)] == [8, 8, 8]


def test_what_it_cannot_step_is_said():
    with pytest.raises(ValueError, match="muon"):
        Config(optimizer="muon", weight_norm=True, batch_norm=False)
