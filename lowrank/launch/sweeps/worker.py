"""A warm process: it loads everything once and trains one point after another.

Run as ``python -m lowrank.launch.sweeps.worker REQUESTS REPLIES PROGRAM``, the first two being file
descriptors. Each request is a line of JSON, ``{"argv": [...], "log": FILE}``; the reply is
``{"code": CODE, "error": TEXT, "spent": BOOL, "memory": BOOL}``, where a spent process should be
replaced and memory says that it ran out. ``{"estimate": {KIND: [...]}, "sharing": N}`` asks how
many runs with such arguments fit into memory as one, of which N processes have a part; the reply is
``{"members": {KIND: NUMBER}}``. The process ends when the requests end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.common import program
from lowrank.common.errors import Failure, InputError, is_out_of_memory
from lowrank.config import Config
from lowrank.launch.programs import load_program
from lowrank.launch.warm import settle, warm_up


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> dict[str, Any]:
    """Trains one point.

    Args:
        main: Of the program.
        argv: Its arguments.

    Returns:
        The reply.
    """
    error, program.memory_ran_out = "", False
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception as failure:
        traceback.print_exc()
        code, error = 1, f"{type(failure).__name__}: {failure}".splitlines()[0]
        program.memory_ran_out = is_out_of_memory(failure)
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    import torch

    on_gpu = torch.cuda.is_initialized()
    if on_gpu and code == 0:
        torch.cuda.empty_cache()
    # After an error a GPU's context may be broken for good, and memory in pieces.
    spent = program.memory_ran_out or (on_gpu and code != 0)
    return {"code": code, "error": error, "spent": spent, "memory": program.memory_ran_out}


def estimate(kinds: Mapping[str, Sequence[str]], sharing: int) -> dict[str, Any]:
    """Estimates how many runs fit into memory as one pack.

    Args:
        kinds: The arguments of one of the runs, by kind.
        sharing: Processes that share the memory.

    Returns:
        The reply. What cannot be built trains alone, and then says why.
    """
    from lowrank.config.arguments import parse
    from lowrank.training.memory import most_members

    members = {}
    for kind, argv in kinds.items():
        members[kind] = 1
        with contextlib.suppress(InputError, Failure):
            config = parse(argv, settle=Config.model_fields)
            members[kind] = most_members(config, sharing=sharing)
    return {"members": members}


def serve(requests: int, replies: int, path: Path) -> None:
    """Trains what is asked for until nobody asks any more.

    Args:
        requests: File descriptor to read from.
        replies: File descriptor to write to.
        path: Of the training program.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with os.fdopen(replies, "w") as answer, os.fdopen(requests) as questions:

        def reply(message: dict[str, Any]) -> None:
            print(json.dumps(message), file=answer, flush=True)

        try:
            main = load_program(path)
            wrong = warm_up()
        except ImportError as error:
            reply({"broken": str(error)})
            return
        reply({"ready": os.getpid(), "wrong": wrong})
        for number, line in enumerate(questions):
            request = json.loads(line)
            if "estimate" in request:
                reply(estimate(request["estimate"], request["sharing"]))
                continue
            _write_to(request["log"])
            answered = run(main, request["argv"])
            if number == 0:
                settle()  # what only a run loads
            reply(answered)


def _write_to(log: str) -> None:
    """Sends standard output and error to the end of a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
