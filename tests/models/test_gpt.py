"""The decoder against its formulas in float64 numpy, closed forms, and what causality demands.

python -m pytest tests/models/test_gpt.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lowrank.config import Config
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.positions import output_positions
from lowrank.models import build_model

DEPTH, HEADS, WIDTH, CONTEXT, CLASSES = 2, 3, 12, 7, 11
CONFIG = Config(
    model="gpt", dataset="text", gpt_depth=DEPTH, gpt_heads=HEADS, gpt_width=WIDTH, context=CONTEXT
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG, (CONTEXT,), CLASSES)


@pytest.fixture
def text():
    return torch.randint(CLASSES, (5, CONTEXT), generator=torch.Generator().manual_seed(1))


def by_hand(state, text):
    """Computes the logits of one text, position by position and head by head."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    x = state["embedding.weight"][text] + state["position.weight"][: len(text)]
    size = WIDTH // HEADS
    for block in (f"blocks.{k}" for k in range(DEPTH)):
        weights = np.split(state[f"{block}.attention.in_proj_weight"], 3)
        biases = np.split(state[f"{block}.attention.in_proj_bias"], 3)
        normed = norm(x, f"{block}.norm1")
        q, k, v = (normed @ w.T + b for w, b in zip(weights, biases, strict=True))
        seen = np.zeros_like(x)
        for place in range(len(text)):
            for head in range(HEADS):
                own = slice(head * size, (head + 1) * size)
                scores = [q[place, own] @ k[j, own] / math.sqrt(size) for j in range(place + 1)]
                shares = np.exp(scores) / np.exp(scores).sum()
                seen[place, own] = sum(p * v[j, own] for j, p in enumerate(shares))
        x = x + linear(seen, f"{block}.attention.out_proj")
        x = x + linear(
            gelu(linear(norm(x, f"{block}.norm2"), f"{block}.linear1")), f"{block}.linear2"
        )
    return linear(norm(x, "norm"), "head")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("length", [1, CONTEXT])
def test_logits_are_those_of_the_formulas(model, text, training, length):
    model = model.double().train(training)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # evaluated, attention takes a path of its own
        found = model(text[:, :length])
    for one, logits in zip(text[:, :length], found, strict=True):
        np.testing.assert_allclose(logits, by_hand(state, one.numpy()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_a_later_byte_changes_no_earlier_logits(model, text, training):
    model.train(training)
    with torch.no_grad():
        before = model(text)
        for place in range(CONTEXT):
            changed = text.clone()
            changed[:, place] = (changed[:, place] + 1) % CLASSES
            after = model(changed)
            assert torch.equal(after[:, :place], before[:, :place])
            assert (after[:, place:] != before[:, place:]).any(-1).all(), "all from there on see it"


def test_parameters_and_matrices_are_those_of_the_definition(model):
    attention = 4 * (WIDTH * WIDTH + WIDTH)
    feed_forward = 2 * 4 * WIDTH * WIDTH + 4 * WIDTH + WIDTH
    block = attention + feed_forward + 2 * 2 * WIDTH
    embeddings = CLASSES * WIDTH + CONTEXT * WIDTH
    head = WIDTH * CLASSES + CLASSES
    expected = embeddings + DEPTH * block + 2 * WIDTH + head
    assert sum(parameter.numel() for parameter in model.parameters()) == expected

    wide = 4 * WIDTH
    of_block = {
        **{f"attention_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "out_proj")},
        "linear1": (wide, WIDTH),
        "linear2": (WIDTH, wide),
    }
    matrices = weight_matrices(model)
    assert [(m.name, m.shape, m.counted) for m in matrices] == [
        *((f"blocks_{k}_{n}", s, True) for k in range(DEPTH) for n, s in of_block.items()),
        ("head", (CLASSES, WIDTH), False),
    ]
    applied = output_positions(model, matrices, torch.zeros(1, CONTEXT, dtype=torch.int64))
    assert {use.positions for use in applied.values()} == {CONTEXT}, "once for each byte"


def test_the_first_loss_is_that_of_drawing_any_byte():
    # Logits of a matrix uniform within 1/sqrt(w) on normed vectors, and of a bias, are of variance
    # (1 + 1/w)/3 about 0, so that the loss is about log 256 + 1/6.
    torch.manual_seed(0)
    model = build_model(Config(model="gpt", dataset="text"), (64,), 256)
    text, following = torch.randint(256, (2, 4, 64))
    with torch.no_grad():
        loss = functional.cross_entropy(model(text).flatten(0, 1), following.flatten())
    assert float(loss) == pytest.approx(math.log(256) + 1 / 6, abs=0.1)


def test_dropout_is_in_every_block_and_in_training_only(text):
    model = build_model(CONFIG.model_copy(update={"dropout": 0.3}), (CONTEXT,), CLASSES)
    places = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert places == (1 + DEPTH) * [0.3]
    assert not torch.equal(model(text), model(text))
    model.eval()
    assert torch.equal(model(text), model(text))
