"""A PostgreSQL server of Debian's package, for as long as a test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def postgres() -> Iterator[str]:
    """Starts a server on a free port of the loopback interface and yields its address."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (lowrank[postgres])")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else Path(shutil.which("initdb") or "/none").parent
    if not (programs / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(place, user.pw_uid, user.pw_gid)
    who: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = place / "data"
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "lowrank", "-A", "trust"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=place, **who)
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(place)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=place, **who)
    try:
        deadline = time.monotonic() + 60
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert server.poll() is None, (place / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"postgresql+psycopg://lowrank@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(place, ignore_errors=True)
