"""What the preflight finds out in short-lived processes of its own.

So the launcher, which may live for weeks, loads neither torch nor wandb, each GPU is seen with its
slot's environment, and what hangs can be ended.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from lowrank.common.client import prepare_client
from lowrank.common.errors import InputError, first_line, refuse
from lowrank.common.texts import ID
from lowrank.launch.slots import Slot
from lowrank.launch.trial import Trial, take_steps

_PROGRAM = """
import json, sys
call = json.load(sys.stdin)
sys.path = call.pop("path")
from lowrank.launch.agents.probes import answer
answer(int(sys.argv[1]), **call)
"""


class DataSet(NamedTuple):
    """A data set as `lowrank.data.load_dataset` wants it."""

    name: str
    data_dir: str
    download: bool
    image_size: int | None


class Sweep(NamedTuple):
    """A sweep on the server.

    Attributes:
        path: ENTITY/PROJECT/SWEEP.
        state: Such as RUNNING.
        config: The sweep file.
        user: Whom the API key belongs to.
    """

    path: str
    state: str
    config: dict[str, Any]
    user: str


class Child:
    """A function at work in a process of its own.

    Arguments and result cross as JSON, not pickled: part of a result comes from a server. Tuples,
    named or not, arrive as lists, and dates as texts.

    Args:
        function: Of a module.
        *arguments: Of JSON's kinds, as is what the function returns.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._here, there = Pipe(duplex=False)
        # multiprocessing would leave a process of its own beside the launcher until that ends.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(there.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[there.fileno()],
            text=True,
        )
        there.close()
        assert self._process.stdin is not None
        call = {
            "path": sys.path,
            "module": function.__module__,
            "name": function.__qualname__,
            "arguments": arguments,
        }
        with contextlib.suppress(BrokenPipeError), self._process.stdin as given:
            json.dump(call, given)

    def result(self, seconds: float) -> Any:
        """Waits for the result; afterwards the process is gone.

        Args:
            seconds: How long it may take.

        Returns:
            What the function returns.

        Raises:
            InputError: What the function raises; or that it took too long or its process died.
        """
        try:
            if not self._here.poll(seconds):
                raise InputError(f"no answer within {seconds:.0f} s")
            lines, result = json.loads(self._here.recv_bytes())
        except EOFError:
            code = self._process.wait()
            raise InputError(f"its process died with exit code {code}") from None
        finally:
            self.end()
        refuse(lines)
        return result

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._here.close()


