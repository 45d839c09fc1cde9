"""The check of a GPU: its own logic, and each of its checks on the CPU, where all must pass."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu
from lowrank.measure import spectra


def fails():
    raise RuntimeError("no kernel image\nmore")


def test_a_failure_is_told_the_others_go_on_and_no_time_is_said(capsys):
    results = gpu.go_through({"one": fails, "two": lambda: "fine"}, 60)
    assert [(r.verdict, r.text) for r in results] == [
        ("FAILED", "RuntimeError: no kernel image"),
        ("ok", "fine"),
    ]
    (late,) = gpu.go_through({"three": fails}, 0)
    assert (late.verdict, late.text) == ("skipped", "no time is left")
    assert "FAILED  one: RuntimeError: no kernel image" in capsys.readouterr().out


@pytest.mark.slow
def test_every_check_passes_on_the_cpu(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    monkeypatch.setattr(gpu, "SHAPES", ((10, 30),))
    assert gpu.main(["--device=cpu", "--quick", f"--json={path}"]) == 0
    found = json.loads(path.read_text())
    assert {check["verdict"] for check in found["checks"]} == {"ok"}
    assert "bitwise equal" in found["checks"][0]["text"]


def test_wrong_spectra_are_found(monkeypatch):
    right = spectra.singular_values
    monkeypatch.setattr(
        spectra, "singular_values", lambda *a, **k: [1.01 * s for s in right(*a, **k)]
    )
    monkeypatch.setattr(gpu, "SHAPES", ((10, 30),))
    (result,) = gpu.go_through({"spectra": lambda: gpu.spectra_are_right("cpu")}, 60)
    assert (result.verdict, result.text[:14]) == ("FAILED", "AssertionError")
