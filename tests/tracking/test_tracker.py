"""Tracking with the real wandb client, offline, in processes of their own.

What was logged is read back with `wandb leet inspect`, wandb's own reader, from runs that were
killed (SIGKILL), continued and finished. Online only what needs no server: the refusals.
Run with ``pytest tests/tracking/test_tracker.py``.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

from lowrank.common.errors import InputError
from lowrank.measure.metrics import HISTOGRAM_EDGES
from lowrank.tracking import segments, tracker
from lowrank.tracking.tracker import start_tracking
from tests.segments import inspect, records

CONFIG = {
    "tracking": "auto",
    "project": "ranks",
    "entity": None,
    "group": "wd",
    "tags": ["digits"],
    "name": None,
    "epsilons": [1e-3, 1e-2],
    "rank_norm": "frobenius",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 16,
}
SPECTRUM = [1.0, 0.5, 1e-3, 0.0]

PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from lowrank.tracking.tracker import start_tracking
from lowrank.common.errors import Failure, InputError

def start(run_dir, resumed, **changes):
    config = json.loads(sys.argv[1]) | changes
    return start_tracking(config, run_dir=Path(run_dir), run_id="abc", resumed=resumed,
                          environment={})

def row(epoch):
    return {"train_loss": 1 / (epoch + 1), "rank_mean": 3.0, "rank/a": 3.0, "rank@0.01/a": 2.0,
            "stable_rank/a": 1.25, "rank/b": 1.0, "spectral_norm/b": 1.0}

SPECTRUM = np.array([1.0, 0.5, 1e-3, 0.0])
"""


