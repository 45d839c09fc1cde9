"""Slots against a stand-in for NVML: no GPU can exist where these tests run.

The stand-in answers as the driver does: numbered GPUs with UUIDs, of which some are divided by
MIG, with gaps between the instances. The CPU's part is checked against this machine's cores.
"""

from __future__ import annotations

import sys
import types

import pytest

from lowrank.common.errors import InputError
from lowrank.launch import slots
from lowrank.launch.slots import find_slots
from lowrank.runs.environment import available_cores


class NVMLError(Exception):
    """The stand-in's error."""


def uuid(index):
    return f"GPU-{index:08x}-aaaa"


def stand_in(count, *, mig=None, init_error=None):
    """Returns a pynvml of ``count`` GPUs; ``mig`` maps a number to its places, None is a gap."""
    mig = mig or {}

    def init():
        if init_error:
            raise NVMLError(init_error)

    def mig_mode(handle):
        if handle == 0 and 0 not in mig:
            raise NVMLError("Not Supported")
        return (int(handle in mig), int(handle in mig))

    def mig_device(handle, place):
        if mig[handle][place] is None:
            raise NVMLError("Not Found")
        return mig[handle][place]

    nvml = types.ModuleType("pynvml")
    nvml.__dict__.update(
        NVMLError=NVMLError,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: handle if isinstance(handle, str) else uuid(handle),
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: len(mig[handle]),
        nvmlDeviceGetMigDeviceHandleByIndex=mig_device,
    )
    return nvml


@pytest.fixture
def gpus(monkeypatch):
    def install(count, **more):
        monkeypatch.setitem(sys.modules, "pynvml", stand_in(count, **more))

    return install


