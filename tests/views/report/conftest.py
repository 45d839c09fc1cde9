"""Records that several test files read: written once, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.views.report import browsing, records


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three weight decays × two batch sizes × two seeds, with one collapsed and one failed run."""
    root = tmp_path_factory.mktemp("sweep") / "runs"
    place = 0
    for decay in (0.0, 0.01, 0.02):
        for batch_size in (8, 16):
            for seed in (0, 1):
                special: dict[str, object] = {}
                if (decay, batch_size) == (0.02, 8):
                    special = {"collapse_at": 4, "state": "collapsed" if seed else "finished"}
                if (decay, batch_size, seed) == (0.01, 16, 1):
                    special = {"recorded": 6, "state": "failed"}
                records.write(
                    root / f"run{place:02}", epochs=10, weight_decay=decay, batch_size=batch_size,
                    seed=seed, decay=decay * 8 / batch_size * (10 + seed), **special,  # type: ignore[arg-type]
                )  # fmt: skip
                place += 1
    return root


@pytest.fixture(scope="module")  # while it is open, asyncio runs nothing else
def browser():
    if browsing.CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="install the extra 'slow'")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browsing.CHROMIUM, args=browsing.FLAGS)
        yield chromium
        chromium.close()
