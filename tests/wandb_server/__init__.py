"""A W&B server for tests: what the real client 0.31 needs, on the loopback interface.

In a test, the fixture ``wandb_server`` starts a `WandbServer` and points the client to it. As a
process of its own, which a test may kill and start again on the same port and state::

    python -m tests.wandb_server --port=0 --state=DIRECTORY

It prints its address. ``State(DIRECTORY)`` reads what it holds.
"""

from tests.wandb_server.http import API_KEY
from tests.wandb_server.server import WandbServer
from tests.wandb_server.state import Agent, Artifact, Run, State, Sweep

__all__ = ["API_KEY", "Agent", "Artifact", "Run", "State", "Sweep", "WandbServer"]
