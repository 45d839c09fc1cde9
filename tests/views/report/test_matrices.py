"""Many runs' spectra and norm ratios in the page's tables: the closed forms of records.py.

Run with ``pytest tests/views/report/test_matrices.py``.
"""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import numpy as np

from lowrank import load_run
from lowrank.views.report import matrices as module
from lowrank.views.report.matrices import MATRIX_BYTES, matrices
from lowrank.views.table.rows import Definition, read_rows
from tests.views.report.records import layers_of, spectra_of, write

STEPS = 180  # an epoch of the 1,440 digits in batches of 8


def unpack(text):
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float)


def tables(paths, groups=None):
    runs = [load_run(path) for path in paths]
    rows, _ = read_rows(runs, Definition())
    return matrices(runs, rows, groups or range(len(runs)), Definition())


def test_spectra_are_of_the_last_epoch_and_ratios_of_the_norms(tmp_path):
    rate = {"lr_now": np.r_[np.full(7, 0.5), np.full(4, 0.05)]}
    path = write(tmp_path / "run", epochs=10, weight_decay=1e-3, decay=0.2, batch_size=8, more=rate)
    found, without = tables([path])
    assert without == {}
    layers = layers_of((16, 32, 32))
    spectra = spectra_of(layers, 10, 0.2)
    assert found["layers"] == ["linear1", "linear2", "linear3", "classifier"]
    assert found["layers"][found["usual"]] == "linear2"  # as `lowrank figures` takes it
    assert (found["epsilons"], found["norm"], found["every"]) == ([1e-3, 1e-2], "‖W‖_F", 2)
    (run,) = found["runs"].values()
    norms = {name: np.sqrt((s**2).sum(1)) for name, s in spectra.items()}
    for layer, (k, values) in zip(layers, run["spectra"], strict=True):
        assert unpack(found["indices"][str(k)]).tolist() == list(range(1, min(layer.shape) + 1))
        truth = spectra[layer.name][-1] / norms[layer.name][-1]
        np.testing.assert_allclose(unpack(values), truth, rtol=1e-6)
    assert unpack(found["axes"][run["axis"]]).tolist() == [2, 4, 6, 8, 10]
    ratios = np.array([norms[n.name][2::2] / norms[n.name][:-2:2] for n in layers])
    np.testing.assert_allclose(unpack(run["ratios"]).reshape(4, 5), ratios, rtol=1e-6)
    np.testing.assert_allclose(unpack(run["mean"]), ratios[:3].mean(0), rtol=1e-6)
    fast, slow = (1 - 0.5e-3) ** (2 * STEPS), (1 - 0.05e-3) ** (2 * STEPS)
    np.testing.assert_allclose(unpack(run["decay"]), [fast, fast, fast, slow, slow], rtol=1e-6)


def test_lost_runs_have_no_spectrum_and_other_networks_other_layers(tmp_path):
    paths = [
        write(tmp_path / "deep", sizes=(8, 8), epochs=1),
        write(tmp_path / "flat", sizes=(4,), epochs=1),
        write(tmp_path / "gone", sizes=(8, 8), epochs=4, collapse_at=2),
        write(tmp_path / "new", sizes=(8, 8), epochs=4, recorded=0, state="running"),
    ]
    found, _ = tables(paths)
    assert list(found["runs"]) == ["0", "1"]
    assert found["able"] == 2
    assert [None if s is None else s[0] for s in found["runs"]["1"]["spectra"]] == [4, None, 4]
    assert np.isnan(unpack(found["runs"]["1"]["ratios"])[1])


def test_of_many_runs_every_point_has_one_before_any_has_two(tmp_path, monkeypatch):
    ends = ["killed", "finished", "finished"] * 40
    rows = [SimpleNamespace(end=end) for end in ends]
    groups = [n // 3 for n in range(120)]  # 40 points of three seeds
    chosen = module._spread_over_points(range(120), rows, groups, 50)
    assert len(chosen) == len(set(chosen)) == 50
    assert {groups[n] for n in chosen} == set(range(40))
    assert {rows[n].end for n in chosen} == {"finished"}
    some = module._spread_over_points(range(120), rows, groups, 30)
    # No value of a setting is left out, as it would be by taking every fourth of a grid 10 x 4.
    assert {groups[n] % 4 for n in some} == {0, 1, 2, 3}
    path = write(tmp_path / "run", sizes=(256,) * 30, epochs=60)
    monkeypatch.setattr(module, "MATRIX_BYTES", 20_000)
    found, _ = tables([path] * 9)
    assert (len(found["runs"]), found["able"]) == (5, 9)
    assert len(json.dumps(found)) < 4 / 3 * 20_000 + 5_000
    assert MATRIX_BYTES < 1e6
