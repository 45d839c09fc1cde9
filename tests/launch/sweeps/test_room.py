"""Whether GPUs that several workers share have room for them: steps are stood in for by numbers."""

from __future__ import annotations

import pytest

from lowrank.commands import sweep as command
from lowrank.common.errors import InputError
from lowrank.launch.agents import probes
from lowrank.launch.slots import Slot
from lowrank.launch.sweeps import room
from lowrank.launch.sweeps.room import check_room
from lowrank.launch.trial import SECONDS

GIB = 2**30


@pytest.fixture
def tried(monkeypatch):
    """Lets a GPU of each name take so many of 8 GiB, or fail in a line."""
    found, started, ended = {}, [], []

    class Tried:
        def __init__(self, function, environment, networks):
            assert function is probes.try_device
            assert networks == [["--width=8"]]
            self.gpu = environment["CUDA_VISIBLE_DEVICES"]
            started.append(self.gpu)

        def result(self, seconds):
            assert seconds == SECONDS
            of_it = found[self.gpu]
            if isinstance(of_it, str):
                raise InputError(of_it)
            return ["a card", ["2 steps", of_it * GIB, 8 * GIB]]

        def end(self):
            ended.append(self.gpu)

    monkeypatch.setattr(probes, "Child", Tried)
    yield found, started
    assert ended == started


def slots(*names):
    return [Slot(n, n[3] if n.startswith("gpu") else None, None) for n in names]


def test_a_gpu_without_room_for_its_workers_is_told_before_they_start(tried):
    found, started = tried
    found |= {"0": 3, "1": 5, "2": "out of memory: it does not fit"}
    lines = []
    of_three = slots("gpu0.0", "gpu0.1", "gpu1.0", "gpu1.1", "gpu2.0", "gpu2.1")
    with pytest.raises(InputError) as caught:
        check_room(of_three, [["--width=8"]], lines.append)
    assert caught.value.lines == [
        "gpu1: 2 steps took 5.0 of 8.0 GiB: there is room for 1 such training, not 2; "
        "--per_gpu=1 or less is possible",
        "gpu2: out of memory: it does not fit",
    ]
    assert lines == ["gpu0: 2 steps, with 3.0 of 8.0 GiB; room for 2"]
    assert started == ["0", "1", "2"]


def test_nothing_is_tried_where_nothing_is_shared_or_known(tried):
    _, started = tried
    check_room(slots("gpu0", "gpu1", "cpu.0", "cpu.1"), [["--width=8"]], print)
    check_room(slots("gpu0.0", "gpu0.1"), [], print)
    assert started == []


@pytest.mark.parametrize("pack", ["off", "1", "auto"])
def test_a_sweep_without_packs_asks_first(monkeypatch, tmp_path, pack):
    (tmp_path / "train.py").write_text("")
    file = tmp_path / "a.yaml"
    text = "{program: train.py, method: grid, parameters: {width: {value: 8}, lr: {value: 1}}}"
    file.write_text(text)
    asked = []

    def refuse(_, networks, __):
        asked.append(networks)
        raise InputError("no room")

    monkeypatch.setattr(room, "check_room", refuse)
    monkeypatch.setattr("lowrank.launch.sweeps.run.run_sweep", lambda *_, **__: 0)
    options = command.Sweep.read([str(file), "--gpus=none", f"--pack={pack}"])
    if pack == "auto":
        assert command.run(options) == 0
        assert asked == []
        return
    with pytest.raises(InputError, match="no room"):
        command.run(options)
    assert asked == [[["--width=8"]]]
