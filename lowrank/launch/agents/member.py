"""What a W&B agent starts for a point of a pack: it hands the point over and waits for its end.

The process that trains (`lowrank.launch.agents.pack`) gets this one's arguments and W&B's
variables; what it prints of the run is printed here, SIGINT and SIGTERM end this run and not the
others, and so does the death of this process. This file is started by its path and needs nothing
of the package: it is there in a moment and takes no memory to speak of.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

_SECRET = "WANDB_API_KEY"  # the process that trains has its own


def main(argv: Sequence[str]) -> int:
    """Lets a point be trained.

    Args:
        argv: The path of the pack's socket, the program and its arguments.

    Returns:
        The run's exit code; 1 if the process that trains has died.
    """
    address, program, *arguments = argv
    pack = socket.socket(socket.AF_UNIX)

    def send(**what: Any) -> None:
        with contextlib.suppress(OSError):  # that it is gone is seen below
            pack.sendall(json.dumps(what).encode() + b"\n")

    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("WANDB_") and name != _SECRET
    }
    try:
        pack.connect(address)
        send(program=program, arguments=arguments, variables=variables)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: send(signal=number))
        for line in pack.makefile("r", encoding="utf-8"):
            answer = json.loads(line)
            if "code" in answer:
                return int(answer["code"])
            with contextlib.suppress(OSError):  # a full disk does not end a training
                print(answer["text"], flush=True)
    except (OSError, ValueError):  # a line that was cut off
        pass
    print(
        "the process that trained this run's pack has died; the run goes on from its checkpoint",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
