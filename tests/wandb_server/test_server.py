"""The test server itself: W&B's public API finds what a client sent, also after a kill -9.

The client and ``wandb.Api`` are the real ones. Run with ``pytest tests/wandb_server``.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import wandb

from tests.wandb_server import API_KEY, State, WandbServer
from tests.wandb_server.search import grid_size, points
from tests.wandb_server.state import Run

ROOT = Path(__file__).resolve().parents[2]


def log_run(run_id, rows, **options):
    with wandb.init(project="ranks", id=run_id, dir=options.pop("dir"), **options) as run:
        for row in rows:
            run.log(row)


@pytest.mark.usefixtures("wandb_server")
def test_the_public_api_reads_what_the_client_sent(tmp_path):
    for number in range(3):
        rows = [{"loss": 1 / (step + 1)} for step in range(4)]
        config = {"lr": 0.1 * number}
        log_run(f"run{number}", rows, dir=tmp_path, config=config, group="g", tags=["t"])
    api = wandb.Api()
    assert [run.id for run in api.runs("tester/ranks")] == ["run0", "run1", "run2"]
    (found,) = api.runs("tester/ranks", filters={"config.lr": {"$gt": 0.15}})
    assert found.id == "run2"
    run = api.run("tester/ranks/run1")
    assert (run.state, run.config, run.group, run.tags) == ("finished", {"lr": 0.1}, "g", ["t"])
    expected = [1.0, 1 / 2, 1 / 3, 1 / 4]
    assert [row["loss"] for row in run.history(pandas=False)] == expected
    assert [row["loss"] for row in run.scan_history()] == expected
    assert [row["loss"] for row in run.scan_history(keys=["loss"])] == expected
    assert run.summary["loss"] == 1 / 4
    assert "wandb-metadata.json" in {file.name for file in run.files()}


def test_artifacts_have_versions_and_are_downloaded(wandb_server, tmp_path):
    for number, content in enumerate(("one", "two", "two")):
        (tmp_path / "file.txt").write_text(content)
        with wandb.init(project="ranks", id=f"run{number}", dir=tmp_path) as run:
            run.log_artifact(str(tmp_path / "file.txt"), name="data", type="dataset")
    api = wandb.Api()
    for version, content in (("v0", "one"), ("v1", "two"), ("latest", "two")):
        artifact = api.artifact(f"tester/ranks/data:{version}")
        place = artifact.download(root=str(tmp_path / version))
        assert (Path(place) / "file.txt").read_text() == content
    assert wandb_server.artifact("data:latest").name == "data:v1"
    assert [a.name for a in api.run("tester/ranks/run0").logged_artifacts()] == ["data:v0"]


def test_a_killed_server_goes_on_with_what_it_had(tmp_path, monkeypatch):
    def start(port):
        words = [sys.executable, "-m", "tests.wandb_server", f"--port={port}"]
        process = subprocess.Popen(
            [*words, f"--state={tmp_path / 'state'}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    server, url = start(0)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    log_run("a", [{"x": 1}, {"x": 2}], dir=tmp_path)
    server.kill()
    server.communicate()
    server, again = start(url.rpartition(":")[2])
    try:
        assert again == url
        log_run("a", [{"x": 3}], dir=tmp_path, resume="must")
        log_run("b", [{"x": 1}], dir=tmp_path)
    finally:
        server.kill()
        server.communicate()
    state = State(tmp_path / "state")
    assert [(row["x"], row["_step"]) for row in state.run("a").history] == [(1, 0), (2, 1), (3, 2)]
    assert state.run("a").state == state.run("b").state == "finished"


@pytest.mark.parametrize(
    ("kind", "error"),
    [(500, "500"), (404, "404"), ("refuse", "refused"), ("hang", "timed out")],
    ids=["500", "404", "refuse", "hang"],
)
def test_a_fault_is_what_it_is_called_and_ends(tmp_path, kind, error):
    server = WandbServer(tmp_path)
    try:
        with server.outage(kind), pytest.raises(OSError, match=error):
            urllib.request.urlopen(server.url, timeout=0.5)
        assert urllib.request.urlopen(server.url, timeout=5).read() == b"ok"
        with server.outage(kind if isinstance(kind, int) else 500, where="file_stream"):
            assert urllib.request.urlopen(server.url, timeout=5).read() == b"ok"
    finally:
        server.close()


def test_another_key_is_refused(wandb_server):
    request = urllib.request.Request(f"{wandb_server.url}/graphql", data=b"{}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=5)


def test_a_grid_holds_each_point_once_in_order():
    config = {"method": "grid", "parameters": {"a": {"values": [1, 2]}, "b": {"values": [3, 4]}}}
    assert [tuple(p.values()) for p in points(config, "s")] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert grid_size(config) == 4
    with pytest.raises(ValueError, match="value or values of a"):
        grid_size({"method": "grid", "parameters": {"a": {"min": 0, "max": 1}}})


def test_random_points_are_drawn_from_their_ranges_and_repeat_with_the_seed():
    parameters = {
        "a": {"min": 1, "max": 3, "distribution": "int_uniform"},
        "b": {"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"},
        "c": {"values": ["x", "y"]},
        "d": {"min": 0.0, "max": 1.0},
        "e": {"value": None},
    }
    config = {"method": "random", "parameters": parameters}
    drawn = list(itertools.islice(points(config, "s"), 200))
    assert drawn == list(itertools.islice(points(config, "s"), 200))
    assert {point["a"] for point in drawn} == {1, 2, 3}
    assert all(1e-4 <= point["b"] <= 1e-1 for point in drawn)
    assert sum(point["b"] < 1e-3 for point in drawn) > 30
    assert {point["c"] for point in drawn} == {"x", "y"}
    assert all(0 <= point["d"] <= 1 and point["e"] is None for point in drawn)


def test_a_row_that_never_arrived_is_an_error(tmp_path):
    run = Run(place=tmp_path, entity="e", project="p", id="a")
    run.lines = {"wandb-history.jsonl": ["{}", None, "{}"]}
    with pytest.raises(ValueError, match=r"line 1 of wandb-history\.jsonl never arrived"):
        run.history  # noqa: B018
