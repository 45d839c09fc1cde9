"""Records of a project and of a sweep, fetched by W&B's real client from a server on loopback."""

from __future__ import annotations

import json

import pytest
import wandb
import yaml

from lowrank import cli
from lowrank.runs.find import find_elsewhere
from lowrank.runs.format import RecordError
from tests.views.table.records import make_run

SWEEP = {
    "program": "train.py", "method": "grid",
    "parameters": {"epochs": {"value": 1}, "lr": {"values": [0.4, 1.2, 2.0]}},
}  # fmt: skip


@pytest.fixture
def gathered(wandb_server, tmp_path, monkeypatch, capsys):
    """Three runs of two machines, two of them of a sweep, and one of another program."""
    monkeypatch.chdir(tmp_path)
    for machine, run_id, last in (("one", "a", 4), ("one", "b", 8), ("two", "c", 12)):
        make_run(tmp_path / machine / run_id, [16, last], lr=last / 10, entity="tester",
                 project="ranks")  # fmt: skip
    assert cli.main(["sync", "one"]) == 0
    assert cli.main(["sync", "two"]) == 0
    with wandb.init(entity="tester", project="ranks", id="other"):
        pass
    sweep = wandb.sweep({"method": "grid", "parameters": {"lr": {"values": [0.4, 1.2]}}},
                        entity="tester", project="ranks")  # fmt: skip
    for run_id in "ac":
        run = wandb_server.run(run_id)
        run.sweep = sweep
        run.save()
    capsys.readouterr()
    return sweep


def downloads(server):
    seen = [path for _, method, path, _ in server.seen if method == "GET"]
    return len([path for path in seen if "record.sqlite" in path])


def test_a_project_and_a_sweep_are_read_like_directories(wandb_server, gathered, tmp_path, capsys):
    def listed(path):
        assert cli.main(["runs", path, "--json"]) == 0
        out, err = capsys.readouterr()
        return {each["run"]: each["rank_last"] for each in json.loads(out)}, err

    found, said = listed("tester/ranks")
    assert found == {"a": 4, "b": 8, "c": 12}
    assert "left out: tester/ranks: 1 of 4 runs have no run record in W&B" in said
    fetched = downloads(wandb_server)
    address = f"{wandb_server.url}/tester/ranks/sweeps/{gathered}"
    for path in (f"tester/ranks/{gathered}", f"tester/ranks/sweeps/{gathered}", address):
        assert listed(path) == ({"a": 4, "c": 12}, "")
    assert fetched == downloads(wandb_server) == 3, "what has not changed is not fetched again"
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SWEEP))
    missing = [f"--missing_from=tester/ranks/{gathered}", "--gpus=none", "--dry_run"]
    assert cli.main(["sweep", "s.yaml", *missing]) == 0
    assert f"2 of 3 points ran to their end in tester/ranks/{gathered}" in capsys.readouterr().out
    assert cli.main(["figures", "tester/ranks", "one", f"--output={tmp_path}/f/"]) == 0
    assert cli.main(["report", f"tester/ranks/{gathered}", "-o", "r.html"]) == 0
    assert "report of 2 runs" in capsys.readouterr().out


def test_what_is_not_there_is_told(wandb_server):  # noqa: ARG001
    for path in ("tester/nothing", "tester/ranks/nothing"):
        with pytest.raises(RecordError, match=f"{path}: there is no such file here, and W&B"):
            find_elsewhere(path)
