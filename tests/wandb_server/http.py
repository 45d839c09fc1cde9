"""The routes: ``/graphql``, file_stream, and uploads and downloads of files."""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import re
import socket
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.wandb_server import mutations, queries
from tests.wandb_server.faults import Fault
from tests.wandb_server.graphql import Request, execute
from tests.wandb_server.state import Run, State

API_KEY = "0123456789abcdef0123456789abcdef01234567"
"""The key that this server takes."""

STREAM = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")
ENTRY = re.compile(r"/artifactsV2/[^/]+/[^/]+/[^/]+/[^/]+/([^/]+)/[^/]+/(.+)")
"""Region, entity, project, collection, artifact, digest and name of an artifact's file."""
REPLACED = ("wandb-summary.json",)
"""Files of file_stream of which only the last content counts."""


class Listener(http.server.ThreadingHTTPServer):
    """The listening socket and what its connections share.

    Attributes:
        faults: Those in force.
        seen: Time, method, path and, of GraphQL, operation of every request.
        errors: Tracebacks of requests that this server could not answer: its own mistakes.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, state: State) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = state
        self.faults: list[Fault] = []
        self.seen: list[tuple[float, str, str, str]] = []
        self.errors: list[str] = []
        self.open: set[socket.socket] = set()

    def server_bind(self) -> None:
        """Binds to the port, also to a free one, by its number.

        One that the system chose would be given up when the socket stops listening.
        """
        if self.server_address[1] == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.server_address = probe.getsockname()
        super().server_bind()

    def fault(self, path: str) -> Fault | None:
        """Returns the fault that a request meets."""
        return next((fault for fault in self.faults if fault.concerns(path)), None)

    def close_connections(self) -> None:
        """Ends every connection, as a server that goes down does."""
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server: Listener

    def setup(self) -> None:
        """Notes the connection."""
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        """Forgets the connection."""
        self.server.open.discard(self.connection)
        try:
            super().finish()
        except OSError:
            return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Prints nothing: ``seen`` has the requests."""

    def do_GET(self) -> None:
        """Answers a download."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answers GraphQL and file_stream."""
        self._answer(self._post)

    def do_PUT(self) -> None:
        """Takes an upload."""
        self._answer(self._put)

    def _answer(self, method: Callable[[str, bytes], tuple[int, bytes]]) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        operation = ""
        if path == "/graphql":
            found = re.search(rb"(?:query|mutation)\s+(\w+)", body)
            operation = found[1].decode() if found else ""
        self.server.seen.append((time.monotonic(), self.command, path, operation))
        fault = self.server.fault(f"{path} {operation}")
        if fault is not None and fault.kind in ("hang", "refuse"):
            fault.wait()
            self.close_connection = True
            return
        if fault is not None:
            status, content = int(fault.kind), b'{"error": "as the test asks"}'
        else:
            try:
                with self.server.state.lock:
                    status, content = method(path, body)
            except Exception:
                self.server.errors.append(traceback.format_exc())
                status, content = 500, b'{"error": "the server failed"}'
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def _get(self, path: str, _body: bytes) -> tuple[int, bytes]:
        if path == "/":
            return HTTPStatus.OK, b"ok"
        file = self._blob(path)
        entry = ENTRY.fullmatch(unquote(path))
        if entry is not None and entry[1] in self.server.state.artifacts:
            file = self.server.state.artifacts[entry[1]].blob(f"files/{entry[2]}")
        if file is None or not file.is_file():
            return HTTPStatus.NOT_FOUND, b""
        return HTTPStatus.OK, file.read_bytes()

    def _put(self, path: str, body: bytes) -> tuple[int, bytes]:
        file = self._blob(path)
        if file is None:
            return HTTPStatus.NOT_FOUND, b""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        return HTTPStatus.OK, b""

    def _blob(self, path: str) -> Path | None:
        top = (self.server.state.directory / "blobs").resolve()
        file = (self.server.state.directory / unquote(path).lstrip("/")).resolve()
        return file if file.is_relative_to(top) else None

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        stream = STREAM.fullmatch(path)
        if path != "/graphql" and stream is None:
            return HTTPStatus.NOT_FOUND, b""
        expected = b"Basic " + base64.b64encode(f"api:{API_KEY}".encode())
        if self.headers.get("Authorization", "").encode() != expected:
            return HTTPStatus.UNAUTHORIZED, b'{"error": "this is not an API key of mine"}'
        if stream is not None:
            run = self.server.state.runs.get("/".join(unquote(part) for part in stream.groups()))
            if run is None:
                return HTTPStatus.NOT_FOUND, b'{"error": "run not found"}'
            return HTTPStatus.OK, json.dumps(take_stream(run, json.loads(body or b"{}"))).encode()
        request = Request(self.server.state, f"http://{self.headers['Host']}")
        root = {**queries.ROOT, **mutations.ROOT}
        status, answer = execute(request, json.loads(body), root)
        if status == HTTPStatus.BAD_REQUEST:
            self.server.errors.append(f"{answer['errors']} answering {body.decode()}")
        return status, json.dumps(answer).encode()


def take_stream(run: Run, body: dict[str, Any]) -> dict[str, Any]:
    """Takes what file_stream brings.

    Args:
        run: Of it.
        body: Lines with their offset, by file; a repeated request changes nothing.

    Returns:
        The answer, which tells a stopped run to stop.
    """
    run.heartbeat = time.time()
    if run.status == "pending":
        run.status = "running"
    for name, chunk in body.get("files", {}).items():
        if name in REPLACED:
            run.raw_summary = chunk["content"][-1]
            continue
        lines = run.lines.setdefault(name, [])
        offset, content = chunk["offset"], chunk["content"]
        lines += [None] * (offset - len(lines))
        lines[offset : offset + len(content)] = content
    run.preempting = run.preempting or bool(body.get("preempting"))
    if body.get("complete"):
        run.exit_code = body.get("exitcode", 0)
        run.status = "failed" if run.exit_code else "finished"
    run.save()
    return {"stopped": True} if run.stopped else {}
