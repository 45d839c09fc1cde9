"""What runs where: one slot per GPU, or a share of the cores. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import printable
from lowrank.runs.environment import available_cores, named_gpus

ALLOWED = "auto, all, none, or numbers such as 0,1"
"""What ``gpus`` may be, for messages."""

_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Slot:
    """A place where one training runs at a time.

    Attributes:
        name: ``gpu0``, or ``gpu0.1`` where a GPU has several; ``gpu0mig2`` for a MIG instance;
            ``cpu.0``.
        visible: The GPU as ``CUDA_VISIBLE_DEVICES`` names it; None on the CPU.
        threads: Its share of the cores; None if it has them all.
        by_number: Whether ``visible`` counts the GPUs in the order of their bus, as nvidia-smi
            does, and not in CUDA's own.
    """

    name: str
    visible: str | None
    threads: int | None
    by_number: bool = False

    def environment(self) -> dict[str, str]:
        """Returns the environment variables that hold a process to this slot.

        ``LOWRANK_THREADS`` is the weakest source of configuration: a sweep's own ``threads`` wins.

        Example:
            >>> Slot("cpu.0", None, 4).environment()["LOWRANK_THREADS"]
            '4'
            >>> Slot("gpu1", "1", None, by_number=True).environment()
            {'CUDA_VISIBLE_DEVICES': '1', 'CUDA_DEVICE_ORDER': 'PCI_BUS_ID'}
        """
        variables = {"CUDA_VISIBLE_DEVICES": self.visible or ""}
        if self.by_number:
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        if self.threads is not None:
            names = ("LOWRANK_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
            variables |= dict.fromkeys(names, str(self.threads))
        return variables


@dataclass(frozen=True)
class _Gpu:
    """A GPU or a MIG instance.

    Attributes:
        name: ``gpu0`` or ``gpu0mig2``.
        visible: As ``CUDA_VISIBLE_DEVICES`` names it.
        answers_to: What ``--gpus`` may call it.
        by_number: As in `Slot`.
    """

    name: str
    visible: str
    answers_to: tuple[str, ...]
    by_number: bool = False


def find_slots(
    gpus: str = "auto", per_gpu: int = 1, environ: Mapping[str, str] | None = None
) -> list[Slot]:
    """Finds out what this machine has, and divides it.

    A ``CUDA_VISIBLE_DEVICES`` that is set already, as SLURM does, is respected: only its GPUs
    exist. A GPU that is divided by MIG is as many GPUs as it has instances.

    Args:
        gpus: ``auto``: all GPUs, and the CPU where there is none. ``all``: all GPUs. ``none``: the
            CPU. Otherwise numbers as nvidia-smi shows them (those that ``CUDA_VISIBLE_DEVICES``
            holds, if it is set), or UUIDs, with commas.
        per_gpu: Slots on each GPU; on the CPU slots in all, among which the cores are divided.
        environ: The environment; None is this process's own.

    Returns:
        The slots, those of one GPU beside each other.

    Raises:
        InputError: If a GPU is asked for that is not there, a number is impossible, or there are
            fewer cores than slots on the CPU.
    """
    environ = os.environ if environ is None else environ
    wanted = [word.strip() for word in gpus.split(",")]
    lines = []
    if per_gpu < 1:
        lines.append(f"per_gpu: got {per_gpu}; allowed: 1 or more")
    if not all(wanted):
        lines.append(f"gpus: got '{printable(gpus)}'; allowed: {ALLOWED}")
    refuse(lines)
    found = [] if gpus == "none" else _visible_gpus(environ)
    if not found and gpus in ("auto", "none"):
        return _cpu_slots(per_gpu)
    chosen = found if gpus in ("auto", "all") else _choose(wanted, found)
    if not chosen:
        raise InputError("gpus: there is no GPU here to use; --gpus=none uses the CPU")
    count = len(chosen) * per_gpu
    threads = None if count == 1 else max(1, available_cores() // count)
    return [
        Slot(gpu.name + (f".{i}" if per_gpu > 1 else ""), gpu.visible, threads, gpu.by_number)
        for gpu in chosen
        for i in range(per_gpu)
    ]


def _cpu_slots(count: int) -> list[Slot]:
    """Divides the cores.

    Returns:
        The slots.

    Raises:
        InputError: If there are fewer cores than slots.
    """
    cores = available_cores()
    if count > cores:
        raise InputError(
            f"per_gpu: got {count}, but without a GPU there are {cores} cores to divide; "
            f"allowed: 1 to {cores}"
        )
    threads = None if count == 1 else cores // count
    return [Slot(f"cpu.{i}", None, threads) for i in range(count)]


def _choose(wanted: list[str], found: list[_Gpu]) -> list[_Gpu]:
    """Returns the GPUs that were asked for, in that order, each once.

    Raises:
        InputError: With a line for each that is not there.
    """
    there = ", ".join(gpu.name.removeprefix("gpu") for gpu in found)
    known = f"there are: {there}" if found else "there is no GPU here; --gpus=none uses the CPU"
    chosen: dict[_Gpu, None] = {}
    lines = []
    for word in wanted:
        matches = [gpu for gpu in found if word in (*gpu.answers_to, gpu.name.removeprefix("gpu"))]
        chosen |= dict.fromkeys(matches)
        if not matches:
            lines.append(f"gpus: there is no GPU '{printable(word)}' to use; {known}")
    refuse(lines)
    return list(chosen)


def _visible_gpus(environ: Mapping[str, str]) -> list[_Gpu]:
    """Returns the machine's GPUs that this process may use.

    Raises:
        InputError: If ``CUDA_VISIBLE_DEVICES`` names none of them.
    """
    allowed = named_gpus(environ)
    if not allowed:
        return [] if "CUDA_VISIBLE_DEVICES" in environ else _machine_gpus()
    machine = _machine_gpus()
    in_order = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    visible = []
    for entry in (word.strip() for word in allowed.split(",")):
        gpu = next((gpu for gpu in machine if _is_named(gpu, entry)), None)
        if gpu is None:  # as CUDA does, which sees nothing behind the first that is not there
            break
        name = f"gpu{entry}" if entry.isdigit() else gpu.name
        # In CUDA's own order number 1 may be another GPU than nvidia-smi's: it is passed on.
        answers = gpu.answers_to if in_order or not entry.isdigit() else (entry,)
        visible.append(_Gpu(name, entry, answers))
    if not visible:  # a sweep must not slip to the CPU
        there = ", ".join(gpu.name.removeprefix("gpu") for gpu in machine) or "none"
        raise InputError(
            f"gpus: CUDA_VISIBLE_DEVICES={printable(allowed, 200)} names no GPU here; there are: "
            f"{there}; unset it, or --gpus=none uses the CPU"
        )
    return visible


def _is_named(gpu: _Gpu, entry: str) -> bool:
    """Returns whether an entry of ``CUDA_VISIBLE_DEVICES``, maybe a UUID's start, means a GPU."""
    return entry in gpu.answers_to or (
        entry.startswith(("GPU-", "MIG-")) and any(a.startswith(entry) for a in gpu.answers_to)
    )