def run(script, directory, *, environ=None, config=None):
    """Runs a script after PRELUDE in a process without account and without terminal."""
    home = directory / "home"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {f"WANDB_{kind}_DIR": str(home) for kind in ("CONFIG", "CACHE", "DATA", "ARTIFACT")}
    clean |= {"NETRC": str(home / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + script, json.dumps(CONFIG | (config or {}))],
        cwd=directory,
        env=clean | (environ or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


KILLED = """
tracker = start("runs/abc", resumed=False)
assert tracker.last_epoch is None, tracker.last_epoch
for epoch in range(5):
    tracker.log(epoch, row(epoch), {"a": SPECTRUM})
time.sleep(1.5)
tracker.log(5, row(5), {"a": SPECTRUM})
os.kill(os.getpid(), signal.SIGKILL)
"""

CONTINUED = """
from matplotlib.figure import Figure
tracker = start("runs/abc", resumed=True, tracking="offline")
print(json.dumps(tracker.last_epoch))
for epoch in range(tracker.last_epoch + 1, 8):
    tracker.log(epoch, row(epoch), {"a": SPECTRUM, "b": np.ones(1)})
collapsed = row(8) | {"rank_mean": np.nan, "rank/b": np.nan, "train_loss": np.inf, "collapsed": 1.0}
tracker.log(8, collapsed, {"a": SPECTRUM, "b": np.ones(1)}, {"rank_heatmap": Figure()})
tracker.write("Traceback: what happened\\nlast line")
Path("runs/abc/record.sqlite").write_bytes(b"the record")
tracker.finish(Path("runs/abc/record.sqlite"), "collapsed", exit_code=0)
print(tracker.sync_command)
print(json.dumps([tracker.mode, tracker.url]))
print(json.dumps([name for name in sys.modules if name == "matplotlib.pyplot"]))
"""


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """A run killed in epoch 5 and continued to epoch 8: its directory and both processes."""
    directory = tmp_path_factory.mktemp("continued")
    return directory, run(KILLED, directory), run(CONTINUED, directory)


@pytest.fixture(scope="module")
def logs(continued):
    return segments.find(continued[0] / "runs/abc", "abc")


def test_without_a_key_it_is_offline_and_one_line_says_so(continued):
    _, killed, second = continued
    assert killed.returncode == -signal.SIGKILL
    assert len(killed.stdout.splitlines()) == 1
    assert "offline" in killed.stdout
    assert "WANDB_API_KEY" in killed.stdout
    assert killed.stderr == ""
    assert second.returncode == 0, second.stderr
    assert second.stderr == ""


def test_a_kill_loses_at_most_the_epoch_in_progress(continued, logs):
    held = json.loads(continued[2].stdout.splitlines()[0])
    assert held in (4, 5)
    assert segments.last_step(logs[0]) == held


def test_both_segments_in_order_hold_each_epoch_once(logs):
    assert len(logs) == 2
    rows = [record["item"] for log in logs for record in records(log.parent, "history")]
    assert [row["epoch"] for row in rows] == [row["_step"] for row in rows] == list(range(9))
    assert [row.get("train_loss") for row in rows] == [1 / (e + 1) for e in range(8)] + [None]


def test_what_is_not_finite_is_left_out_of_row_and_summary(logs):
    last = records(logs[1].parent, "history")[-1]["item"]
    assert last["collapsed"] == 1
    assert not {"rank_mean", "rank/b", "train_loss"} & last.keys()
    assert not any(name.startswith("spectrum/b") for name in last)
    assert any(name.startswith("spectrum/a") for name in last)
    summary = inspect(logs[1].parent, "--summary")["summary"]
    assert not {"rank_mean", "rank/b", "train_loss"} & summary.keys()
    assert summary["rank/a"] == 3
    assert summary["state"] == "collapsed"


def test_the_histogram_arrives_as_numpy_counts_it(logs):
    s = np.array(SPECTRUM)
    expected, _ = np.histogram(np.log10(s[:3] / np.linalg.norm(s)), bins=64, range=(-8, 0))
    expected[0] += 1  # the zero
    first = records(logs[0].parent, "history")[0]["item"]
    assert first["spectrum/a._type"] == "histogram"
    assert first["spectrum/a.values"] == expected.tolist()
    assert first["spectrum/a.bins"] == HISTOGRAM_EDGES.tolist()


def test_each_name_is_defined_once_with_its_axis_and_details_hidden(logs):
    metrics = [record for log in logs[1:] for record in records(log.parent, "metric")]
    assert not any("glob_name" in metric for metric in metrics)
    axes = {metric["name"]: metric.get("step_metric") for metric in metrics}
    assert len(axes) == len(metrics)
    shown = {"train_loss", "rank_mean", "rank/a", "rank/b", "collapsed", "rank_heatmap"}
    hidden = {"rank@0.01/a", "stable_rank/a", "spectral_norm/b", "spectrum/a", "spectrum/b"}
    assert axes == {"epoch": None} | dict.fromkeys(shown | hidden, "epoch")
    assert {m["name"] for m in metrics if m["options"].get("hidden")} == hidden | {"epoch"}


def test_the_record_is_a_file_of_the_segment_wherever_that_lies(logs):
    found = [file["path"] for entry in records(logs[1].parent, "files") for file in entry["files"]]
    assert "record.sqlite" in found  # below the segment's own folder: no path of this machine
    assert not [path for path in found if path.startswith("/")]
    assert (logs[1].parent / "files" / "record.sqlite").read_bytes() == b"the record"
    assert records(logs[1].parent, "artifact") == []


def test_figures_are_images_and_need_no_pyplot(continued, logs):
    last = records(logs[1].parent, "history")[-1]["item"]
    assert last["rank_heatmap._type"] == "image-file"
    assert (logs[1].parent / "files" / last["rank_heatmap.path"]).read_bytes()[:4] == b"\x89PNG"
    assert continued[2].stdout.splitlines()[-1] == "[]"


def test_config_group_and_log_lines_are_recorded(logs):
    summary = inspect(logs[0].parent, "--summary")
    assert summary["config"] == CONFIG
    assert (summary["project"], summary["run_id"], summary["tags"]) == ("ranks", "abc", ["digits"])
    (lines,) = records(logs[1].parent, "output_logger")
    assert lines["line"] == "Traceback: what happened\nlast line\n"


def test_the_documented_command_shows_the_headline_metrics(logs):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    shown = json.loads(subprocess.check_output([*command, str(logs[0].parent)], text=True))
    assert shown["state"] == "running"
    assert shown["summary"]["rank_mean"] == 3


def test_the_sync_command_names_the_run(continued):
    lines = continued[2].stdout.splitlines()
    assert lines[-3] == "lowrank sync runs/abc"
    assert json.loads(lines[-2]) == ["offline", None]


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.6, 0.99], ids="{:.1%} of the bytes".format)
def test_a_truncated_segment_holds_its_complete_rows(logs, tmp_path, share):
    data = logs[0].read_bytes()
    cut = tmp_path / logs[0].parent.name / logs[0].name
    cut.parent.mkdir()
    cut.write_bytes(data[: int(share * len(data))])
    steps = [record["item"]["_step"] for record in records(cut.parent, "history")]
    assert segments.last_step(cut) == (steps[-1] if steps else None)


def test_an_unreadable_segment_is_named(tmp_path):
    missing = tmp_path / "offline-run-20260102_030405-abc" / "run-abc.wandb"
    with pytest.raises(tracker.TrackingError, match=r"run-abc\.wandb: wandb cannot read it"):
        segments.last_step(missing)


def test_segments_are_ordered_by_their_beginning(tmp_path):
    names = [
        "offline-run-20260102_030405-abc",
        "offline-run-20260102_030405-abc-1",
        "offline-run-20260102_030405-abc-10",
        "run-20260102_030406-abc",
        "offline-run-20260103_000000-abc",
    ]
    for name in [*reversed(names), "offline-run-20260102_030405-other"]:
        log = "run-other.wandb" if name.endswith("other") else "run-abc.wandb"
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / log).touch()
    (tmp_path / "wandb" / "latest-run").symlink_to(names[0])
    found = [log.parent for log in segments.find(tmp_path, "abc")]
    assert [directory.name for directory in found] == names


TWICE = """
for attempt in range(2):
    tracker = start("runs/abc", resumed=attempt > 0, tracking="offline")
    tracker.log(attempt, row(attempt), {})
    tracker.finish(Path("no record"), "finished")
    print(tracker.last_epoch)
print(dict(tracker._run.config)["lr"])
"""


