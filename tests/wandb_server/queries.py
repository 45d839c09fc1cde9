"""Reading: one function for each GraphQL type, which returns its fields as values or functions."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import mimetypes
from typing import Any

from tests.wandb_server.artifacts import artifact_node, collection_node, membership_node
from tests.wandb_server.filters import matches
from tests.wandb_server.graphql import Request
from tests.wandb_server.nodes import Node, connection, entity_node, moment, named, place_node
from tests.wandb_server.search import grid_size
from tests.wandb_server.state import ENTITY, PROJECT, Agent, Run, State, Sweep, View

HISTORY = "wandb-history.jsonl"
EVENTS = "wandb-events.jsonl"


def user_node() -> Node:
    """Returns the one user of this server."""
    return {
        "id": "VXNlcjox",
        "name": ENTITY,
        "username": ENTITY,
        "email": "tester@example.org",
        "admin": False,
        "flags": "{}",
        "entity": ENTITY,
        "deletedAt": None,
        "teams": {"edges": []},
        "apiKeys": {"edges": []},
    }


def project_node(state: State, entity: str, name: str) -> Node:
    """Returns a project, whether or not anything was created in it."""

    def run(_info: Any, **which: Any) -> Node | None:
        found = state.runs.get(f"{entity}/{name}/{which['name']}")
        return run_node(state, found) if found else None

    def runs(filters: str | None) -> list[Run]:
        here = [r for r in state.runs.values() if (r.entity, r.project) == (entity, name)]
        return [r for r in here if matches(r, json.loads(filters or "{}"))]

    def sweep(_info: Any, sweepName: str) -> Node | None:
        found = state.sweeps.get(sweepName)
        return sweep_node(state, found) if found and found.project == name else None

    def sweeps() -> list[Sweep]:
        return [s for s in state.sweeps.values() if (s.entity, s.project) == (entity, name)]

    def collection(_info: Any, **which: Any) -> Node | None:
        versions = state.versions(entity, name, which["name"])
        return collection_node(state, versions[0]) if versions else None

    def membership(_info: Any, **which: Any) -> Node | None:
        found = state.find_artifact(entity, name, which["name"])
        return membership_node(state, found) if found else None

    def artifact(_info: Any, **which: Any) -> Node | None:
        found = state.find_artifact(entity, name, which["name"])
        return artifact_node(state, found) if found else None

    def views(_info: Any, viewName: str | None = None, **_which: Any) -> Node:
        here = [v for v in state.views.values() if (v.entity, v.project) == (entity, name)]
        return connection([v for v in here if viewName in (None, v.name)], view_node)

    return {
        **place_node(entity, name),
        "user": user_node(),
        "bucket": run,
        "run": run,
        "runCount": lambda _info, filters=None: len(runs(filters)),
        "runs": lambda _info, filters=None, order=None, first=None, after=None: connection(
            runs(filters)[:: -1 if (order or "").startswith("-") else 1],
            lambda r: run_node(state, r),
            first,
            after,
        ),
        "sweep": sweep,
        "sweeps": lambda _info, first=None, after=None, filters=None: connection(  # noqa: ARG005
            sweeps(), lambda s: sweep_node(state, s), first, after
        ),
        "totalSweeps": lambda _info: len(sweeps()),
        "artifact": artifact,
        "artifactType": lambda _info, **which: {
            "id": f"ArtifactType:{which['name']}",
            "name": which["name"],
            "description": None,
            "createdAt": moment(0),
            "artifactCollection": collection,
        },
        "artifactCollection": collection,
        "artifactCollectionMembership": membership,
        "allViews": views,
    }


def view_node(view: View) -> Node:
    """Returns a saved view."""
    shown = {"name": view.name, "displayName": view.display_name, "spec": view.spec}
    return {"id": view.id, **shown}


def run_node(state: State, run: Run) -> Node:
    """Returns a run."""
    details = run.details

    def rows() -> list[Node]:
        return run.history

    def history(
        _info: Any,
        samples: int | None = None,
        minStep: int | None = None,
        maxStep: int | None = None,
    ) -> list[str]:
        low, high = minStep or 0, float("inf") if maxStep is None else maxStep
        return [json.dumps(row) for row in rows() if low <= row["_step"] < high][:samples]

    def sampled(_info: Any, specs: list[str]) -> list[list[Node]]:
        return [_sample(rows(), json.loads(spec)) for spec in specs]

    def artifacts(ids: list[str]) -> Any:
        found = [state.artifacts[number] for number in ids]
        committed = [artifact for artifact in found if artifact.version is not None]
        return lambda _info, first=None, after=None: connection(
            committed, lambda a: artifact_node(state, a), first, after
        )

    return {
        "id": f"Run:{run.key}",
        "name": run.id,
        "displayName": details.get("displayName"),
        "description": details.get("description"),
        "notes": details.get("notes"),
        "config": json.dumps(run.raw_config),
        "sweepName": run.sweep,
        "state": run.state,
        "group": details.get("groupName"),
        "jobType": details.get("jobType"),
        "tags": details.get("tags") or [],
        "commit": details.get("commit"),
        "readOnly": False,
        "createdAt": moment(run.created),
        "heartbeatAt": moment(run.heartbeat),
        "user": user_node(),
        "summaryMetrics": run.raw_summary,
        "systemMetrics": "{}",
        "exitcode": run.exit_code,
        "shouldStop": run.terminated,
        "stopped": run.stopped,
        "failed": run.state in ("failed", "crashed"),
        "running": run.state == "running",
        "project": lambda _info: project_node(state, run.entity, run.project),
        "projectId": 1,
        "historyKeys": lambda _info: _history_keys(rows()),
        "logLineCount": len(run.lines.get("output.log", [])),
        "historyLineCount": len(run.lines.get(HISTORY, [])),
        "eventsLineCount": len(run.lines.get(EVENTS, [])),
        "historyTail": lambda _info: json.dumps(run.stream(HISTORY)[-1:]),
        "eventsTail": lambda _info: json.dumps(run.stream(EVENTS)[-1:]),
        "wandbConfig": lambda _info, keys: json.dumps(
            {
                k: v
                for k, v in run.raw_config.get("_wandb", {}).get("value", {}).items()
                if k in keys
            }
        ),
        "history": history,
        "events": lambda _info, samples=None: run.stream(EVENTS)[:samples],
        "sampledHistory": sampled,
        "parquetHistory": lambda _info, liveKeys: {
            "parquetUrls": [],
            "liveData": [{key: row[key] for key in liveKeys if key in row} for row in rows()],
        },
        "fileCount": lambda _info: len(run.files),
        "files": lambda info, names=None, after=None, first=None, pattern=None: _files(
            info.context, run, names, after, first, pattern
        ),
        "outputArtifacts": artifacts(run.outputs),
        "inputArtifacts": artifacts(run.inputs),
    }


def _sample(rows: list[Node], spec: Node) -> list[Node]:
    keys = spec.get("keys")
    if keys is None:
        return rows
    low, high = spec.get("minStep", 0), spec.get("maxStep", float("inf"))
    chosen = [row for row in rows if low <= row["_step"] <= high]
    return [{k: row[k] for k in keys} for row in chosen if all(k in row for k in keys)]


def _history_keys(rows: list[Node]) -> Node:
    keys: dict[str, Node] = {}
    for row in rows:
        for key, value in row.items():
            known = keys.setdefault(key, {"typeCounts": [{"type": "number", "count": 0}]})
            known["typeCounts"][0]["count"] += 1
            known["previousValue"] = value
    return {"lastStep": rows[-1]["_step"] if rows else -1, "keys": keys, "sets": []}


def _files(
    request: Request,
    run: Run,
    names: list[str] | None,
    after: str | None,
    first: int | None,
    pattern: str | None,
) -> Node:
    def node(name: str) -> Node:
        content = run.files[name]
        url = request.blob_url(run, name)
        return {
            "id": f"File:{name}",
            "name": name,
            "url": url,
            "directUrl": url,
            "sizeBytes": len(content),
            "mimetype": mimetypes.guess_type(name)[0],
            "updatedAt": moment(run.blob(name).stat().st_mtime),
            "md5": base64.b64encode(hashlib.md5(content).digest()).decode(),
        }

    glob = (pattern or "%").replace("%", "*")
    found = [n for n in run.files if (not names or n in names) and fnmatch.fnmatchcase(n, glob)]
    return connection(found, node, first, after)


def sweep_node(state: State, sweep: Sweep) -> Node:
    """Returns a sweep."""
    runs = state.runs_of(sweep)
    agents = [agent for agent in state.agents.values() if agent.sweep == sweep.id]
    config = sweep.config
    return {
        "id": f"Sweep:{sweep.id}",
        "name": sweep.id,
        "displayName": sweep.display_name,
        "method": config["method"],
        "state": sweep.state,
        "config": sweep.raw_config,
        "description": config.get("description"),
        "createdAt": moment(sweep.created),
        "runCount": len(runs),
        "runCountExpected": grid_size(config),
        "project": lambda _info: project_node(state, sweep.entity, sweep.project),
        "runs": lambda _info, first=None, after=None: connection(
            runs, lambda r: run_node(state, r), first, after
        ),
        "agents": connection(agents, lambda a: agent_node(state, a)),
        "agent": lambda _info, agentName: agent_node(state, state.agents[agentName]),
    }


def agent_node(state: State, agent: Agent) -> Node:
    """Returns an agent."""
    runs = [run for run in state.runs.values() if run.agent == agent.id]
    return {
        "id": agent.id,
        "name": agent.id,
        "host": agent.host,
        "state": "RUNNING",
        "totalRuns": len(runs),
        "createdAt": moment(agent.created),
        "heartbeatAt": moment(agent.heartbeat),
        "runs": lambda _info, first=None, after=None, **_page: connection(
            runs, lambda r: run_node(state, r), first, after
        ),
    }


def _project(info: Any, name: str | None = None, entityName: str | None = None) -> Node:
    return project_node(info.context.state, named(entityName), name or PROJECT)


def _projects(
    info: Any, entityName: str | None = None, after: str | None = None, first: int | None = None
) -> Node:
    state, entity = info.context.state, named(entityName)
    items = [*state.runs.values(), *state.sweeps.values()]
    names = sorted({item.project for item in items if item.entity == entity})
    return connection(names, lambda name: project_node(state, entity, name), first, after)


def _artifact(info: Any, id: str) -> Node | None:  # noqa: A002
    found = info.context.state.artifacts.get(id)
    return artifact_node(info.context.state, found) if found else None


def _client_id_mapping(info: Any, clientID: str) -> Node | None:
    known = info.context.state.artifacts.values()
    return next(({"serverID": a.id} for a in known if a.client_id == clientID), None)


ROOT = {
    "viewer": lambda _info: user_node(),
    "serverInfo": {"features": []},
    "entity": lambda _info, **which: entity_node(named(which.get("name"))),
    "project": _project,
    "model": _project,
    "models": _projects,
    "artifact": _artifact,
    "clientIDMapping": _client_id_mapping,
}