def in_child(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process of its own.

    Args:
        seconds: How long it may take.
        function: Of a module.
        *arguments: As `Child` takes them.

    Returns:
        What `Child.result` returns.
    """
    return Child(function, *arguments).result(seconds)


def answer(descriptor: int, module: str, name: str, arguments: Sequence[Any]) -> None:
    """Calls a function for `Child`, and sends back what comes of it.

    Args:
        descriptor: Of the pipe back.
        module: Where the function is.
        name: Of the function.
        arguments: Of the function.
    """
    try:
        result = getattr(importlib.import_module(module), name)(*arguments)
        reply = json.dumps(([], result), default=str)
    except InputError as error:
        reply = json.dumps((error.lines, None))
    except Exception as error:  # whatever it is, agents would meet it too
        reply = json.dumps(([f"{type(error).__name__}: {error}".splitlines()[0]], None))
    Connection(descriptor, readable=False).send_bytes(reply.encode())


def see_device(environment: Mapping[str, str]) -> str:
    """Loads what a training needs, and uses the slot's GPU.

    Args:
        environment: The slot's.

    Returns:
        What was seen.

    Raises:
        InputError: If torch does not see the GPU.
    """
    os.environ.update(environment)
    import torch
    import wandb  # noqa: F401  # that it can be imported is what is found out

    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "wandb")]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return ", ".join(versions)
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        raise InputError(
            f"torch {torch.__version__} does not see it (CUDA_VISIBLE_DEVICES={visible}); it "
            f"{built}: compare with the driver's version in nvidia-smi, or use --gpus=none"
        )
    torch.zeros(1, device="cuda")
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    return f"{torch.cuda.get_device_name()}, {free:.0f} of {total:.0f} GiB free"


def try_device(
    environment: Mapping[str, str], networks: Sequence[Sequence[str]]
) -> tuple[str, Trial | None]:
    """Sees a device as `see_device` does, and trains two steps there.

    Args:
        environment: The slot's.
        networks: As `lowrank.launch.trial.take_steps` takes them; none: nothing is trained.

    Returns:
        What was seen, and what came of the steps.
    """
    seen = see_device(environment)
    return seen, take_steps(environment, networks) if networks else None


@contextlib.contextmanager
def trying(slots: Iterable[Slot], networks: Sequence[Sequence[str]]) -> Iterator[dict[Slot, Child]]:
    """Tries the devices of some slots at once, as `try_device` does.

    Args:
        slots: One on each device.
        networks: As `try_device` takes them.

    Yields:
        What gives the result of each, by slot.
    """
    children = {slot: Child(try_device, slot.environment(), networks) for slot in slots}
    try:
        yield children
    finally:
        for child in children.values():
            child.end()


def ask_wandb(path: str) -> Sweep:
    """Asks the server who we are and what the sweep is.

    Args:
        path: ENTITY/PROJECT/SWEEP, PROJECT/SWEEP or SWEEP.

    Returns:
        The sweep.

    Raises:
        InputError: If the client does not take its variables, the key or the sweep is not valid, or
            the server cannot be reached.
    """
    own = {"WANDB_SILENT": os.environ["WANDB_SILENT"]} if "WANDB_SILENT" in os.environ else {}
    os.environ["WANDB_SILENT"] = "true"
    prepare_client(own)
    import wandb

    from lowrank.config import Config
    from lowrank.launch.agents.agent import refusal
    from lowrank.tracking.account import find_api_key

    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in ("online", "run"):
        raise InputError(f"key: WANDB_MODE={mode} keeps every run from the server; unset it")
    remedy = "`wandb login` or WANDB_API_KEY configures one"
    try:
        host, is_configured = find_api_key()
    except wandb.Error as error:
        raise InputError(f"key: {first_line(error)}; {remedy}") from error
    if not is_configured:
        raise InputError(f"key: there is no API key for {host}; {remedy}")
    try:
        api = wandb.Api(timeout=20)
        user = api.viewer.username
    except Exception as error:  # wandb's own errors and those of pydantic and sockets
        raise InputError(
            f"key: {host} does not accept it or does not answer ({first_line(error)}): check the "
            "key, WANDB_BASE_URL and the connection"
        ) from error
    if path.count("/") == 0 and not api.settings["project"]:
        path = f"{Config.model_fields['project'].default}/{path}"
    try:
        sweep = api.sweep(path)  # type: ignore[no-untyped-call]
        found = Sweep(
            f"{sweep.entity}/{sweep.project}/{sweep.id}", sweep.state, dict(sweep.config), user
        )
    except Exception as error:
        raise InputError(
            f"sweep: {host} has no sweep {path} for {user} ({first_line(error)}): "
            "`wandb sweep FILE` prints the path of a new one"
        ) from error
    if not re.fullmatch(ID, str(sweep.id)):  # it names a folder of logs
        raise InputError(f"sweep: the server's id is {sweep.id!r}; allowed: letters, digits, _, -")
    program = found.config.get("program")
    if program and (reason := refusal(program, found.config.get("command") or [])):
        raise InputError(f"sweep: {reason}")
    return found


def load_data(wanted: Sequence[DataSet]) -> list[str]:
    """Loads data sets, downloading what is missing, once for all agents.

    Args:
        wanted: Which.

    Returns:
        A line for each.

    Raises:
        InputError: With the lines of all that cannot be loaded.
    """
    from lowrank.data import describe, load_dataset

    found, lines = [], []
    for name, data_dir, download, image_size in wanted:
        try:
            dataset = load_dataset(
                name, data_dir=data_dir, download=download, image_size=image_size
            )
            found.append(describe(dataset).splitlines()[0])
        except InputError as error:
            lines += error.lines
    refuse(lines)
    return found
