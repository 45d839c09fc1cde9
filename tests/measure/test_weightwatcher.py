"""Singular values, norms, stable ranks and power laws against WeightWatcher's, where comparable.

WeightWatcher's ``norm`` and ``spectral_norm`` are squares of ours. For Linear layers and 1 × 1
convolutions all agree. Of a larger kernel WeightWatcher takes one (out, in) matrix per position and
pools their singular values: other numbers than those of our (out, in·k·k) matrix, with the same
Frobenius norm. There the singular values of the same (out, in) matrices are compared.
`make test-slow` installs it. Run with ``pytest -m slow tests/measure/test_weightwatcher.py``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.measure.spectra import singular_values
from lowrank.measure.tails import power_law

pytestmark = pytest.mark.slow
RTOL = 1e-5  # WeightWatcher decomposes in the weights' own float32


def small():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(432, 40), nn.Linear(40, 12)
    )


def resnet18():
    import torchvision

    return torchvision.models.resnet18(weights=None)


@pytest.fixture(scope="module", params=[small, resnet18], ids=lambda make: make.__name__)
def measured(request):
    """A model, our row and spectra, WeightWatcher's table by module and its spectra."""
    weightwatcher = pytest.importorskip(
        "weightwatcher", reason="weightwatcher is not installed; `make test-slow` installs it"
    )
    torch.manual_seed(0)
    model = request.param()
    watcher = lowrank.watch(model)
    measurement = watcher.measure(0)
    theirs = weightwatcher.WeightWatcher(model=model)
    # Its scaling of kernels has no counterpart here.
    table = theirs.analyze(min_evals=1, conv2d_norm=False).set_index("longname")
    spectra = {
        name: np.sqrt(theirs.get_ESD(layer=int(row["layer_id"]))) for name, row in table.iterrows()
    }
    return model, measurement, table, spectra


def names(model, kind):
    matrices = lowrank.weight_matrices(model)
    found = [m for m in matrices if kind == "all" or model.get_parameter(m.path)[0, 0].numel() == 1]
    assert found
    return [(m.name, m.module) for m in found]


def test_both_measure_the_same_layers(measured):
    model, _, table, _ = measured
    assert set(table.index) == {module for _, module in names(model, "all")}


@pytest.mark.parametrize(
    ("quantity", "column", "kind"),
    [
        ("frobenius_norm", "norm", "all"),
        ("spectral_norm", "spectral_norm", "1x1"),
        ("stable_rank", "stable_rank", "1x1"),
    ],
    ids=["frobenius_norm", "spectral_norm", "stable_rank"],
)
def test_quantities_agree(measured, quantity, column, kind):
    model, measurement, table, _ = measured
    power = 1 if quantity == "stable_rank" else 2
    for name, module in names(model, kind):
        ours = measurement.metrics[f"{quantity}/{name}"] ** power
        assert ours == pytest.approx(table[column][module], rel=RTOL), module


def test_singular_values_agree(measured):
    model, measurement, _, spectra = measured
    for name, module in names(model, "1x1"):
        ours = measurement.spectra[name]
        np.testing.assert_allclose(
            ours[::-1], np.sort(spectra[module]), rtol=RTOL, atol=RTOL * ours[0], err_msg=module
        )


def test_singular_values_of_kernels_agree_position_by_position(measured):
    model, _, _, spectra = measured
    for _, module in names(model, "all"):
        weight = model.get_submodule(module).weight.detach()
        slices = weight.flatten(2).unbind(2) if weight.ndim == 4 else [weight]
        ours = np.sort(np.concatenate(singular_values(slices)))
        np.testing.assert_allclose(
            ours, np.sort(spectra[module]), rtol=RTOL, atol=RTOL * ours[-1], err_msg=module
        )


def test_power_laws_agree(measured):
    model, measurement, table, _ = measured
    compared = 0
    for name, module in names(model, "1x1"):
        spectrum = measurement.spectra[name]
        if len(spectrum) < 20 or spectrum[-1] ** 2 < 1e-5:  # it fits, or drops, other eigenvalues
            continue
        alpha, start = power_law(spectrum)
        assert alpha == pytest.approx(table["alpha"][module], rel=1e-3), module
        assert start == pytest.approx(table["xmin"][module], rel=1e-3), module
        compared += 1
    assert compared
