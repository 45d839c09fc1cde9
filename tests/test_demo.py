"""What `make demo` says of its two runs, against their records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lowrank

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_weight_decay_lowers_the_rank_and_its_absence_does_not(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/demo.py"), str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    decay, none = sorted(
        lowrank.load_sweep(tmp_path / "runs"), key=lambda run: -run.config["weight_decay"]
    )
    full = sum(min(layer.shape) for layer in decay.layers if layer.counted) / 5
    assert full == 92.8
    assert decay.metrics["rank_mean"][-1] <= decay.metrics["rank_mean"][0] - full / 3
    assert decay.metrics["test_accuracy"][-1] > 0.9
    assert none.metrics["rank_mean"][-1] >= 0.98 * none.metrics["rank_mean"][0]
    assert none.metrics["test_accuracy"][-1] > 0.9
    for run in (decay, none):
        assert f"run directory    {run.path.parent}" in result.stdout
        assert f"-> {run.metrics['rank_mean'][-1]:.1f} of 92.8" in result.stdout
    (picture,) = (tmp_path / "runs").glob("demo-*.png")
    assert str(picture) in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    (report,) = (tmp_path / "runs").glob("demo-*.html")
    assert result.stdout.rstrip().splitlines()[-1].startswith(f"report           {report}")
    page = report.read_text(encoding="utf-8")
    assert all(run.id in page for run in (decay, none))
