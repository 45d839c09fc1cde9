"""The accuracy of truncated networks against networks that numpy's SVD truncated, one by one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrize import is_parametrized

from lowrank.data.batches import normalise
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.truncation import LADDER, Kept
from lowrank.training.compression import compress, flops
from lowrank.training.truncation import truncation_metrics
from tests.training.test_learner import learner_of

GPT = {"model": "gpt", "gpt_depth": 1, "gpt_heads": 2, "gpt_width": 16}
NETWORKS = [
    {"width": 20, "depth": 2},
    {"width": 20, "depth": 2, "weight_norm": True, "batch_norm": False},
    {"model": "convnet", "depth": 1, "width": 6, "image_size": 16},
    {"model": "vit", "vit_depth": 1, "vit_width": 16, "vit_mlp_width": 24, "vit_heads": 2},
    {**GPT, "dataset": "pydoc", "context": 32},
]  # fmt: skip


def trained(members=1, **fields):
    fields = {"dataset": "digits", "train_size": 200, "lr": 0.05, "epochs": 2, **fields}
    learner = learner_of(members, **fields)
    for _ in range(2):
        learner.train_epoch(lambda: True)
    return learner


def accuracy_at(learner, network, kept):
    """Truncates by numpy and evaluates all test images at once, in float64."""
    network = copy.deepcopy(network).double().eval()
    test, ranks = learner.dataset.test, []
    with torch.no_grad():
        for matrix in weight_matrices(network):
            if matrix.counted:
                u, s, vh = np.linalg.svd(matrix.view().numpy(), full_matrices=False)
                ranks.append(kept.rank(s))
                truncated = torch.from_numpy((u * s)[:, : ranks[-1]] @ vh[: ranks[-1]])
                owner = network.get_submodule(matrix.module)
                if is_parametrized(owner):
                    owner.weight = truncated
                else:
                    matrix.view().copy_(truncated)
        given = test.images.long()
        if learner.dataset.mean:
            given = normalise(test.images, learner.dataset.mean, learner.dataset.std).double()
        return (network(given).argmax(-1) == test.labels).double().mean().item(), np.mean(ranks)


@pytest.mark.parametrize("fields", NETWORKS, ids=lambda fields: str(fields.get("model", "mlp")))
def test_truncated_networks_have_the_accuracy_that_numpy_gives_them(fields):
    learner = trained(**fields)
    (network,) = learner.pack.networks
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (row,) = truncation_metrics(learner)
    assert len(row) == 2 * len(LADDER)
    for kept in LADDER[1::3]:
        accuracy, rank = accuracy_at(learner, network, kept)
        assert row[kept.accuracy] == pytest.approx(accuracy, abs=3e-3)
        assert row[kept.mean_rank] == rank
    _, (whole,) = learner.evaluate(learner.dataset.test, lambda: True)
    assert row[Kept("share", 1.0).accuracy] == pytest.approx(whole, abs=3e-3)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_members_of_a_pack_have_the_curves_that_they_have_alone():
    pack = trained(2, width=20, depth=2)
    for network, of_pack in zip(pack.pack.networks, truncation_metrics(pack), strict=True):
        alone = trained(width=20, depth=2)
        alone.pack.networks[0].load_state_dict(network.state_dict())
        assert truncation_metrics(alone) == [pytest.approx(of_pack, abs=3e-3)]
    with torch.no_grad():
        pack.pack.networks[0].linear1.weight[0, 0] = torch.nan
    broken, whole = truncation_metrics(pack)
    assert np.isnan(list(broken.values())).all()
    assert whole == of_pack


@pytest.mark.parametrize("fields", NETWORKS, ids=lambda fields: str(fields.get("model", "mlp")))
def test_a_compressed_network_has_the_accuracy_of_the_truncated_one(fields):
    learner = trained(**fields)
    found = compress(learner, kept := Kept("share", 0.25))
    assert found.ranks
    (row,) = truncation_metrics(learner)
    if not any(layer.reason for layer in found.layers):  # what stays is not truncated
        assert found.after.accuracy == pytest.approx(row[kept.accuracy], abs=2e-3)
    for layer in found.layers:
        before, after = layer.sizes
        assert before == layer.shape[0] * layer.shape[1]
        assert after == (before if layer.reason else layer.rank * sum(layer.shape))
    saved = sum(before - after for before, after in (layer.sizes for layer in found.layers))
    weights = sum(p.numel() for p in learner.pack.networks[0].parameters())
    gains = len(found.layers) if fields.get("weight_norm") else 0  # that plain weights do without
    assert (found.before.parameters, found.after.parameters) == (
        weights - gains,
        weights - gains - saved,
    )
    assert found.after.flops < found.before.flops


def test_operations_are_two_for_each_entry_and_position():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1, stride=2), torch.nn.Flatten(), torch.nn.Linear(128, 5)
    )
    assert flops(network, (3, 8, 8)) == 2 * (8 * 27 * 16 + 128 * 5)


def test_products_of_queries_and_keys_are_operations_too():
    class Rows(torch.nn.MultiheadAttention):
        def forward(self, rows):
            return super().forward(rows, rows, rows, need_weights=False)[0]

    network = torch.nn.Sequential(torch.nn.Flatten(1, 2), Rows(8, 2, batch_first=True))
    tokens = 3 * 5
    projections, products = 4 * tokens * 8 * 8, 2 * tokens * tokens * 8
    assert flops(network, (3, 5, 8)) == 2 * (projections + products)
