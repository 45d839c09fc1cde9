"""Answers GraphQL: `schema.graphql` says what there is, graphql-core executes every query on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import graphql

from tests.wandb_server.state import Item, State

SCHEMA = graphql.build_schema((Path(__file__).parent / "schema.graphql").read_text("utf-8"))


class HTTPError(Exception):
    """Answers the whole request with an HTTP status instead of data."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What a resolver knows of its request: ``info.context``.

    Attributes:
        state: All that the server holds.
        url: The server as the client calls it.
    """

    state: State
    url: str

    def blob_url(self, item: Item, name: str) -> str:
        """Returns where a file of an item is uploaded to and downloaded from."""
        return f"{self.url}/{quote(str(item.blob(name).relative_to(item.place)))}"


def execute(
    request: Request, body: Mapping[str, Any], root: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Answers one query or mutation.

    Args:
        request: The context.
        body: ``query``, ``variables`` and perhaps ``operationName``.
        root: What the fields of Query and Mutation are answered with: values or functions.

    Returns:
        The HTTP status and the answer.
    """
    result = graphql.graphql_sync(
        SCHEMA,
        body["query"],
        root_value=root,
        context_value=request,
        variable_values=body.get("variables"),
        operation_name=body.get("operationName") or None,
    )
    if not result.errors:
        return 200, {"data": result.data}
    status = 400  # as W&B answers what its schema does not hold; the client does not try again
    for error in result.errors:
        cause = error.original_error
        if isinstance(cause, HTTPError):
            status = cause.status
        elif cause is not None and not isinstance(cause, graphql.GraphQLError):
            raise cause
    return status, {"data": None, "errors": [{"message": e.message} for e in result.errors]}
