"""The check of a machine: every fault is really there, and no point is taken.

Key and sweep are asked of a server; the whole command runs as a process of its own.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from lowrank.common.errors import InputError
from lowrank.launch import trial
from lowrank.launch.agents import preflight, probes
from lowrank.launch.agents.preflight import (
    data_sets,
    free_disk,
    program,
    room_for_points,
    state,
    steps_of,
    takes_own_settings,
)
from lowrank.launch.agents.probes import DataSet, Sweep
from lowrank.launch.slots import Slot
from tests.launch.agents.launching import Launch, make_sweep, noted


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rises():
    raise InputError(["one", "two"])


def dies():
    os._exit(9)


def sleeps():
    time.sleep(60)


def test_what_a_child_finds_or_lacks_comes_back():
    assert probes.in_child(60, os.path.basename, "a/b") == "b"
    with pytest.raises(InputError) as caught:
        probes.in_child(60, rises)
    assert caught.value.lines == ["one", "two"]
    with pytest.raises(InputError, match="ValueError: "):
        probes.in_child(60, int, "x")


def finds():
    return Sweep("e/p/s", "RUNNING", {"method": "grid", "when": datetime.date(2026, 1, 2)}, "me")


def test_a_named_tuple_and_a_date_cross_as_a_list_and_a_text():
    found = probes.in_child(60, finds)
    assert found == ["e/p/s", "RUNNING", {"method": "grid", "when": "2026-01-02"}, "me"]


def test_a_child_that_dies_or_hangs_is_told():
    with pytest.raises(InputError, match="died with exit code 9"):
        probes.in_child(60, dies)
    with pytest.raises(InputError, match="no answer within 1 s"):
        probes.in_child(1, sleeps)


def test_a_gpu_that_torch_does_not_see_is_told():
    hidden = {"CUDA_VISIBLE_DEVICES": "GPU-00000000-not-there"}
    with pytest.raises(
        InputError, match=r"does not see it .CUDA_VISIBLE_DEVICES=GPU-0.*--gpus=none"
    ):
        probes.in_child(120, probes.see_device, hidden)


def test_a_full_disk_is_told(monkeypatch, place):
    assert free_disk(place / "runs", 1).endswith("runs")
    monkeypatch.setattr(preflight, "FREE_PER_SLOT", 2**60)
    with pytest.raises(InputError, match=r"GiB free in runs, 2147483648.0 GiB .* for 2 slots"):
        free_disk(Path("runs"), 2)


def test_a_place_that_cannot_be_written_to_is_told(place):
    (place / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        free_disk(place / "file" / "runs", 1)


def test_an_agent_that_could_not_write_down_its_points_is_told(place, monkeypatch):
    room_for_points()
    monkeypatch.setenv("WANDB_DIR", str(place / "elsewhere"))
    room_for_points()
    (place / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(place / "file"))
    with pytest.raises(InputError, match="where W&B's agent notes the points it takes"):
        room_for_points()


@pytest.mark.parametrize("word", ["FINISHED", "CANCELED", "STOPPED"])
def test_a_sweep_that_is_over_is_told(word):
    with pytest.raises(InputError, match=rf"e/p/s is {word.lower()}: `wandb sweep --resume e/p/s`"):
        state(Sweep("e/p/s", word, {}, "me"))


def test_a_paused_sweep_is_said_to_be_so():
    text = state(Sweep("e/p/s", "PAUSED", {"method": "grid"}, "me"))
    assert text == "e/p/s, grid, paused: agents wait until it is resumed"


def test_a_program_that_is_not_here_or_not_ours_is_told(place):
    with pytest.raises(InputError, match=r"there is no train.py in .*start agents where"):
        program({"program": "train.py"})
    (place / "train.py").write_text("import keras\n")
    with pytest.raises(InputError, match=r"train.py is no training of lowrank"):
        program({"program": "train.py"})
    with pytest.raises(InputError, match="names no program"):
        program({"command": ["${env}", "python", "${program}"]})
    with pytest.raises(InputError, match="names no program"):
        program({"command": ["python", "train.py"]}, packed=True)
    (place / "train.py").write_text("import lowrank\n")
    assert program({"program": "train.py"})
    with pytest.raises(InputError, match=r"no function train\(requests\), which trains packs"):
        program({"program": "train.py"}, packed=True)


def test_what_a_program_of_ones_own_reads_is_not_taken_for_train_pys(place):
    (place / "mine.py").write_text("import lowrank\n")
    (place / "train.py").write_text("from lowrank.config import Config\n")
    sweep = {"method": "grid", "parameters": {"dataset": {"value": "mine"}, "lrr": {"value": 1}}}
    assert takes_own_settings({**sweep, "program": "mine.py"})
    assert program({**sweep, "program": "mine.py"}).startswith("mine.py, ")
    assert not takes_own_settings({**sweep, "program": "train.py"})
    with pytest.raises(InputError, match=r"'lrr' is no setting of train\.py"):
        program({**sweep, "program": "train.py"})


def test_parameters_that_train_py_does_not_know_are_told(place):
    (place / "train.py").write_text("from lowrank.config import Config\n")
    known = {"lr": {"value": 1}, "config": {"values": ["{lr: 1}"]}}
    sweep = {"program": "train.py", "method": "grid"}
    assert program({**sweep, "parameters": known}).startswith("train.py, ")
    with pytest.raises(InputError) as caught:
        program({**sweep, "parameters": {"weight_dcay": {}, "lrr": {}, **known}})
    assert caught.value.lines == [
        "the sweep's parameter 'weight_dcay' is no setting of train.py, did you mean "
        "'weight_decay'?; every point would fail",
        "the sweep's parameter 'lrr' is no setting of train.py, did you mean 'lr'?; every point "
        "would fail",
    ]


def test_the_data_sets_of_all_points_are_found(monkeypatch):
    monkeypatch.setenv("LOWRANK_DATA_DIR", "here")
    sweep = {
        "command": ["${env}", "python", "${program}", "--download=False", "${args}"],
        "parameters": {
            "dataset": {"values": ["mnist", "digits"]},
            "lr": {"min": 0.1, "max": 0.2},
            "config": {"values": ["{image_size: 32}", "{lr: 2}", {"data_dir": "there"}]},
        },
    }
    assert set(data_sets(sweep)) == {
        DataSet(name, *rest)
        for name in ("mnist", "digits")
        for rest in (("here", False, 32), ("here", False, None), ("there", False, None))
    }
    assert data_sets({"parameters": {}}) == [DataSet("digits", "here", True, None)]
    assert data_sets({"command": ["python", "train.py", "--config=x.yaml"]}) == []


@pytest.mark.parametrize("value", [None, 3, ["lr"]])
def test_a_coupled_parameter_without_a_mapping_is_a_line_of_the_preflight(value):
    with pytest.raises(InputError, match=r"config: got .* in the sweep; allowed: mappings such as"):
        data_sets({"parameters": {"config": {"value": value}}})


def test_nested_coupled_parameters_are_found_too():
    nested = {"parameters": {"dataset": {"values": ["digits", "mnist"]}}}
    found = data_sets({"parameters": {"config": nested}})
    assert [data.name for data in found] == ["digits", "mnist"]


def test_a_sweep_about_what_no_run_logs_takes_no_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("from lowrank.config.arguments import parse")
    sweep = {
        "program": "train.py",
        "method": "random",
        "name": None,
        "parameters": {"lr": {"min": 0.1, "max": 0.2}},
        "metric": {"name": "val_acc"},
    }
    with pytest.raises(InputError, match=r"metric\.name: got 'val_acc', which train\.py does not"):
        program(sweep)
    assert program(sweep | {"metric": {"name": "test_accuracy"}})


def test_all_that_a_servers_sweep_says_beside_its_parameters_is_checked(place):
    (place / "train.py").write_text("from lowrank.config.arguments import parse")
    (place / "mine").mkdir()
    (place / "mine/train.py").write_text("from lowrank.config.arguments import parse")
    sweep = {
        "program": "mine/train.py",
        "method": "grid",
        "description": "text",
        "name": "n" * 128,
        "project": "my ranks",
        "entity": "me",
        "command": ["${env}", "python", "${program}", "${args}"],
        "parameters": {"lr": {"values": [0.1, 0.2], "distribution": "categorical"}},
        "metric": {"name": "rank/linear1", "goal": "minimize"},
    }
    assert program(sweep)
    wrong = {
        "name": "n" * 129,
        "project": "me/proj",
        "metric": {"name": "nonsense/linear1"},
        "method": "gird",
        "controller": {"type": "local"},
    }
    with pytest.raises(InputError) as caught:
        program(sweep | wrong)
    for text in (
        "name: got 129 characters; allowed: 1 to 128",
        "project: got 'me/proj'",
        "metric.name: got 'nonsense/linear1'",
        "method: got 'gird'",
        "controller is not read",
    ):
        assert sum(text in line for line in caught.value.lines) == 1, caught.value.lines


def test_the_steps_of_a_sweep_are_those_of_all_its_networks():
    sweep = {
        "command": ["${env}", "python", "${program}", "--width=20", "${args}"],
        "parameters": {
            "batch_size": {"values": [16, 32]},
            "lr": {"min": 0.1, "max": 0.2},
            "config": {"values": ["{depth: 2, lr: 1}", {"depth": 2, "momentum": 0.5}]},
        },
    }
    (found, more) = steps_of(sweep)
    assert set(found) == {"--batch_size=16", "--depth=2", "--width=20"}
    assert "--batch_size=32" in more
    assert steps_of({"parameters": {}}) == [[]]
    assert steps_of({"parameters": {"batch_size": {"min": 1, "max": 9}}}) == []
    assert steps_of({"parameters": {"number": {"value": 1}}}) == []
    of_file = ["python", "${program}", "--config=x.yaml", "${args}"]
    assert steps_of({"command": of_file}) == []


class Tried:
    """A child that has taken steps of 3 GiB where 4 were free, or of no GPU."""

    def __init__(self, function, environment, networks):
        assert function is probes.try_device
        self.is_gpu = bool(environment["CUDA_VISIBLE_DEVICES"])
        self.networks = networks

    def result(self, seconds):
        assert seconds == trial.SECONDS
        sizes = [3 * 2**30, 4 * 2**30] if self.is_gpu else [None, None]
        return ["a device", [f"steps of {len(self.networks)}", *sizes]]

    def end(self):
        pass


@pytest.mark.parametrize(
    ("names", "packed", "told"),
    [
        (["gpu0", "gpu1"], False, "gpu1: steps of 1, with 3.0 of 4.0 GiB; room for 1"),
        (["gpu0.0", "gpu0.1"], True, "gpu0: steps of 1, with 3.0 of 4.0 GiB; room for 1"),
        (["cpu.0", "cpu.1"], False, "cpu: steps of 1"),
        (["gpu0.0", "gpu0.1"], False, ""),
    ],
)
def test_two_steps_on_each_device_tell_whether_its_agents_have_room(
    monkeypatch, place, names, packed, told
):
    text = "from lowrank.config.arguments import parse\ndef train(requests): ...\n"
    (place / "train.py").write_text(text)
    sweep = {"program": "train.py", "method": "grid", "parameters": {"lr": {"value": 0.1}}}
    found = ["e/p/s", "PENDING", sweep, "me"]
    monkeypatch.setattr(
        probes, "in_child", lambda _, function, *__: found if function is probes.ask_wandb else []
    )
    monkeypatch.setattr(probes, "Child", Tried)
    slots = [Slot(n, n[3] if n.startswith("gpu") else None, None) for n in names]
    lines = []

    def check():
        return preflight.preflight("e/p/s", slots, place / "runs", lines.append, packed=packed)

    if told:
        assert check() == Sweep(*found)
        assert f"ok: {told}" in lines
        return
    with pytest.raises(InputError) as caught:
        check()
    assert caught.value.lines == [
        "gpu0: steps of 1 took 3.0 of 4.0 GiB: there is room for 1 such training, not 2; "
        "--per_gpu=1 or less is possible",
        "nothing was started, and no point of the sweep was taken",
    ]


def test_data_that_are_missing_are_told(place):
    wanted = [DataSet("mnist", str(place), False, None), DataSet("digits", "", True, None)]
    with pytest.raises(InputError, match="mnist"):
        probes.load_data(wanted)
    assert probes.load_data(wanted[1:]) == ["digits: 1,440 images to train, 357 to test"]


@pytest.mark.usefixtures("wandb_server")
def test_the_server_is_asked_for_key_and_sweep(monkeypatch):
    sweep = make_sweep({"work": ["well"], "number": [1]})
    found = probes.ask_wandb(sweep)
    assert (found.path, found.state, found.user) == (sweep, "PENDING", "tester")
    assert found.config["program"] == "train.py"
    assert probes.ask_wandb(sweep.removeprefix("tester/")).path == sweep
    monkeypatch.setenv("WANDB_PROJECT", "p")
    assert probes.ask_wandb(sweep.rpartition("/")[2]).path == sweep
    with pytest.raises(InputError, match="has no sweep p/unknown for tester"):
        probes.ask_wandb("p/unknown")


def test_a_mode_that_keeps_runs_from_the_server_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InputError, match="WANDB_MODE=offline keeps every run from the server"):
        probes.ask_wandb("e/p/s")


def test_bad_variables_of_wandb_are_told_before_a_point_is_taken(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "x")
    monkeypatch.setenv("WANDB_CONSOLE", "none")
    with pytest.raises(InputError) as caught:
        probes.ask_wandb("e/p/s")
    assert [line.partition(":")[0] for line in caught.value.lines] == [
        "WANDB_CONSOLE=none",
        "WANDB_SILENT=x",
    ]


def test_a_missing_key_is_told():
    with pytest.raises(InputError, match=r"no API key for .*; `wandb login` or WANDB_API_KEY"):
        probes.ask_wandb("e/p/s")


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_server")
def test_a_key_that_the_server_refuses_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with pytest.raises(InputError, match=r"key: .* does not accept it or does not answer"):
        probes.in_child(120, probes.ask_wandb, "e/p/s")


@pytest.mark.slow
def test_everything_that_is_wrong_is_told_before_a_point_is_taken(wandb_server, place, monkeypatch):
    grid = {"dataset": ["mnist"], "download": [False], "work": ["well"], "number": [1]}
    sweep = make_sweep(grid)
    (place / "train.py").unlink()
    (place / "file").touch()
    monkeypatch.setenv("LOWRANK_DATA_DIR", str(place))
    run = Launch(sweep, flags=["--output_dir=file/runs"])
    assert run.wait() == 2
    for line in (
        "disk: file/runs cannot be written",
        "program: there is no train.py",
        "data: dataset=mnist",
    ):
        assert f"lowrank: {line}" in run.text
    assert "nothing was started, and no point of the sweep was taken" in run.text
    assert wandb_server.runs == wandb_server.agents == []
    assert run.tree.alive() == []


@pytest.mark.slow
def test_a_sweep_that_is_unknown_is_told(wandb_server):
    run = Launch("tester/p/unknown", flags=[])
    assert run.wait() == 2
    assert "lowrank: sweep: " in run.text
    assert wandb_server.agents == []


@pytest.mark.slow
@pytest.mark.parametrize("address", [False, True], ids=["path", "address"])
def test_the_whole_command_checks_and_trains(wandb_server, place, address):
    sweep = make_sweep({"work": ["well"], "number": [1, 2]}, project="my ranks")
    parts = quote(sweep).rpartition("/")
    given = f"{wandb_server.url}/{parts[0]}/sweeps/{parts[2]}" if address else sweep
    run = Launch(given, flags=["--output_dir=results", "--gpus=none", "--stagger=0"])
    assert run.wait() == 0
    for line in ("disk: ", "cpu: torch ", "key: of tester", f"sweep: {sweep}, grid", "program: "):
        assert f"ok: {line}" in run.text
    assert len(noted("points")) == len(wandb_server.runs) == 2
    assert sorted(name for _, name in noted("names")) == ["number=1", "number=2"]
    (log,) = (place / "results/agents" / sweep.rpartition("/")[2]).glob("*.log")
    assert log.name.endswith("-cpu.0.log")
