"""Artifacts: created, uploaded, committed as a version, found again and downloaded."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from tests.wandb_server.graphql import Request
from tests.wandb_server.nodes import Node, connection, moment, named, place_node
from tests.wandb_server.state import PROJECT, Artifact, State

MANIFEST = "manifest.json"


def artifact_node(state: State, artifact: Artifact) -> Node:
    """Returns one version."""
    sizes = [len(content) for content in artifact.files.values()]
    return {
        "id": artifact.id,
        "versionIndex": artifact.version,
        "description": artifact.description,
        "metadata": artifact.metadata,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "size": sum(sizes),
        "fileCount": len(sizes),
        "state": "PENDING" if artifact.version is None else "COMMITTED",
        "digest": artifact.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": artifact.id,
        "createdAt": moment(artifact.created),
        "updatedAt": None,
        "artifactType": {"id": f"ArtifactType:{artifact.type}", "name": artifact.type},
        "artifactSequence": lambda _info: collection_node(state, artifact),
        "aliases": lambda _info: _alias_nodes(state, artifact),
        "currentManifest": lambda info: manifest_node(info.context, artifact),
        "files": lambda info, first=None, after=None: _files(info.context, artifact, first, after),
    }


def collection_node(state: State, artifact: Artifact) -> Node:
    """Returns the collection that a version belongs to."""
    versions = state.versions(artifact.entity, artifact.project, artifact.collection)

    def membership(_info: Any, aliasName: str) -> Node | None:
        name = f"{artifact.collection}:{aliasName}"
        found = state.find_artifact(artifact.entity, artifact.project, name)
        return membership_node(state, found) if found else None

    return {
        "__typename": "ArtifactSequence",
        "id": f"ArtifactSequence:{artifact.collection}",
        "name": artifact.collection,
        "description": None,
        "createdAt": moment(artifact.created),
        "updatedAt": None,
        "project": place_node(artifact.entity, artifact.project),
        "tags": {"edges": []},
        "type": {"id": f"ArtifactType:{artifact.type}", "name": artifact.type},
        "latestArtifact": lambda _info: artifact_node(state, versions[-1]) if versions else None,
        "digestAlgorithm": "MANIFEST_MD5",
        "artifacts": lambda _info, first=None, after=None, **_order: connection(
            versions[::-1], lambda version: artifact_node(state, version), first, after
        ),
        "artifactMembership": membership,
    }


def membership_node(state: State, artifact: Artifact) -> Node:
    """Returns that a version is in its collection."""
    return {
        "id": f"Membership:{artifact.id}",
        "versionIndex": artifact.version,
        "createdAt": moment(artifact.created),
        "aliases": lambda _info: _alias_nodes(state, artifact),
        "artifactCollection": lambda _info: collection_node(state, artifact),
        "artifact": lambda _info: artifact_node(state, artifact),
        "files": lambda info, first=None, after=None: _files(info.context, artifact, first, after),
    }


def manifest_node(request: Request, artifact: Artifact) -> Node:
    """Returns the manifest, to be uploaded to and downloaded from one place."""
    url = request.blob_url(artifact, MANIFEST)
    file = {"id": f"File:{artifact.id}", "directUrl": url, "uploadUrl": url, "uploadHeaders": []}
    return {"id": f"Manifest:{artifact.id}", "file": file}


def _alias_nodes(state: State, artifact: Artifact) -> list[Node]:
    return [
        {
            "id": f"Alias:{artifact.id}:{alias}",
            "alias": alias,
            "artifactCollection": lambda _info: collection_node(state, artifact),
        }
        for alias in artifact.aliases
    ]


def _files(request: Request, artifact: Artifact, first: int | None, after: str | None) -> Node:
    def node(name: str) -> Node:
        url = request.blob_url(artifact, f"files/{name}")
        return {"id": f"File:{name}", "name": name, "directUrl": url, "url": url}

    return connection(artifact.names, node, first, after)


def _create(info: Any, input: Node) -> Node:  # noqa: A002
    state = info.context.state
    entity, project = named(input.get("entityName")), input.get("projectName") or PROJECT
    collection = input.get("artifactCollectionName") or input["artifactCollectionNames"][0]
    aliases = [alias["alias"] for alias in input.get("aliases") or []]
    run = state.runs.get(f"{entity}/{project}/{input.get('runName')}")
    versions = state.versions(entity, project, collection)
    same = [version for version in versions if version.digest == input["digest"]]
    if same and input.get("enableDigestDeduplication"):
        artifact = same[-1]
        _name(state, artifact, aliases)
    else:
        number = base64.b64encode(f"Artifact:{secrets.randbits(40)}".encode()).decode()
        artifact = Artifact(
            place=state.directory,
            id=number,
            entity=entity,
            project=project,
            collection=collection,
            type=input["artifactTypeName"],
            digest=input["digest"],
            wanted=aliases,
            metadata=input.get("metadata"),
            description=input.get("description"),
            client_id=input.get("clientID"),
        )
        state.artifacts[number] = artifact
        artifact.save()
    if run and artifact.id not in run.outputs:
        run.outputs.append(artifact.id)
        run.save()
    return {"artifact": artifact_node(state, artifact)}


def _create_manifest(info: Any, input: Node) -> Node:  # noqa: A002
    artifact = info.context.state.artifacts[input["artifactID"]]
    return {"artifactManifest": manifest_node(info.context, artifact)}


def _create_files(info: Any, input: Node) -> Node:  # noqa: A002
    request, state = info.context, info.context.state

    def node(spec: Node) -> Node:
        artifact, name = state.artifacts[spec["artifactID"]], spec["name"]
        if name not in artifact.names:
            artifact.names.append(name)
            artifact.save()
        return {
            "storagePath": f"{artifact.id}/{name}",
            "uploadHeaders": [],
            "uploadUrl": request.blob_url(artifact, f"files/{name}"),
            "uploadMultipartUrls": None,
            "artifact": artifact_node(state, artifact),
        }

    return {"files": connection(input["artifactFiles"], node)}


def _commit(info: Any, input: Node) -> Node:  # noqa: A002
    state = info.context.state
    artifact = state.artifacts[input["artifactID"]]
    if artifact.version is None:
        json.loads(artifact.blob(MANIFEST).read_bytes())
        place = (artifact.entity, artifact.project, artifact.collection)
        artifact.version = len(state.versions(*place))
        _name(state, artifact, ["latest", *artifact.wanted])
    return {"artifact": artifact_node(state, artifact)}


def _name(state: State, artifact: Artifact, aliases: list[str]) -> None:
    """Gives a version its aliases, each of which one version of a collection has."""
    for other in state.versions(artifact.entity, artifact.project, artifact.collection):
        if other is not artifact and set(other.aliases) & set(aliases):
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
            other.save()
    artifact.aliases = list(dict.fromkeys([*artifact.aliases, *aliases]))
    artifact.save()


def _use(info: Any, input: Node) -> Node:  # noqa: A002
    state = info.context.state
    artifact = state.artifacts[input["artifactID"]]
    entity, project = named(input.get("entityName")), input.get("projectName") or PROJECT
    run = state.runs[f"{entity}/{project}/{input['runName']}"]
    if artifact.id not in run.inputs:
        run.inputs.append(artifact.id)
        run.save()
    return {"artifact": artifact_node(state, artifact)}


MUTATIONS = {
    "createArtifact": _create,
    "createArtifactManifest": _create_manifest,
    "createArtifactFiles": _create_files,
    "commitArtifact": _commit,
    "useArtifact": _use,
}
