"""A W&B server that means harm: real client and agents, and answers that nobody should follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

import lowrank
import train
from lowrank.common.errors import InputError
from lowrank.config.arguments import parse
from lowrank.launch.agents import probes
from lowrank.launch.agents.agent import refusal
from lowrank.runs.format import RecordError
from tests.hostile.calls import answer
from tests.launch.agents.launching import Launch, make_sweep, noted
from tests.wandb_server import mutations


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*")}


COMMANDS = {
    "a shell": ["sh", "-c", "touch hacked"],
    "code of Python": ["python", "-c", "open('hacked', 'w')"],
    "another program": ["${env}", "python", "../evil.py", "${args}"],
    "a library put before": ["${env}", "LD_PRELOAD=./evil.so", "python", "${program}", "${args}"],
    "a variable sent back": ["python", "${program}", "--name=${envvar:WANDB_API_KEY}"],
    "a place for runs": ["python", "${program}", "--output_dir=/tmp/evil", "${args}"],
    "a place above": ["python", "${program}", "--output_dir=a/../../evil", "${args}"],
    "a configuration": ["python", "${program}", "--config={output_dir: /tmp/evil}"],
    "a value that is no flag": ["python", "${program}", "--output_dir", "/tmp/evil"],
    "no text": [{"a": 1}],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_sweeps_command_is_refused_unless_it_starts_the_program_with_flags(case):
    assert "the sweep's command has the word" in refusal("train.py", COMMANDS[case])


@pytest.mark.parametrize("program", ["/bin/evil.py", "../evil.py", "~/evil.py", "evil.sh", 1, ""])
def test_a_sweeps_program_is_refused_unless_it_lies_here(program):
    assert "the sweep's program is" in refusal(program, [])


@pytest.mark.usefixtures("wandb_server")
def test_the_preflight_refuses_a_sweeps_command(place):
    sweep = {
        "method": "grid",
        "program": "train.py",
        "command": COMMANDS["a shell"],
        "parameters": {"lr": {"values": [1]}},
    }
    path = f"tester/p/{wandb.sweep(sweep, entity='tester', project='p')}"
    with pytest.raises(InputError, match="the sweep's command has the word 'sh'"):
        probes.ask_wandb(path)
    assert not (place / "hacked").exists()


ANSWERS: dict[str, dict[str, Any]] = {
    "an id that is a path": {"run_id": "../../../evil"},
    "an id that is absolute": {"run_id": "/tmp/evil"},
    "an id that is no text": {"run_id": ["evil"]},
    "a program above": {"program": "../evil.py"},
    "no program": {"program": None},
}


@pytest.mark.slow  # a launcher with an agent for each answer
@pytest.mark.usefixtures("wandb_server")
@pytest.mark.parametrize("case", ANSWERS)
def test_an_agent_refuses_what_the_server_wants_to_be_run(place, monkeypatch, tmp_path, case):
    start = mutations._start
    monkeypatch.setattr(mutations, "_start", lambda *of: {**start(*of), **ANSWERS[case]})
    (tmp_path.parent / "evil.py").write_text("open('hacked', 'w')")
    before = set(made(place.parent))
    launch = Launch(make_sweep({"work": ["well"], "number": [1, 2, 3, 4]}), max_failures=1)
    assert launch.wait() == 1
    launch.assert_nothing_is_left()
    assert "not run, as the server is not trusted with it" in launch.text
    assert noted("points") == []
    new = set(made(place.parent)) - before
    assert not [name for name in new if "hacked" in name or "config-" in name]


@pytest.mark.parametrize("where", ["/tmp/evil", "~/evil", "../evil", "a/../../evil"])
@pytest.mark.parametrize("form", ["parameter", "coupled"])
def test_a_servers_sweep_does_not_decide_where_files_are_written(tmp_path, where, form):
    file = tmp_path / "sweep.yaml"
    entry = {"output_dir": where} if form == "parameter" else {"config": {"output_dir": where}}
    file.write_text(yaml.safe_dump({name: {"value": value} for name, value in entry.items()}))
    with pytest.raises(InputError, match="a server does not decide where files are written"):
        parse([], {"WANDB_SWEEP_PARAM_PATH": str(file)})
    file.write_text(yaml.safe_dump({"output_dir": {"value": "below/runs"}}))
    assert parse([], {"WANDB_SWEEP_PARAM_PATH": str(file)}).output_dir == "below/runs"


@pytest.mark.slow  # an online run
def test_an_artifact_names_no_path_outside(wandb_server, tmp_path):
    flags = ["--epochs=0", "--train_size=64", "--width=8", "--depth=1", "--threads=1"]
    assert answer(train.main, [*flags, "--run_id=a", "--project=ranks"])[0] == 0
    assert lowrank.load_run("tester/ranks/a").epochs.tolist() == [0]
    manifest = wandb_server.artifact("run-record-a:latest").blob("manifest.json")
    honest = json.loads(manifest.read_text())
    (entry,) = honest["contents"].values()
    secret = tmp_path / "secret"
    secret.write_text("not theirs")
    hostile: dict[str, dict[str, Any]] = {
        "another name": {"../../evil": entry},
        "more files": {
            "record.sqlite": entry,
            **dict.fromkeys(("../evil", "/tmp/evil-of-the-server", "a/../../../evil"), entry),
        },
        "a file of ours": {
            "record.sqlite": {**entry, "ref": f"file://{secret}", "digest": f"file://{secret}"}
        },
        "a device": {"record.sqlite": {**entry, "ref": "file:///dev/zero"}},
        "another server": {"record.sqlite": {**entry, "ref": "http://192.0.2.1/evil"}},
    }
    before = made(tmp_path)
    for name, contents in hostile.items():
        manifest.write_text(json.dumps({**honest, "contents": contents}))
        if name == "more files":  # only the record is fetched
            assert lowrank.load_run("tester/ranks/a").epochs.tolist() == [0]
            continue
        with pytest.raises(RecordError):
            lowrank.load_run("tester/ranks/a")
    assert not Path("/tmp/evil-of-the-server").exists()
    assert not [name for name in made(tmp_path) - before if "evil" in name]