def _machine_gpus() -> list[_Gpu]:
    """Asks the driver, through NVML, for all GPUs and MIG instances.

    Returns:
        Them, in the order of nvidia-smi.

    Raises:
        InputError: If there is a driver that does not answer: a sweep must not slip to the CPU.
    """
    with _nvml() as nvml:
        if nvml is None:
            return []
        gpus = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            instances = _mig_instances(nvml, handle)
            if instances is None:
                answers = (str(index), uuid)
                gpus.append(_Gpu(f"gpu{index}", str(index), answers, by_number=True))
            else:
                gpus += [
                    _Gpu(f"gpu{index}mig{i}", instance, (str(index), uuid, instance))
                    for i, instance in enumerate(instances)
                ]
        return gpus


def _mig_instances(nvml: Any, handle: Any) -> list[str] | None:
    """Returns the UUIDs of a GPU's MIG instances; None if it is not divided."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # an older GPU
        return None
    if current != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    uuids = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:  # no instance at this place
            continue
        uuids.append(_text(nvml.nvmlDeviceGetUUID(instance)))
    return uuids


@contextmanager
def _nvml() -> Iterator[Any]:
    """Opens NVML.

    Yields:
        The module; None where there is no driver.

    Raises:
        InputError: If the driver does not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if not _DRIVER.exists():
            yield None
            return
        raise InputError(
            f"gpus: the NVIDIA driver does not answer ({error}): does nvidia-smi work here? "
            "--gpus=none uses the CPU"
        ) from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise InputError(f"gpus: the NVIDIA driver fails ({error}): see nvidia-smi") from error
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
