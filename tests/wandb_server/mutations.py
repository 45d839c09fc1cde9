"""Writing: runs begin, files are announced, sweeps are made and their points handed out."""

from __future__ import annotations

import itertools
import json
import secrets
import string
import time
from typing import Any

from tests.wandb_server.artifacts import MUTATIONS as ARTIFACT_MUTATIONS
from tests.wandb_server.graphql import HTTPError
from tests.wandb_server.nodes import Node, named
from tests.wandb_server.queries import agent_node, project_node, run_node, sweep_node, view_node
from tests.wandb_server.search import grid_size, points
from tests.wandb_server.state import PROJECT, Agent, Run, State, Sweep, View

DETAILS = (
    *("displayName", "description", "notes", "groupName", "jobType", "tags", "commit"),
    *("host", "jobProgram", "jobRepo"),
)


def new_id() -> str:
    """Returns an id as W&B makes them: eight letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def _upsert_run(info: Any, input: Node) -> Node:  # noqa: A002
    """Begins, continues or changes a run.

    A client that begins one names its host. What a run of that name holds is kept and its number of
    rows returned, after which the client goes on: so `wandb sync` joins the segments of a run. On a
    server that ``drops`` only who resumes a run, naming its id, keeps what it holds.
    """
    state: State = info.context.state
    node_id = input.get("id")
    if node_id:
        key = node_id.removeprefix("Run:")
    else:
        key = "/".join((named(input.get("entityName")), input.get("modelName") or PROJECT, ""))
        key += input.get("name") or new_id()
    run = state.runs.get(key)
    inserted = run is None
    if run is None:
        entity, project, name = key.split("/")
        run = state.runs[key] = Run(place=state.directory, entity=entity, project=project, id=name)
    if input.get("host"):
        if state.drops and not node_id:
            run.lines, run.raw_summary = {}, "{}"
        run.sessions += 1
        run.status, run.exit_code, run.heartbeat = "running", None, time.time()
        run.stopped = run.terminated = run.preempting = False
    if input.get("config") is not None:
        run.raw_config = json.loads(input["config"])
    if input.get("summaryMetrics") is not None:
        run.raw_summary = input["summaryMetrics"]
    if input.get("state") is not None:
        run.status = input["state"]
    run.sweep = input.get("sweep") or run.sweep
    run.details |= {name: input[name] for name in DETAILS if input.get(name) is not None}
    run.save()
    return {"bucket": run_node(state, run), "inserted": inserted}


def _stop_run(info: Any, input: Node) -> Node:  # noqa: A002
    run = info.context.state.runs[input["id"].removeprefix("Run:")]
    run.stopped = True
    run.save()
    return {"success": True}


def _create_files(info: Any, input: Node) -> Node:  # noqa: A002
    state: State = info.context.state
    run = state.runs[f"{input['entityName']}/{input['projectName']}/{input['runName']}"]
    run.uploaded += [name for name in input["files"] if name not in run.uploaded]
    run.save()
    return {
        "runID": f"Run:{run.key}",
        "uploadHeaders": [],
        "files": [
            {"name": name, "uploadUrl": info.context.blob_url(run, name)} for name in input["files"]
        ],
    }


def _upsert_project(info: Any, input: Node) -> Node:  # noqa: A002
    node = project_node(info.context.state, named(input.get("entityName")), input["name"])
    return {"model": node, "project": node, "inserted": False}


def _upsert_sweep(info: Any, input: Node) -> Node:  # noqa: A002
    state: State = info.context.state
    if input.get("id"):
        sweep = state.sweeps[input["id"].removeprefix("Sweep:")]
    else:
        sweep = Sweep(
            place=state.directory,
            id=new_id(),
            entity=named(input.get("entityName")),
            project=input.get("projectName") or PROJECT,
        )
        state.sweeps[sweep.id] = sweep
    if input.get("config") is not None:
        sweep.raw_config = input["config"]
        grid_size(sweep.config)  # raises for a grid that is none
    sweep.state = input.get("state") or sweep.state
    sweep.display_name = input.get("displayName") or sweep.display_name
    sweep.save()
    return {"sweep": sweep_node(state, sweep), "configValidationWarnings": []}


def _upsert_view(info: Any, input: Node) -> Node:  # noqa: A002
    state: State = info.context.state
    view = state.views.get(input.get("id") or "")
    inserted = view is None
    if view is None:
        place = {"entity": named(input.get("entityName")), "project": input["projectName"]}
        texts = {"name": input["name"], "display_name": "", "spec": ""}
        view = View(place=state.directory, id=f"View:{new_id()}", **place, **texts)
        state.views[view.id] = view
    view.display_name, view.spec = input["displayName"], input["spec"]
    view.save()
    return {"view": view_node(view), "inserted": inserted}


def _create_agent(info: Any, input: Node) -> Node:  # noqa: A002
    state: State = info.context.state
    if input["sweep"] not in state.sweeps:
        raise HTTPError(404, f"there is no sweep {input['sweep']}")
    agent = Agent(place=state.directory, id=new_id(), sweep=input["sweep"], host=input["host"])
    state.agents[agent.id] = agent
    agent.save()
    return {"agent": agent_node(state, agent)}


def _heartbeat(info: Any, input: Node) -> Node:  # noqa: A002
    state: State = info.context.state
    agent = state.agents.get(input["id"])
    sweep = state.sweeps.get(agent.sweep) if agent else None
    if agent is None or sweep is None:
        raise HTTPError(404, f"there is no agent {input['id']} or no sweep of it")
    agent.running = list(json.loads(input.get("runState") or "{}"))
    agent.heartbeats += 1
    agent.heartbeat = time.time()
    agent.save()
    commands = _commands(state, sweep, agent)
    return {"agent": agent_node(state, agent), "commands": json.dumps(commands)}


def _commands(state: State, sweep: Sweep, agent: Agent) -> list[Node]:
    """Returns what an agent is to do now."""
    if sweep.state in ("CANCELED", "CANCELLED"):
        return [{"type": "exit"}]
    if agent.running:
        runs = [run for run in state.runs_of(sweep) if run.id in agent.running]
        return [{"type": "stop", "run_id": run.id} for run in runs if run.terminated]
    if sweep.state == "PAUSED":
        return []
    if sweep.state != "FINISHED":
        requeued = [run for run in state.runs_of(sweep) if run.state == "preempted"]
        if requeued:
            return [_start(sweep, agent, requeued[0], "resume")]
        run = _next_run(state, sweep)
        if run is not None:
            return [_start(sweep, agent, run, "run")]
        if not any(run.state in ("pending", "running") for run in state.runs_of(sweep)):
            sweep.state = "FINISHED"
            sweep.save()
    return [{"type": "exit"}]


def _next_run(state: State, sweep: Sweep) -> Run | None:
    """Makes the run of the sweep's next point, if there is one."""
    if sweep.handed_out >= sweep.config.get("run_cap", float("inf")):
        return None
    remaining = itertools.islice(points(sweep.config, sweep.id), sweep.handed_out, None)
    point = next(remaining, None)
    if point is None:
        return None
    run = Run(place=state.directory, entity=sweep.entity, project=sweep.project, id=new_id())
    run.raw_config = {name: {"value": value} for name, value in point.items()}
    run.sweep = sweep.id
    run.details["displayName"] = f"sweep-{sweep.handed_out + 1}"
    state.runs[run.key] = run
    sweep.handed_out += 1
    return run


def _start(sweep: Sweep, agent: Agent, run: Run, command: str) -> Node:
    run.agent, run.status, run.preempting = agent.id, "pending", False
    run.save()
    sweep.state = "RUNNING"
    sweep.save()
    arguments = {name: entry for name, entry in run.raw_config.items() if name != "_wandb"}
    if command == "resume":
        names = sweep.config.get("parameters", {})
        arguments = {name: entry for name, entry in arguments.items() if name in names}
    program = sweep.config.get("program")
    return {"type": command, "run_id": run.id, "program": program, "args": arguments}


ROOT = {
    "upsertBucket": _upsert_run,
    "stopRun": _stop_run,
    "createRunFiles": _create_files,
    "markRunFilesUploaded": lambda _info, input: {"success": True},  # noqa: A006, ARG005
    "upsertModel": _upsert_project,
    "upsertSweep": _upsert_sweep,
    "upsertView": _upsert_view,
    "createAgent": _create_agent,
    "agentHeartbeat": _heartbeat,
    **ARTIFACT_MUTATIONS,
}
