"""The server of a test, and what a test asks of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.wandb_server.faults import Fault
from tests.wandb_server.http import API_KEY, Listener
from tests.wandb_server.state import Agent, Artifact, Run, State, Sweep, View


class WandbServer:
    """A W&B server on the loopback interface, in threads of this process.

    Args:
        directory: Where its state is kept; that of an earlier server is taken up.
        port: The port; 0 takes a free one.
        drops: Whether a client that begins a run of a known id, and does not resume it, begins it
            anew: W&B documents that. Otherwise its rows follow those that are there.

    Attributes:
        state: All that it holds.
        url: Its address.
    """

    def __init__(self, directory: Path, port: int = 0, *, drops: bool = False) -> None:
        self.state = State(directory, drops=drops)
        self._listener = Listener(port, self.state)
        self.port: int = self._listener.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = self._serve()

    def _serve(self) -> threading.Thread:
        thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stops serving."""
        for fault in self._listener.faults:
            fault.over.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.close_connections()
        self._listener.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the W&B client use this server."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ERROR_REPORTING": "false",
            # Seconds between two file_stream requests, instead of 15.
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.5",
        }

    # What arrived

    def run(self, run_id: str) -> Run:
        """Returns a run."""
        return self.state.run(run_id)

    @property
    def runs(self) -> list[Run]:
        """All runs in the order of their creation."""
        return list(self.state.runs.values())

    @property
    def sweeps(self) -> list[Sweep]:
        """All sweeps in the order of their creation."""
        return list(self.state.sweeps.values())

    @property
    def agents(self) -> list[Agent]:
        """All agents in the order of their creation."""
        return list(self.state.agents.values())

    @property
    def views(self) -> list[View]:
        """All saved views in the order of their creation."""
        return list(self.state.views.values())

    def runs_of(self, sweep_id: str) -> list[Run]:
        """Returns the runs of a sweep in the order of their creation."""
        return self.state.runs_of(self.state.sweeps[sweep_id])

    def artifacts(self, run_id: str) -> list[Artifact]:
        """Returns the committed artifacts that a run logged, oldest first."""
        return self.state.artifacts_of(self.run(run_id))

    def artifact(self, name: str) -> Artifact:
        """Returns the artifact called ``collection:alias-or-version``, in whatever project.

        Raises:
            KeyError: If there is none, or there are several.
        """
        places = {(item.entity, item.project) for item in self.state.artifacts.values()}
        found = [self.state.find_artifact(*place, name) for place in places]
        artifacts = [artifact for artifact in found if artifact]
        if len(artifacts) != 1:
            raise KeyError(f"{len(artifacts)} artifacts {name}")
        return artifacts[0]

    @property
    def seen(self) -> list[tuple[float, str, str, str]]:
        """Time, method, path and, of GraphQL, operation of every request so far."""
        return list(self._listener.seen)

    @property
    def errors(self) -> list[str]:
        """Requests that the server could not answer."""
        return list(self._listener.errors)

    def wait_until(self, true: Callable[[], Any], seconds: float = 180.0) -> None:
        """Waits until something has arrived.

        Args:
            true: Asks for it.
            seconds: How long at most.

        Raises:
            TimeoutError: If it has not.
        """
        end = time.monotonic() + seconds
        while True:
            with self.state.lock:
                if true():
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s; runs: {self.runs}")
            time.sleep(0.05)

    # What the server does of its own

    def stop_run(self, run_id: str) -> None:
        """Asks a run to stop, as the button in W&B's pages does."""
        with self.state.lock:
            run = self.run(run_id)
            run.stopped = True
            run.save()

    def terminate_run(self, run_id: str) -> None:
        """Lets the run's agent stop it, as early termination does."""
        with self.state.lock:
            run = self.run(run_id)
            run.terminated = True
            run.save()

    @contextlib.contextmanager
    def outage(
        self, kind: str | int, where: str = "", seconds: float = float("inf")
    ) -> Iterator[Fault]:
        """Lets the server fail while the context is open.

        Args:
            kind: ``refuse`` connections, ``hang``, or an HTTP status such as 500.
            where: Only requests whose path or GraphQL operation contains this, such as
                ``file_stream`` or ``CommitArtifact``.
            seconds: How long it fails at most.

        Yields:
            The fault, which lists the requests that met it.
        """
        fault = Fault(kind, where, time.monotonic() + seconds)
        self._listener.faults.append(fault)
        if kind == "refuse":
            self._stop_listening()
        try:
            yield fault
        finally:
            fault.over.set()
            self._listener.faults.remove(fault)
            if kind == "refuse":
                self._listener.socket.listen(self._listener.request_queue_size)
                self._thread = self._serve()

    def _stop_listening(self) -> None:
        """Refuses connections; the socket stays bound, so that nobody else takes the port."""
        self._listener.shutdown()
        self._thread.join()
        self._listener.socket.shutdown(socket.SHUT_RDWR)
        self._listener.close_connections()
