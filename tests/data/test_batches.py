"""Batches and normalisation against float64 NumPy and a plain loop over images.

Run: python -m pytest tests/data/test_batches.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.data import Batches, Split, normalise
from lowrank.data.batches import crop_and_flip

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(256, (37, 3, 12, 10), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(37))


def make(split: Split, batch_size: int = 8, augment: bool = False) -> Batches:
    return Batches(split, mean=MEAN, std=STD, batch_size=batch_size, augment=augment)


@given(
    mean=st.integers(0, 1000).map(lambda n: n / 1000),
    std=st.floats(0.01, 1),
    pixels=st.lists(st.integers(0, 255), min_size=1, max_size=20),
)
def test_normalise_is_float64_within_float32_rounding(mean, std, pixels):
    exact = (np.array(pixels, dtype=np.float64) / 255 - mean) / std
    images = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1)
    ours = normalise(images, [mean], [std]).double().flatten().numpy()
    # Four roundings of half a unit: both constants, the product and the sum.
    largest = (np.array(pixels) / 255 + mean) / std
    assert np.all(np.abs(ours - exact) <= 4 * 2.0**-24 * largest)


def test_channels_have_their_own_constants(split):
    exact = (split.images.double().numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        STD, (3, 1, 1)
    )
    ours = normalise(split.images, MEAN, STD)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch_size", [1, 8, 36, 37, 100])
def test_an_epoch_holds_every_example_once_and_keeps_the_last_short_batch(split, batch_size):
    batches = make(split, batch_size)
    drawn = list(batches.epoch(batches.draw_order()))
    assert len(drawn) == len(batches) == int(np.ceil(37 / batch_size))
    assert [len(labels) for _, labels in drawn[:-1]] == [batch_size] * (len(drawn) - 1)
    labels = torch.cat([labels for _, labels in drawn])
    assert sorted(labels.tolist()) == list(range(37))
    images = torch.cat([images for images, _ in drawn])
    assert torch.equal(images, normalise(split.images[labels], MEAN, STD))


@pytest.mark.parametrize("augment", [False, True])
def test_the_global_generator_alone_decides(split, augment):
    def epoch(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        batches = make(split, augment=augment)
        return [part for batch in batches.epoch(batches.draw_order()) for part in batch]

    first, again, other = epoch(3), epoch(3), epoch(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_an_epoch_resumes_in_the_middle_without_touching_the_generator(split, augment, start):
    batches = make(split, augment=augment)
    order = batches.draw_order()
    state = torch.get_rng_state()
    whole = list(batches.epoch(order))
    rest = list(make(split, augment=augment).epoch(order.clone(), start=start))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(rest) == len(whole) - start
    for ours, theirs in zip(rest, whole[start:], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_batches_are_the_callers_to_change(split):
    before = split.images.clone(), split.labels.clone()
    batches = make(split, batch_size=37)
    for images, labels in batches.epoch(batches.draw_order()):
        images.zero_()
        labels.zero_()
    assert torch.equal(split.images, before[0])
    assert torch.equal(split.labels, before[1])


def test_crop_and_flip_equal_a_loop_over_images(split):
    rng = np.random.default_rng(0)
    top, left = rng.integers(0, 9, (2, 37))
    flip = rng.integers(0, 2, 37)
    padded = np.pad(split.images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    expected = []
    for k in range(37):
        crop = padded[k, :, top[k] : top[k] + 12, left[k] : left[k] + 10]
        expected.append(crop[:, :, ::-1] if flip[k] else crop)
    ours = crop_and_flip(split.images, *(torch.from_numpy(x) for x in (top, left, flip)))
    np.testing.assert_array_equal(ours, np.stack(expected))


def test_the_augmentation_in_an_epoch_is_the_one_drawn(split):
    batches = make(split, augment=True)
    order = batches.draw_order()
    index, top, left, flip = order
    moved = crop_and_flip(split.images[index], top, left, flip)
    images = torch.cat([images for images, _ in batches.epoch(order)])
    assert torch.equal(images, normalise(moved, MEAN, STD))


def test_shifts_and_flips_are_uniform():
    n = 20_000
    images = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    batches = make(Split(images, torch.zeros(n, dtype=torch.int64)), augment=True)
    torch.manual_seed(0)
    _, top, left, flip = batches.draw_order().numpy()
    joint = np.bincount(top * 9 + left, minlength=81)
    assert joint.shape == (81,)
    # Chi-square with 80 degrees of freedom lies below 145 but for 1 in 100,000 seeds.
    assert np.sum((joint - n / 81) ** 2 / (n / 81)) < 145
    assert abs(flip.mean() - 0.5) < 5 * 0.5 / n**0.5
    assert set(flip) == {0, 1}


def test_a_batch_size_below_one_is_refused(split):
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        make(split, batch_size=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augment", [False, True])
def test_on_cuda_batches_equal_those_on_the_cpu(split, augment):
    there = Split(split.images.cuda(), split.labels.cuda())
    ours = make(there, augment=augment)
    torch.manual_seed(5)
    order = ours.draw_order()
    assert order.is_cuda
    expected = make(split, augment=augment).epoch(order.cpu())
    for (images, labels), (images_cpu, labels_cpu) in zip(ours.epoch(order), expected, strict=True):
        assert torch.equal(images.cpu(), images_cpu)
        assert torch.equal(labels.cpu(), labels_cpu)