def test_two_segments_in_one_process_and_second(tmp_path):
    result = run(TWICE, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:2] == ["None", "0"]
    assert len(segments.find(tmp_path / "runs/abc", "abc")) == 2


DIED = """
import subprocess, threading
tracker = start("runs/abc", resumed=False, tracking="offline")
tracker.log(0, row(0), {"a": SPECTRUM})
time.sleep(1.5)
children = subprocess.check_output(["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="]).decode()
(service,) = [int(line.split()[0]) for line in children.splitlines() if "wandb-core" in line]
if os.environ["WHEN"] == "between two epochs":
    os.kill(service, signal.SIGKILL)
    time.sleep(0.3)
    try:
        tracker.log(1, row(1), {"a": SPECTRUM})
    except Failure as error:
        print(*error.lines)
else:
    os.kill(service, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (service, signal.SIGKILL)).start()
record = Path("runs/abc/record.sqlite")
record.write_bytes(b"the record")
tracker.write("a line")
tracker.finish(record, "failed", exit_code=1)
again = start("runs/abc", resumed=True, tracking="offline")
again.log(again.last_epoch + 1, row(1), {})
again.finish(record, "finished")
"""


@pytest.mark.parametrize("when", ["between two epochs", "while it finishes"])
def test_a_service_that_dies_is_told_in_a_line_and_the_next_run_has_its_own(tmp_path, when):
    result = run(DIED, tmp_path, environ={"WHEN": when})
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    first, second = segments.find(tmp_path / "runs/abc", "abc")
    *failed, finished = result.stdout.splitlines()
    if when == "between two epochs":
        (line,) = failed
        assert "W&B cannot log epoch 1: " in line
        assert "the same command again with --run_id=abc" in line
    else:
        assert failed == []
    assert finished.endswith("upload it with: lowrank sync runs/abc")
    assert [segments.last_step(log) for log in (first, second)] == [0, 1]


def test_under_an_agent_text_is_recorded_as_the_number_it_means(tmp_path):
    agents = {
        "wandb_version": 1,
        "lr": {"value": "1e-4"},
        "batch_size": {"value": "32.0"},
        "config": {"value": "{weight_decay: 1e-3}"},
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(agents))
    result = run(
        "start('runs/abc', resumed=False).finish(Path('no record'), 'finished')",
        tmp_path,
        environ={
            "WANDB_SWEEP_ID": "sweep1",
            "WANDB_RUN_ID": "abc",
            "WANDB_PROJECT": "ranks",
            "WANDB_SWEEP_PARAM_PATH": str(path),
        },
        config={"tracking": "offline", "lr": 1e-4, "batch_size": 32, "weight_decay": 1e-3},
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    (log,) = segments.find(tmp_path / "runs/abc", "abc")
    recorded = inspect(log.parent, "--summary")
    assert recorded["config"] == CONFIG | {
        "tracking": "offline",
        "lr": 1e-4,
        "batch_size": 32,
        "weight_decay": 1e-3,
        "config": "{weight_decay: 1e-3}",
    }
    assert (recorded["run_id"], recorded["project"]) == ("abc", "ranks")
    assert yaml.safe_load(path.read_text()) == agents


def test_an_unreadable_parameter_file_is_named(tmp_path):
    with pytest.raises(tracker.TrackingError, match=r"WANDB_SWEEP_PARAM_PATH=.*gone\.yaml"):
        segments.sweep_parameters({"WANDB_SWEEP_PARAM_PATH": str(tmp_path / "gone.yaml")})
    assert segments.sweep_parameters({}) == {}


@pytest.mark.parametrize(
    ("tracked", "environ", "message"),
    [
        ("online", {}, "tracking=online, but there is no API key for .*wandb login"),
        ("auto", {"WANDB_SWEEP_ID": "s"}, "under a W&B agent, but there is no API key"),
        ("auto", {"WANDB_API_KEY": "short"}, "WANDB_API_KEY invalid: API key must have 40"),
        (
            "offline",
            {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "given"},
            "run_id=abc: the W&B agent calls this run given",
        ),
    ],
    ids=["online without key", "agent without key", "malformed key", "another run id"],
)
def test_bad_input_says_what_to_do(tmp_path, monkeypatch, tracked, environ, message):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    config = CONFIG | {"tracking": tracked}
    with pytest.raises(InputError, match=message):
        start_tracking(
            config, run_dir=tmp_path / "run", run_id="abc", resumed=False, environment={}
        )


def test_disabled_has_the_same_methods_and_leaves_no_trace(tmp_path):
    config = CONFIG | {"tracking": "disabled"}
    tracker = start_tracking(
        config, run_dir=tmp_path / "run", run_id="abc", resumed=False, environment={}
    )
    tracker.log(0, {"rank_mean": math.nan}, {"a": np.ones(2)})
    tracker.write("a line")
    tracker.finish(tmp_path / "record.sqlite", "finished")
    assert (tracker.mode, tracker.last_epoch, tracker.url) == ("disabled", None, None)
    assert tracker.sync_command is None
    assert list(tmp_path.iterdir()) == []
