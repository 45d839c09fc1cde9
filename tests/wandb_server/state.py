"""What the server holds, in a directory that a killed server is started again from.

Each run, sweep, agent and artifact is one JSON file, written before the request that changed it is
answered; what clients upload lies beside them. The objects are also what tests look at.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

ENTITY = "tester"
"""Entity of what is created without one: the user that every API key belongs to."""

PROJECT = "uncategorized"
"""Project of what is created without one."""

CRASHED_AFTER = 300.0
"""Seconds without a sign of life after which a run that has not ended counts as crashed."""


@dataclass
class Item:
    """Something with a file of its own.

    Attributes:
        place: The directory of all state.
    """

    kind: ClassVar[str]
    place: Path

    @property
    def key(self) -> str:
        """Unique among items of its kind."""
        raise TypeError(f"{type(self).__name__} has no key")

    def blob(self, name: str) -> Path:
        """Returns where a file that belongs to this item is or will be stored."""
        return self.place / "blobs" / self.kind / self._file_name / name

    @property
    def _file_name(self) -> str:
        return self.key.replace("/", "~")

    def save(self) -> None:
        """Writes the item, so that a kill at any moment leaves the old or the new one."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del content["place"]
        path = self.place / self.kind / f"{self._file_name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        Path(unfinished).replace(path)


@dataclass
class Run(Item):
    """One run, as it arrived.

    Attributes:
        raw_config: ``{"lr": {"value": 0.1}, …, "_wandb": {…}}``.
        raw_summary: JSON text of the summary.
        lines: By file_stream file, ``wandb-history.jsonl`` and so on, its lines; None is a line
            before the last that never arrived.
        uploaded: Names of the files that the client announced; those that came are in ``files``.
        status: pending, running, finished or failed, as told; ``state`` is what is shown.
        stopped: Whether the client is told to stop.
        terminated: Whether the run's agent is told to stop it.
        preempting: Whether the client has said that it may be preempted.
        sessions: How often a client has begun or resumed the run.
        outputs, inputs: Ids of artifacts.
    """

    kind: ClassVar[str] = "runs"
    entity: str
    project: str
    id: str
    raw_config: dict[str, Any] = field(default_factory=dict)
    raw_summary: str = "{}"
    lines: dict[str, list[str | None]] = field(default_factory=dict)
    uploaded: list[str] = field(default_factory=list)
    status: str = "running"
    exit_code: int | None = None
    stopped: bool = False
    terminated: bool = False
    preempting: bool = False
    sessions: int = 0
    sweep: str | None = None
    agent: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    heartbeat: float = field(default_factory=time.time)
    outputs: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.entity}/{self.project}/{self.id}"

    @property
    def state(self) -> str:
        """pending, running, finished, failed, crashed or preempted."""
        silence = time.time() - self.heartbeat
        lost = self.status in ("pending", "running") and silence > CRASHED_AFTER
        if self.preempting and (lost or self.status == "failed"):
            return "preempted"
        return "crashed" if lost else self.status

    @property
    def config(self) -> dict[str, Any]:
        """Values by name, without W&B's own."""
        return {n: entry["value"] for n, entry in self.raw_config.items() if n != "_wandb"}

    @property
    def summary(self) -> dict[str, Any]:
        """Last values by name."""
        return dict(json.loads(self.raw_summary))

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows in order of arrival.

        Raises:
            ValueError: If a row is missing between two that arrived.
        """
        return [json.loads(line) for line in self.stream("wandb-history.jsonl")]

    @property
    def log(self) -> str:
        """Lines of the log page."""
        return "\n".join(self.stream("output.log"))

    def stream(self, name: str) -> list[str]:
        """Returns the lines of a file_stream file.

        Raises:
            ValueError: If a line is missing between two that arrived.
        """
        lines = self.lines.get(name, [])
        if None in lines:
            raise ValueError(f"{self.key}: line {lines.index(None)} of {name} never arrived")
        return [line for line in lines if line is not None]

    @property
    def files(self) -> dict[str, bytes]:
        """Content of the uploaded files by name."""
        paths = {name: self.blob(name) for name in self.uploaded}
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}

    @property
    def metrics(self) -> dict[str, dict[int, Any]]:
        """What ``define_metric`` said, by metric; W&B's numbers for the options."""
        defined = self.raw_config.get("_wandb", {}).get("value", {}).get("m", [])
        numbered = [{int(key): value for key, value in metric.items()} for metric in defined]
        return {metric[1]: metric for metric in numbered if 1 in metric}


