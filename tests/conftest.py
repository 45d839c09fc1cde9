"""Every test starts without an account, without the caller's settings and away from her files."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.wandb_server import WandbServer

# Tests fork processes and share two cores: no test waits for a pool of threads.
torch.set_num_threads(1)

# Who starts the tests in the background of a script lets them inherit that Ctrl-C is ignored.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def drop_variables() -> None:
    """Drops W&B's and our variables, also those that the client set in this process itself."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "LOWRANK_")):
            del os.environ[name]


drop_variables()  # the caller's: a fixture of a module runs before those of its first test


@pytest.fixture(autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives W&B an empty home, which is the fixture, and leaves no variable of its client."""
    home = tmp_path_factory.mktemp("home")
    # Not the fixture ``monkeypatch``, which a test's own use would keep open beyond this one's end:
    # it would put back what the client had set meanwhile.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
            patch.setenv(f"WANDB_{name}_DIR", str(home / name.lower()))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("WANDB_SILENT", "true")
        yield home
        if "wandb" in sys.modules:  # its service keeps the environment of its first use
            sys.modules["wandb"].teardown()
    drop_variables()


@pytest.fixture
def wandb_server(
    request: pytest.FixtureRequest, clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WandbServer]:
    """A W&B server that the client uses, here and in processes that the test starts.

    Parametrised with True it drops what it holds of a run that is begun a second time.
    """
    drops = getattr(request, "param", False)
    server = WandbServer(clean_environment / "server", drops=drops)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()
    assert server.errors == []