@pytest.fixture
def no_gpu(gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(slots, "_DRIVER", tmp_path / "none")
    gpus(0, init_error="NVML Shared Library Not Found")


def names(found):
    return [slot.name for slot in found]


def test_every_gpu_is_a_slot(gpus):
    gpus(3)
    found = find_slots("all", environ={})
    assert names(found) == ["gpu0", "gpu1", "gpu2"]
    assert [s.environment()["CUDA_VISIBLE_DEVICES"] for s in found] == ["0", "1", "2"]
    assert {s.environment()["CUDA_DEVICE_ORDER"] for s in found} == {"PCI_BUS_ID"}


def test_several_slots_share_a_gpu_and_the_cores(gpus, monkeypatch):
    monkeypatch.setattr(slots, "available_cores", lambda: 13)
    gpus(2)
    found = find_slots("all", per_gpu=2, environ={})
    assert names(found) == ["gpu0.0", "gpu0.1", "gpu1.0", "gpu1.1"]
    assert [s.visible for s in found] == ["0", "0", "1", "1"]
    assert {s.threads for s in found} == {3}


def test_more_slots_than_cores_leave_each_a_thread(gpus, monkeypatch):
    monkeypatch.setattr(slots, "available_cores", lambda: 1)
    gpus(4)
    assert {s.threads for s in find_slots("all", environ={})} == {1}


@pytest.mark.parametrize("chosen", ["2,0", f"{uuid(2)},{uuid(0)}", "2, 0, 2"])
def test_chosen_gpus_come_in_their_order_and_once(gpus, chosen):
    gpus(3)
    assert names(find_slots(chosen, environ={})) == ["gpu2", "gpu0"]


@pytest.mark.parametrize("asked", ["0mig0", "0mig", "mig0"])
def test_an_instance_of_a_gpu_that_has_none_is_no_gpu(gpus, asked):
    gpus(1)
    with pytest.raises(InputError, match=f"there is no GPU '{asked}' to use; there are: 0"):
        find_slots(asked, environ={})


def test_every_missing_gpu_is_named_with_those_that_are_there(gpus):
    gpus(2)
    with pytest.raises(InputError) as caught:
        find_slots("0,7,x", environ={})
    assert caught.value.lines == [
        "gpus: there is no GPU '7' to use; there are: 0, 1",
        "gpus: there is no GPU 'x' to use; there are: 0, 1",
    ]


def test_visible_devices_of_slurm_are_all_there_is(gpus):
    gpus(4)
    environ = {"CUDA_VISIBLE_DEVICES": "2,3"}
    found = find_slots("all", environ=environ)
    assert [(s.name, s.visible) for s in found] == [("gpu2", "2"), ("gpu3", "3")]
    # Whose numbers these are, CUDA's or the bus's, the caller's environment decides.
    assert "CUDA_DEVICE_ORDER" not in found[0].environment()
    assert names(find_slots("3", environ=environ)) == ["gpu3"]
    with pytest.raises(InputError, match="no GPU '0' to use; there are: 2, 3"):
        find_slots("0", environ=environ)


def test_visible_devices_may_be_uuids_also_shortened(gpus):
    gpus(3)
    entry = uuid(1)[:-5]
    (found,) = find_slots("all", environ={"CUDA_VISIBLE_DEVICES": entry})
    assert (found.name, found.visible) == ("gpu1", entry)
    assert names(find_slots("1", environ={"CUDA_VISIBLE_DEVICES": entry})) == ["gpu1"]


def test_nothing_behind_an_invalid_visible_device_is_seen(gpus):
    gpus(3)
    assert names(find_slots("all", environ={"CUDA_VISIBLE_DEVICES": "1,-1,2"})) == ["gpu1"]


@pytest.mark.parametrize("nothing", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_no_gpus(gpus, nothing):
    gpus(2)
    environ = {"CUDA_VISIBLE_DEVICES": nothing}
    assert names(find_slots("auto", environ=environ)) == ["cpu.0"]
    with pytest.raises(InputError, match="there is no GPU here to use; --gpus=none"):
        find_slots("all", environ=environ)


@pytest.mark.parametrize("count", [2, 0])
@pytest.mark.parametrize("asked", ["auto", "all", "0"])
def test_visible_devices_that_name_none_here_are_refused(gpus, count, asked):
    gpus(count)
    there = "0, 1" if count else "none"
    with pytest.raises(InputError, match=f"CUDA_VISIBLE_DEVICES=7 names no GPU here.*: {there};"):
        find_slots(asked, environ={"CUDA_VISIBLE_DEVICES": "7"})
    assert names(find_slots("none", environ={"CUDA_VISIBLE_DEVICES": "7"})) == ["cpu.0"]


def test_a_divided_gpu_is_as_many_as_it_has_instances(gpus):
    gpus(3, mig={1: ["MIG-a", None, "MIG-b"]})
    found = find_slots("all", environ={})
    assert [(s.name, s.visible) for s in found] == [
        ("gpu0", "0"),
        ("gpu1mig0", "MIG-a"),
        ("gpu1mig1", "MIG-b"),
        ("gpu2", "2"),
    ]
    assert names(find_slots("1", environ={})) == ["gpu1mig0", "gpu1mig1"]
    for one in ("MIG-b", "1mig1"):
        assert names(find_slots(one, environ={})) == ["gpu1mig1"]
    with pytest.raises(InputError, match="there are: 0, 1mig0, 1mig1, 2") as caught:
        find_slots("7", environ={})
    told = str(caught.value).rpartition("there are: ")[2].split(", ")
    assert names(find_slots(",".join(told), environ={})) == names(found)  # as they are told
    environ = {"CUDA_VISIBLE_DEVICES": "MIG-b"}
    assert [s.visible for s in find_slots("auto", environ=environ)] == ["MIG-b"]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_cores_are_divided(monkeypatch):
    monkeypatch.setattr(slots, "available_cores", lambda: 7)
    found = find_slots("auto", per_gpu=3, environ={})
    assert names(found) == ["cpu.0", "cpu.1", "cpu.2"]
    assert found[1].environment() == {
        "CUDA_VISIBLE_DEVICES": "",
        "LOWRANK_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    }


@pytest.mark.usefixtures("no_gpu")
def test_one_slot_keeps_all_cores():
    (slot,) = find_slots(environ={})
    assert slot.environment() == {"CUDA_VISIBLE_DEVICES": ""}


def test_the_cpu_can_be_asked_for_where_gpus_are(gpus):
    gpus(2)
    (slot,) = find_slots("none", environ={})
    assert (slot.name, slot.environment()["CUDA_VISIBLE_DEVICES"]) == ("cpu.0", "")


@pytest.mark.usefixtures("no_gpu")
def test_more_slots_than_cores_are_refused():
    cores = available_cores()
    with pytest.raises(InputError, match=f"got {cores + 1}, .* allowed: 1 to {cores}"):
        find_slots("auto", per_gpu=cores + 1, environ={})


@pytest.mark.parametrize("gpus_asked", ["all", "0"])
@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_asked_for_where_there_is_none_is_an_error(gpus_asked):
    with pytest.raises(InputError, match=r"no GPU .*; --gpus=none uses the CPU"):
        find_slots(gpus_asked, environ={})


def test_bad_values_are_reported_together():
    with pytest.raises(InputError) as caught:
        find_slots("0,,1", per_gpu=0)
    assert caught.value.lines == [
        "per_gpu: got 0; allowed: 1 or more",
        "gpus: got '0,,1'; allowed: auto, all, none, or numbers such as 0,1",
    ]


def test_a_driver_that_does_not_answer_is_no_cpu_machine(gpus, monkeypatch, tmp_path):
    (tmp_path / "version").touch()
    monkeypatch.setattr(slots, "_DRIVER", tmp_path / "version")
    gpus(0, init_error="Driver/library version mismatch")
    with pytest.raises(InputError, match=r"does not answer .Driver/library version mismatch"):
        find_slots("auto", environ={})


def test_a_driver_that_fails_later_is_told(gpus):
    gpus(1)

    def lost(_):
        raise NVMLError("GPU is lost")

    sys.modules["pynvml"].nvmlDeviceGetHandleByIndex = lost
    with pytest.raises(InputError, match=r"the NVIDIA driver fails .GPU is lost"):
        find_slots("auto", environ={})


def test_the_real_library_is_asked():
    # Where these tests run there may be a GPU; what matters is that the real calls exist.
    assert find_slots("auto")
