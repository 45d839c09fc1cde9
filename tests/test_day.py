"""A sweep user's day as a script, with real programs, a W&B server on loopback and a browser.

A search grows and prunes while its report is followed in Chromium; one's own program with its own
quantity trains under an agent, and its records meet those of another machine in W&B; what is shown
is compared with the records. Then the commands of docs/reproduce.md, in small.
Run with ``pytest -m slow tests/test_day.py``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml

import lowrank
from lowrank import cli
from lowrank.views.published.figures import published
from tests.launch.sweeps.helpers import TINY, runs, start, write_sweep
from tests.launch.sweeps.helpers import sweep as sweep_to_its_end
from tests.running import wait_until
from tests.views.published.records import config_of, make
from tests.views.report.browsing import opened
from tests.views.report.conftest import browser  # noqa: F401  # a fixture
from tests.views.table.records import make_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
SEARCH = {
    "method": "random",
    "project": "lowrank",
    "metric": {"name": "train_loss", "goal": "minimize"},
    "early_terminate": {"type": "hyperband", "min_iter": 4, "eta": 2},
    "tiny": {**TINY, "width": 16, "depth": 2, "epochs": 150},
}


def lowrank_program(directory, *words):
    """Starts a command as a process of its own."""
    program = "import sys; from lowrank.cli import main; sys.exit(main())"
    with (directory / f"{words[0]}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words], cwd=directory, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def look(browser, page, tmp_path, told):  # noqa: F811
    """Looks at a page at two widths; keeps a picture of each."""
    for width in (800, 1400):
        with opened(browser, page, {"width": width, "height": 900}) as tab:
            for text in told:
                assert text in tab.locator("body").inner_text()
            inside = "[document.documentElement.scrollWidth, innerWidth]"
            wide, room = tab.evaluate(inside)
            assert wide <= room
            picture = tmp_path / f"{page.stem}-{width}.png"
            tab.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 20_000


def test_a_search_grows_and_prunes_while_its_page_is_followed(browser, tmp_path):  # noqa: F811
    one = tmp_path / "one"
    one.mkdir()
    file = str(write_sweep(one, {"lr": {"values": [0.1]}}, name="search", run_cap=1, **SEARCH))
    first = sweep_to_its_end(one, file, "--search_seed=1")
    assert first.returncode == 0, first.stdout + first.stderr
    (alone,) = runs(one).values()
    before = alone.metrics["train_loss"].copy()

    # It grows, and prunes what is worse, while the page is followed.
    write_sweep(one, {"lr": {"values": [0.1, 1e-7]}}, name="search", run_cap=4, **SEARCH)
    search = start(one, file)
    wait_until(lambda: len(runs(one)) > 1 or search.poll() is not None)
    follower = lowrank_program(one, "report", "runs", "--follow", "-o", "live.html")
    page = one / "live.html"
    try:
        wait_until(page.exists, 120)
        with opened(browser, page, {"width": 1400, "height": 900}) as tab:
            tab.evaluate("window.first = true")
            tab.wait_for_function("() => !window.first")  # it has loaded itself again
            tab.wait_for_selector(f"text={alone.id}")
        assert search.wait(240) == 0, (one / "launcher.log").read_text()
        wait_until(lambda: all(name in page.read_text("utf-8") for name in runs(one)), 60)
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 0
    finally:
        follower.kill()
        search.kill()
    found = runs(one)
    assert len(found) == 4
    assert np.array_equal(found[alone.id].metrics["train_loss"], before)
    pruned = {run.id for run in found.values() if run.state == "stopped"}
    assert pruned
    assert {found[name].config["lr"] for name in pruned} == {1e-7}
    told = (one / "launcher.log").read_text()
    assert "it has grown" in told
    assert f"4 of 4 points done, {len(pruned)} of them pruned" in told
    look(browser, page, tmp_path, [alone.id, *pruned])


def test_records_of_two_machines_meet_one_of_them_with_a_program_of_ones_own(
    wandb_server,
    browser,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    del wandb_server  # which the clients find by their variables
    two = tmp_path / "two"
    two.mkdir()
    text = (ROOT / "docs" / "sweeps.md").read_text("utf-8").partition("<!-- test: program -->")[2]
    program = re.search(r"```python\n(.*?)```\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert program
    (two / "mine.py").write_text(program[1], encoding="utf-8")
    config = yaml.safe_load(program[2])
    path = f"tester/lowrank/{wandb.sweep(config, entity='tester', project=config['project'])}"
    agent = lowrank_program(two, "agent", path, "--gpus=none")
    assert agent.wait(400) == 0, (two / "agent.log").read_text()
    assert "as mine.py is your own" in (two / "agent.log").read_text()
    mine = {run.id: run for run in lowrank.load_sweep(two / "runs")}
    assert sorted(run.config["decay"] for run in mine.values()) == [0.0, 0.05]
    for run in mine.values():
        s = run.spectra["0"]
        np.testing.assert_allclose(run.metrics["condition/0"], s[:, 0] / np.maximum(s[:, -1], 1e-9))
        assert run.state == "finished"

    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "one" / "other", [16, 4], entity="tester", project="lowrank")
    assert cli.main(["sync", "one"]) == 0
    capsys.readouterr()
    assert cli.main(["runs", "tester/lowrank", "--json"]) == 0
    listed = {each["run"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed.keys() == {"other", *mine}
    assert listed["other"]["rank_last"] == 4
    for run in mine.values():
        assert listed[run.id]["rank_last"] == run.metrics["rank_mean"][-1]
    assert cli.main(["runs", path, "--columns=decay,condition_mean", "--json"]) == 0
    for each in json.loads(capsys.readouterr().out):
        assert each["condition_mean"] == mine[each["run"]].metrics["condition_mean"][-1]
    assert cli.main(["figures", path]) == 0
    assert cli.main(["report", "tester/lowrank", "-o", "all.html"]) == 0
    look(browser, tmp_path / "all.html", tmp_path, listed)


SMALL = [
    "--dataset=synthetic", "--train_size=64", "--image_size=8", "--threads=1",
]  # fmt: skip


def test_the_commands_of_reproduce_in_small(wandb_server, tmp_path, monkeypatch, capsys):
    """Figure 2's, on records of its points; what downloads or trains for hours is made small."""
    page = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
    text = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    ran = {words[1] for words in lines if words[0] == "lowrank"}
    assert ran == {"data", "sweep", "agent", "dashboard", "runs", "figures", "published", "report"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    points = [point for point in published() if point.figure == "2"]
    for place, point in enumerate(points):
        config = config_of(point, epochs=500, seed=0)
        make(
            tmp_path / "runs" / f"p{place}", config, {0: [100] * 10, 490: [60] * 10, 500: [60] * 10}
        )
    config = yaml.safe_load((ROOT / "sweeps/fig02.yaml").read_text("utf-8"))
    sweep = wandb.sweep(config, entity="tester", project=config["project"])
    del wandb_server
    for words in lines:
        words = [word.replace("ENTITY/PROJECT", "tester/lowrank") for word in words]
        words = [f"--sweep={sweep}" if word == "--sweep=ID" else word for word in words]
        if words[:2] == ["python", "train.py"]:
            import train

            kept = [word for word in words[2:] if not word.startswith(("--dataset", "--compile"))]
            assert train.main([*kept, *SMALL]) == 0
        elif words[:2] == ["lowrank", "data"]:
            assert cli.main(["data", "digits"]) == 0
        elif words[:2] == ["lowrank", "dashboard"]:
            assert cli.main([*words[1:], "--dump"]) == 0
        elif words[0] == "lowrank" and words[1] != "agent":  # an agent is in the day above
            assert cli.main(words[1:]) == 0, words
    told = capsys.readouterr().out
    assert "60 points" in told
    assert f"{len(points)} of {len(points)} points have runs" in told
    assert (tmp_path / "fig02.html").stat().st_size > 100_000
    assert list((tmp_path / "figures").glob("*.png"))
