"""A thousand long runs: the report's size and memory are bounded, its time is printed.

Run with ``pytest -m slow -s tests/views/report/test_scale.py``; needs about 6 GB of disk
for a minute.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.views.report.records import copy, write

ROOT = Path(__file__).resolve().parents[3]
RUNS, EPOCHS, WIDTH = 1000, 500, 64
PROGRAM = """
import resource, sys, time
from benchmarks.resident import resident
start = time.monotonic()
from lowrank.cli import main
code = main(["report", sys.argv[1], "-o", sys.argv[2]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"{time.monotonic() - start:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of the processor")
print(f"{resident():.0f} MiB")
sys.exit(code)
"""


@pytest.mark.slow
def test_a_thousand_runs_fit_into_15_mb_and_2_gb(tmp_path):
    if shutil.disk_usage(tmp_path).free < 10e9:
        pytest.skip("needs 10 GB of free disk")
    decays = (0.0, 0.02)
    sources = [
        write(tmp_path / f"source{place}", sizes=(WIDTH,) * 16, epochs=EPOCHS, weight_decay=decay)
        for place, decay in enumerate(decays)
    ]
    try:
        for place in range(RUNS):
            copy(
                sources[place % 2],
                tmp_path / "runs" / f"run{place:04}",
                weight_decay=decays[place % 2],
                lr=0.1 * 2 ** (place // 2 % 5),
                batch_size=4 * 2 ** (place // 10 % 5),
                seed=place // 50,
            )
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "runs"), str(tmp_path / "report.html")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    assert "report of 1000 runs (20 with spectra)" in result.stdout
    assert (tmp_path / "report.html").stat().st_size < 15e6
    peak = float(result.stdout.split()[-2])
    assert peak < 2048
