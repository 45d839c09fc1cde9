"""Two records compared, against a slow comparison of their numbers' bytes, one after the other.

Records are made of random numbers with NaNs, infinities and zeros of both signs among them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.measure.layers import Layer
from lowrank.runs.comparison import Difference, compare
from lowrank.runs.within import Within

LAYERS = (Layer("conv", "conv", (3, 27), 9, True), Layer("head", "head", (2, 3), None, False))
NUMBERS = st.one_of(
    st.floats(width=64), st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 5e-324])
)


@dataclass
class Made:
    """A run made of arrays."""

    epochs: np.ndarray
    metrics: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]
    layers: tuple[Layer, ...] = field(default=LAYERS)
    derived: tuple[Layer, ...] = ()
    within: Within = field(default_factory=lambda: looked_at())


def looked_at(value=1.0):
    return Within(np.array([0.5, 2.5]), np.array([1, 1]), {"a": np.array([np.nan, value])})


def made(epochs=4, seed=0):
    generator = np.random.default_rng(seed)
    return Made(
        np.arange(epochs),
        {name: generator.normal(size=epochs) for name in ("epoch", "rank_mean", "time/train")},
        {each.name: generator.normal(size=(epochs, min(each.shape))) for each in LAYERS},
    )


def copy(run):
    return Made(
        run.epochs.copy(),
        {name: values.copy() for name, values in run.metrics.items()},
        {name: values.copy() for name, values in run.spectra.items()},
        run.layers,
    )


def same_bytes(one, other):
    return struct.pack("<d", one) == struct.pack("<d", other) or (one != one and other != other)


def slowly(one, other):
    """Returns the first epoch at which each of two sets of arrays differs, number by number."""
    found = {}
    for name in one:
        for epoch in range(len(one[name])):
            pairs = zip(np.ravel(one[name][epoch]), np.ravel(other[name][epoch]), strict=True)
            if not all(same_bytes(a, b) for a, b in pairs):
                found[name] = epoch
                break
    return found


@given(st.data(), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_the_first_difference_of_everything_is_that_of_a_slow_comparison(data, epochs):
    one = made(epochs)
    other = copy(one)
    for run in (one, other):
        for values in (*run.metrics.values(), *run.spectra.values()):
            flat = values.reshape(-1)
            for place in data.draw(st.lists(st.integers(0, len(flat) - 1), max_size=2)):
                flat[place] = data.draw(NUMBERS)
    found = compare(one, other)
    del one.metrics["time/train"], other.metrics["time/train"]
    metrics, spectra = slowly(one.metrics, other.metrics), slowly(one.spectra, other.spectra)
    assert {name: each.epoch for name, each in found.of_metrics.items()} == metrics
    assert {name: each.epoch for name, each in found.of_spectra.items()} == spectra
    assert list(found.of_spectra) == [each.name for each in LAYERS if each.name in spectra]
    assert found.identical == (not metrics and not spectra)
    assert found.first_epoch == min([*metrics.values(), *spectra.values()], default=None)
    for name, each in found.of_metrics.items():
        assert same_bytes(each.before, one.metrics[name][each.epoch])
        assert same_bytes(each.now, other.metrics[name][each.epoch])
    assert found.lines()[0].startswith("bitwise identical" if found.identical else "differs from")


@given(st.integers(0, 63), st.integers(0, 3), st.sampled_from(LAYERS), st.data())
@settings(deadline=None)
def test_one_flipped_bit_of_a_spectrum_is_found(bit, epoch, layer, data):
    one = made()
    other = copy(one)
    values = other.spectra[layer.name]
    number = data.draw(st.integers(0, values.shape[-1] - 1))
    values.view(np.uint64)[epoch, number] ^= np.uint64(1 << bit)
    found = compare(one, other)
    assert not found.of_metrics
    assert list(found.of_spectra) == [layer.name]
    difference = found.of_spectra[layer.name]
    assert difference.epoch == epoch
    assert difference.what == (
        f"spectrum of {layer.name}, singular value {number + 1} of {values.shape[-1]}"
    )
    assert difference.before == one.spectra[layer.name][epoch, number]


def test_of_a_spectrum_the_value_that_differs_most_is_named():
    one = made()
    other = copy(one)
    other.spectra["conv"][2] += [1e-9, -0.5, 1e-3]
    other.spectra["conv"][3] += 7
    difference = compare(one, other).of_spectra["conv"]
    assert (difference.epoch, difference.what) == (2, "spectrum of conv, singular value 2 of 3")
    assert difference.absolute == pytest.approx(0.5)


def test_times_are_not_compared():
    one = made()
    other = copy(one)
    other.metrics["time/train"] += 1
    other.metrics["throughput/images_per_second"] = np.ones(4)
    found = compare(one, other)
    assert found.lines() == [
        "bitwise identical: 4 epochs, 2 metrics and the spectra of 2 layers"
    ]  # fmt: skip


def test_what_differs_within_epochs_is_said():
    one, other = made(), made()
    assert compare(one, other).identical
    other.within = looked_at(2.0)
    assert compare(one, other).missing == ("what was measured within epochs differs",)
    assert compare(one, other, last_epoch=2).identical


def test_the_lines_say_epoch_layer_and_by_how_much():
    one = made()
    one.metrics["rank_mean"][2] = 8.0
    one.spectra["head"][1] = [4.0, 1.0]
    other = copy(one)
    other.metrics["rank_mean"][2] = 10.0
    other.spectra["head"][1:] = [[5.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert compare(one, other).lines() == [
        "differs from epoch 1 on; 1 epoch before it is bitwise identical",
        "spectrum of head, singular value 1 of 2: 4.0 was recorded, now 5.0 "
        "(absolute 1, relative 0.2)",
        "in all 1 of 2 spectra and 1 of 2 metrics differ",
    ]


@pytest.mark.parametrize(
    ("before", "now", "absolute", "relative"),
    [
        (4.0, 5.0, 1.0, 0.2),
        (-1.0, 1.0, 2.0, 2.0),
        (0.0, -0.0, 0.0, 0.0),
        (0.0, 1e-300, 1e-300, 1.0),
        (-1.7e308, 1.7e308, math.inf, 2.0),
        (math.nan, 1.0, math.nan, math.nan),
        (math.inf, 1.0, math.inf, math.nan),
    ],
)
def test_by_how_much_values_differ(before, now, absolute, relative):
    difference = Difference(0, "x", before, now)
    assert difference.absolute == pytest.approx(absolute, nan_ok=True)
    assert difference.relative == pytest.approx(relative, nan_ok=True)


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (0.0, -0.0, "x: 0.0 was recorded, now -0.0 (only the sign of zero)"),
        (math.nan, 2.0, "x: nan was recorded, now 2.0"),
        (1.0, 1.0 + 2**-52, "x: 1.0 was recorded, now 1.0000000000000002 "
         "(absolute 2.22e-16, relative 2.22e-16)"),
    ],
)  # fmt: skip
def test_a_difference_as_text(before, now, text):
    assert str(Difference(0, "x", before, now)) == text


def test_epochs_that_the_rerun_lacks_are_named_and_further_ones_are_none_of_a_difference():
    short, long = made(4), made(4)
    short.epochs = short.epochs[:2]
    for values in (short.metrics, short.spectra):
        values.update({name: array[:2] for name, array in values.items()})
    assert compare(short, long).identical
    found = compare(long, short)
    assert not found.identical
    assert found.lines() == [
        "bitwise identical where both have values (2 epochs, 2 metrics and the spectra of 2 "
        "layers), but:",
        "the rerun has no epoch 2, 3",
    ]
    assert compare(long, short, last_epoch=1).identical


def test_a_metric_that_one_run_lacks_has_no_values_there():
    one, other = made(), made()
    one.metrics["distance/conv"] = np.array([math.nan, 0.5, 0.25, 0.125])
    other.metrics["rank_bound/conv"] = np.full(4, math.nan)
    found = compare(one, other)
    assert {name: each.epoch for name, each in found.of_metrics.items()} == {"distance/conv": 1}
    assert str(found.of_metrics["distance/conv"]) == "distance/conv: 0.5 was recorded, now nan"
    one.epochs, one.metrics = one.epochs[:1], {n: v[:1] for n, v in one.metrics.items()}
    one.spectra = {name: values[:1] for name, values in one.spectra.items()}
    assert compare(one, other).identical


def test_other_networks_are_told_apart():
    one, other = made(), made()
    other.spectra["head"] = other.spectra["head"][:, :-1]
    other.layers = (Layer("conv\n", "conv", (3, 27), 9, True), LAYERS[1])
    other.spectra["conv\n"] = other.spectra.pop("conv")
    assert compare(one, other).missing == (
        "only the original has layer conv",
        "only the rerun has layer conv\\n",
        "layer head is another weight matrix in the rerun",
    )


def test_runs_without_epochs_have_nothing_in_common():
    assert compare(made(0), made(0)).epochs == ()