@dataclass
class Sweep(Item):
    """A sweep; ``handed_out`` counts the points given to agents."""

    kind: ClassVar[str] = "sweeps"
    id: str
    entity: str
    project: str
    raw_config: str = "{}"
    state: str = "PENDING"
    handed_out: int = 0
    created: float = field(default_factory=time.time)
    display_name: str | None = None

    @property
    def key(self) -> str:
        return self.id

    @property
    def config(self) -> dict[str, Any]:
        """The sweep file."""
        return dict(yaml.safe_load(self.raw_config))


@dataclass
class Agent(Item):
    """An agent and the runs that it said are running."""

    kind: ClassVar[str] = "agents"
    id: str
    sweep: str
    host: str
    heartbeats: int = 0
    heartbeat: float = field(default_factory=time.time)
    created: float = field(default_factory=time.time)
    running: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.id


@dataclass
class Artifact(Item):
    """One version of an artifact; ``version`` is None until it is committed."""

    kind: ClassVar[str] = "artifacts"
    id: str
    entity: str
    project: str
    collection: str
    type: str
    digest: str
    version: int | None = None
    aliases: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    metadata: str | None = None
    description: str | None = None
    client_id: str | None = None
    created: float = field(default_factory=time.time)

    @property
    def key(self) -> str:
        return self.id

    @property
    def name(self) -> str:
        """``<collection>:v<version>``."""
        return f"{self.collection}:v{self.version}"

    @property
    def files(self) -> dict[str, bytes]:
        """Content by path in the artifact."""
        paths = {name: self.blob(f"files/{name}") for name in self.names}
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


@dataclass
class View(Item):
    """A saved view of a project; ``spec`` is JSON text."""

    kind: ClassVar[str] = "views"
    id: str
    entity: str
    project: str
    name: str
    display_name: str
    spec: str
    created: float = field(default_factory=time.time)

    @property
    def key(self) -> str:
        return self.id


class State:
    """All that the server holds.

    Args:
        directory: Where it is kept; what is there is taken up.
        drops: As for `WandbServer`.
    """

    def __init__(self, directory: Path, *, drops: bool = False) -> None:
        self.directory = directory
        self.drops = drops
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {item.key: item for item in self._load(Run)}
        self.sweeps: dict[str, Sweep] = {item.key: item for item in self._load(Sweep)}
        self.agents: dict[str, Agent] = {item.key: item for item in self._load(Agent)}
        self.artifacts: dict[str, Artifact] = {item.key: item for item in self._load(Artifact)}
        self.views: dict[str, View] = {item.key: item for item in self._load(View)}

    def _load(self, kind: type[Any]) -> list[Any]:
        paths = sorted((self.directory / kind.kind).glob("*.json"))
        items = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        loaded = [kind(place=self.directory, **item) for item in items]
        return sorted(loaded, key=lambda item: item.created)

    def run(self, run_id: str) -> Run:
        """Returns the run of an id, in whatever project.

        Raises:
            KeyError: If there is none, or there are several.
        """
        found = [run for run in self.runs.values() if run.id == run_id]
        if len(found) != 1:
            raise KeyError(f"{len(found)} runs {run_id}; there are {', '.join(self.runs)}")
        return found[0]

    def runs_of(self, sweep: Sweep) -> list[Run]:
        """Returns the runs of a sweep in the order of their creation."""
        return [run for run in self.runs.values() if run.sweep == sweep.id]

    def artifacts_of(self, run: Run) -> list[Artifact]:
        """Returns the committed artifacts that a run logged."""
        logged = [self.artifacts[number] for number in run.outputs]
        return [artifact for artifact in logged if artifact.version is not None]

    def versions(self, entity: str, project: str, collection: str) -> list[Artifact]:
        """Returns the committed versions of an artifact collection, oldest first."""
        place = (entity, project, collection)
        found = [a for a in self.artifacts.values() if (a.entity, a.project, a.collection) == place]
        committed = [a for a in found if a.version is not None]
        return sorted(committed, key=lambda artifact: artifact.version or 0)

    def find_artifact(self, entity: str, project: str, name: str) -> Artifact | None:
        """Returns the artifact called ``collection:alias-or-version``, if there is one."""
        collection, _, alias = name.partition(":")
        for artifact in self.versions(entity, project, collection):
            if (alias or "latest") in (*artifact.aliases, f"v{artifact.version}"):
                return artifact
        return None
