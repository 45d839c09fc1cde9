"""Parts that the answers about different things share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.wandb_server.state import ENTITY

Node = dict[str, Any]


def moment(seconds: float) -> str:
    """Returns a time as W&B writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def named(entity: str | None) -> str:
    """Returns the entity that a client means, who may leave it out."""
    return entity or ENTITY


def entity_node(name: str) -> Node:
    """Returns an entity, which belongs to no organisation."""
    return {"id": f"Entity:{name}", "name": name, "organization": None}


def place_node(entity: str, name: str) -> Node:
    """Returns what is known of a project without looking into it."""
    return {
        "id": f"Project:{entity}/{name}",
        "internalId": "1",
        "name": name,
        "readOnly": False,
        "entityName": entity,
        "entity": entity_node(entity),
        "createdAt": moment(0),
        "isBenchmark": False,
    }


def connection(
    items: list[Any],
    node: Callable[[Any], Any],
    first: int | None = None,
    after: str | None = None,
) -> Node:
    """Returns one page of a list in GraphQL's form; cursors are positions.

    Args:
        items: All of them.
        node: Makes the answer of one item.
        first: How many at most.
        after: The last item of the page before.
    """
    begin = int(after) + 1 if after else 0
    end = len(items) if first is None else min(len(items), begin + first)
    edges = [{"node": node(items[i]), "cursor": str(i)} for i in range(begin, end)]
    return {
        "edges": edges,
        "totalCount": len(items),
        "pageInfo": {
            "endCursor": edges[-1]["cursor"] if edges else None,
            "hasNextPage": end < len(items),
        },
    }
