"""Which matrix follows which, against modules whose forward pass says it."""

import torch
from torch import nn

from lowrank.measure.matrices import weight_matrices
from lowrank.measure.order import matrices_before


def before(model, example):
    return matrices_before(model, weight_matrices(model), example)


class Block(nn.Module):
    """A residual block between whose matrices and the last there is a sum."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 6)  # registered before those that come first
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x):
        y = x + self.second(torch.relu(self.first(x)))
        return self.last(y[:, :4])


def test_matrices_follow_as_the_pass_has_them_and_none_follows_a_sum():
    assert before(Block(), torch.zeros(2, 6)) == {"second": "first"}


def test_a_matrix_follows_through_whatever_has_no_weights():
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(3, 5, 1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(45, 2)]
    found = before(nn.Sequential(*layers), torch.zeros(1, 1, 8, 8))
    assert found == {"4": "0", "7": "4"}


def test_neither_groups_nor_parametrised_weights_nor_attention_are_followed():
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2))
    assert before(grouped, torch.zeros(1, 2, 3, 3)) == {}
    hidden = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    normalised = nn.Sequential(nn.Linear(3, 3), hidden, nn.Linear(3, 3), nn.Linear(3, 3))
    assert before(normalised, torch.zeros(1, 3)) == {"3": "2"}
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert before(layer, torch.zeros(1, 3, 8)) == {"linear2": "linear1"}


def test_a_matrix_used_after_two_others_follows_none():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.both = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.both(self.one(x)) + self.both(self.two(x))

    assert before(Shared(), torch.zeros(1, 2)) == {}
