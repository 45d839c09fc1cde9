"""What a run ran on: commit, versions, device, command. Never a secret."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.common.secrets import redact, without_secrets

if TYPE_CHECKING:
    import torch

PACKAGES = ("lowrank", "torch", "torchvision", "numpy", "wandb")
DIFF_LIMIT = 256 * 1024
UNTRACKED_LIMIT = 200

_GIT_SECONDS = 5.0
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal")


def describe_environment(
    *,
    device: str | torch.device,
    threads: int | None,
    argv: Sequence[str],
    root: Path | None = None,
    variables: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Describes this process for the run record.

    Args:
        device: Where it computes, such as ``cpu`` or ``cuda:0``.
        threads: How many threads torch uses on the CPU.
        argv: The command line, ``sys.argv``.
        root: Where the code lies that runs; by default lowrank's own.
        variables: W&B's, of the run.

    Returns:
        JSON types under the names ``commit``, ``diff`` (of the working tree from the commit; empty
        if there is none), ``untracked``, ``versions``, ``device``, ``device_name``, ``threads``,
        ``cores``, ``command``, ``host``, ``os``, ``image``, ``sweep`` (W&B's) and ``started``; None
        where unknown.
    """
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    own = describe_command(argv, variables)
    return {
        **describe_code(root or Path(__file__).parents[2]),
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in PACKAGES},
        "device": str(device),
        "device_name": _device_name(device),
        "threads": threads,
        "cores": available_cores(),
        "command": own["command"],
        "host": platform.node(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "image": os.environ.get("WANDB_DOCKER") or None,
        "sweep": own["sweep"],
        "started": started,
    }


def describe_command(
    argv: Sequence[str], variables: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Describes what differs between runs of one process.

    Args:
        argv: The run's part of the command line.
        variables: W&B's, of the run.

    Returns:
        ``command`` and ``sweep``, as in `describe_environment`.
    """
    return {
        "command": redact(shlex.join(without_secrets(argv))),
        "sweep": wandb_sweep(variables),
    }


def trained_together(environment: Mapping[str, Any], run_id: str) -> list[str]:
    """Returns the ids of the runs that a process trained as one computation, in their order.

    Args:
        environment: Of the process, as a record holds it.
        run_id: Of the record's run.

    Returns:
        The run's own alone if it trained in no pack, or that is not known.

    Example:
        >>> trained_together({"pack": {"members": ["a", "b"]}}, "b"), trained_together({}, "b")
        (['a', 'b'], ['b'])
    """
    pack = environment.get("pack")
    members = pack.get("members") if isinstance(pack, Mapping) else None
    ids = [str(member) for member in members] if isinstance(members, list) else []
    return ids if run_id in ids and len(set(ids)) == len(ids) else [run_id]


def wandb_sweep(environ: Mapping[str, str] | None = None) -> str | None:
    """Returns the W&B sweep that this process runs a point of.

    Args:
        environ: The environment; None is this process's own.

    Returns:
        ENTITY/PROJECT/ID, or what of it W&B's agent has set; None outside a sweep.

    Example:
        >>> wandb_sweep({"WANDB_SWEEP_ID": "x", "WANDB_PROJECT": "ranks", "WANDB_ENTITY": "me"})
        'me/ranks/x'
    """
    environ = os.environ if environ is None else environ
    found = environ.get("WANDB_SWEEP_ID")
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        if not found or not environ.get(name):
            break
        found = f"{environ[name]}/{found}"
    return found or None


def program_root() -> Path:
    """Returns the checkout that the running program belongs to, else that of the present folder.

    Returns:
        The folder with ``.git``; the working directory where there is none, as in an image.
    """
    here = Path.cwd()
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    installed = [Path(sys.prefix).resolve(), Path(os.__file__).resolve().parent]  # as of jupyter
    starts = [Path(file).resolve().parent] if file else []
    starts = [s for s in starts if not any(s.is_relative_to(place) for place in installed)]
    for start in (*starts, here):
        for folder in (start, *start.parents):
            if (folder / ".git").exists():
                return folder
    return here


def describe_code(root: Path) -> dict[str, Any]:
    """Says which code runs.

    Args:
        root: Where the project lies.

    Returns:
        ``commit``, ``diff`` and ``untracked``, None where unknown. Where ``root`` is no git
        checkout, as in an image, or git refuses or takes too long, the commit is that of
        ``WANDB_GIT_COMMIT`` or ``LOWRANK_COMMIT``.
    """
    code: dict[str, Any] = {"commit": None, "diff": None, "untracked": None}
    told = os.environ.get("WANDB_GIT_COMMIT")
    if not (root / ".git").exists():
        return code | {"commit": told or os.environ.get("LOWRANK_COMMIT") or None}
    status = _git(root, *_STATUS)
    if status is None:
        # In an image, which has no git, the variable speaks of the image and not of a checkout.
        return code | {"commit": (told or None) if shutil.which("git") else None}
    entries = status.split("\0")
    commit = next(
        (e.removeprefix("# branch.oid ") for e in entries if e.startswith("# branch.oid ")), None
    )
    if commit is None or commit == "(initial)":
        return code
    untracked = [redact(entry[2:]) for entry in entries if entry.startswith("? ")]
    if len(untracked) > UNTRACKED_LIMIT:
        rest = len(untracked) - UNTRACKED_LIMIT
        untracked = [*untracked[:UNTRACKED_LIMIT], f"… and {rest} more"]
    changed = any(entry.startswith(("1 ", "2 ", "u ")) for entry in entries)
    diff = _git(root, "diff", "--no-ext-diff", "--no-textconv", "HEAD") if changed else ""
    if diff is not None:
        left_out = len(diff) - DIFF_LIMIT
        diff = redact(diff[: 2 * DIFF_LIMIT])[:DIFF_LIMIT]  # a secret is not cut before it is seen
        if left_out > 0:
            diff += f"\n[about {left_out} more characters of the diff were left out]\n"
    return {"commit": commit, "diff": diff, "untracked": untracked}


def _git(root: Path, *arguments: str) -> str | None:
    """Returns what git says; None if it is missing, fails or takes too long."""
    return _ask_git(root, *arguments)[0]


def git_refusal(root: Path) -> str:
    """Says why git tells nothing of a checkout, such as that it belongs to another user.

    Args:
        root: Where the project lies.

    Returns:
        The reason, a line; empty if git answers, or there is no checkout.
    """
    return _ask_git(root, *_STATUS)[1] if (root / ".git").exists() else ""


def _ask_git(root: Path, *arguments: str) -> tuple[str | None, str]:
    """Returns what git says, or None and why it says nothing."""
    # A hook's GIT_DIR would point elsewhere; without optional locks a rebase is not disturbed.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None, f"it took more than {_GIT_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return None, lines[0] if lines else f"exit code {error.returncode}"
    except OSError as error:
        return None, str(error.strerror)
    return done.stdout.decode(errors="replace"), ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_name(device: str | torch.device) -> str:
    if str(device).startswith("cuda"):
        import torch  # loaded already by whoever chose a GPU

        return torch.cuda.get_device_name(device)
    return _processor()


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def named_gpus(environ: Mapping[str, str]) -> str:
    """Returns what ``CUDA_VISIBLE_DEVICES`` names; empty if it is not set or hides all GPUs.

    Args:
        environ: The environment.

    Example:
        >>> named_gpus({"CUDA_VISIBLE_DEVICES": "1,0"}), named_gpus({"CUDA_VISIBLE_DEVICES": "-1"})
        ('1,0', '')
    """
    named = environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return "" if named in ("-1", "NoDevFiles") else named


def available_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
