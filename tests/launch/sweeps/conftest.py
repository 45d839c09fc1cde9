"""Database servers of Debian's packages, each for as long as a test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60


@pytest.fixture(params=["postgresql", "mysql"])
def database(request) -> Iterator[str]:
    """Starts a server on a free port of the loopback interface and yields its address."""
    starting = {"postgresql": postgresql, "mysql": mariadb}[request.param]
    with starting() as address:
        yield address


@contextmanager
def postgresql() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="psycopg is not installed (lowrank[postgres])")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else Path(shutil.which("initdb") or "/none").parent
    if not (programs / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    port = free_port()
    with place_of("postgres") as (place, who):
        data = place / "data"
        initdb: list[Path | str] = [programs / "initdb", "-D", data, "-U", "lowrank", "-A", "trust"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=place, **who)
        command: list[Path | str] = [programs / "postgres", "-D", data, "-p", str(port)]
        command += ["-k", place, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        ready: list[Path | str] = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]

        def is_ready() -> bool:
            return subprocess.run(ready, capture_output=True, check=False).returncode == 0

        with serving(command, place, who, is_ready):
            yield f"postgresql://lowrank@127.0.0.1:{port}/postgres"


@contextmanager
def mariadb() -> Iterator[str]:
    pymysql = pytest.importorskip("pymysql", reason="PyMySQL is not installed (lowrank[mysql])")
    server = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("MariaDB is not installed (Debian's package mariadb-server)")
    port = free_port()
    with place_of("mysql") as (place, who):
        data = f"--datadir={place / 'data'}"
        install = ["mariadb-install-db", "--no-defaults", data]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True, cwd=place, **who)
        command = [server, "--no-defaults", data, f"--port={port}", "--bind-address=127.0.0.1"]
        command += [f"--socket={place / 'socket'}", f"--pid-file={place / 'pid'}"]

        def is_ready() -> bool:
            with suppress(pymysql.OperationalError):
                with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
                    connection.cursor().execute("CREATE DATABASE lowrank")
                return True
            return False

        with serving(command, place, who, is_ready):
            yield f"mysql://root@127.0.0.1:{port}/lowrank"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def place_of(user: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields a directory, and as whom a server works there: none of them runs as root."""
    is_root = os.geteuid() == 0
    owner = pwd.getpwnam(user) if is_root else pwd.getpwuid(os.geteuid())
    place = Path(tempfile.mkdtemp(prefix=f"{user}-"))
    os.chown(place, owner.pw_uid, owner.pw_gid)
    try:
        yield place, {"user": owner.pw_uid, "group": owner.pw_gid} if is_root else {}
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def serving(
    command: Sequence[Path | str], place: Path, who: dict[str, Any], is_ready: Callable[[], bool]
) -> Iterator[None]:
    """Runs a server from when it is ready."""
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=place, **who)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            assert server.poll() is None, (place / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()
