"""``python -m tests.wandb_server --port=0 --state=DIRECTORY``: the server as a process."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from tests.wandb_server.server import WandbServer


def main() -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--state", type=Path, required=True, help="directory, kept for a restart")
    arguments = parser.parse_args()
    server = WandbServer(arguments.state, arguments.port)
    print(server.url, flush=True)
    try:
        threading.Event().wait()
    finally:
        server.close()


if __name__ == "__main__":
    main()
