"""Where a sweep's points are kept: a SQLite file, or a database that several machines reach."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from lowrank.common.errors import Failure, InputError, first_line
from lowrank.common.files import expanded
from lowrank.common.texts import printable
from lowrank.config.sources import of_machine

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from lowrank.launch.sweeps.search import Search

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a database may be away before a sweep gives up."""

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""What reaches a server unless the address names another driver."""

_EXTRAS = {"postgresql+psycopg": "postgres", "mysql+pymysql": "mysql"}
"""Which extra of this package installs it."""

_BUSY_SECONDS = 60  # for another process's transaction in a SQLite file
_TRIES = 5


def open_storage(url: str) -> RDBStorage:
    """Opens the storage, and makes its tables where there are none.

    Args:
        url: As SQLAlchemy reads it: ``sqlite:///runs/sweep.sqlite``,
            ``postgresql://user:password@host/database``, ``mysql://…``; the last two through
            psycopg and PyMySQL, or through a driver that the address names
            (``mysql+mysqldb://…``).

    Returns:
        The storage.

    Raises:
        InputError: If it is no such address, its driver is missing, or the file cannot be used.
        Failure: If the database does not answer or is of another Optuna.
    """
    import optuna
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the heartbeat
    shown = without_password(url)
    is_file = url.startswith("sqlite")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_file:
        options = {"connect_args": {"timeout": _BUSY_SECONDS}}
    for left in reversed(range(_TRIES)):
        try:
            # Optuna fills in what stands in braces.
            place = _with_driver(url).replace("{", "{{").replace("}", "}}")
            storage = optuna.storages.RDBStorage(place, engine_kwargs=options)
            break
        except (ArgumentError, NoSuchModuleError) as error:
            raise InputError(
                f"storage: got '{shown}'; allowed: sqlite:///FILE, postgresql://..., mysql://..."
            ) from error
        except ImportError as error:
            extra = _EXTRAS.get(place.partition(":")[0])
            remedy = f"; pip install 'lowrank[{extra}]'" if extra else ""
            raise InputError(f"storage: the driver for {shown} is not installed{remedy}") from error
        except RuntimeError as error:  # Optuna: tables of another version
            raise Failure(f"storage: {shown}: {_first_line(error)}") from error
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            # Two that start at the same moment both make the tables: one of them sees them next.
            if not left:
                line = f"storage: {shown} cannot be used: {_first_line(error)}"
                raise (InputError(line) if is_file else Failure(line)) from error
            time.sleep(random.uniform(0.1, 0.5))
    if is_file:
        _serialise(storage)
    return storage


def without_password(url: str) -> str:
    """Returns an address as it may be shown.

    Args:
        url: Of the storage.

    Returns:
        With ``***`` for the password.

    Example:
        >>> without_password("postgresql://ann:secret@host/db")
        'postgresql://ann:***@host/db'
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return printable(url.rpartition("@")[2])


def file_url(path: Path) -> str:
    """Returns the address of a SQLite file.

    Args:
        path: The file; its directory is made where it is missing.

    Returns:
        The address.

    Raises:
        InputError: If the directory cannot be made, or its name can stand in no address.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output_dir: cannot make {path.parent} ({error.strerror}); choose another"
        ) from error
    url = f"sqlite:///{path}"
    if "%" in url or "?" in url:
        from sqlalchemy.engine import URL, make_url

        url = URL.create("sqlite", database=str(path)).render_as_string()
        if make_url(url).database != str(path):  # before SQLAlchemy 2.1
            raise InputError(
                f"output_dir: got '{printable(str(path.parent), 200)}'; allowed: without % and ?, "
                "as the address of the sweep's database cannot have them"
            )
    return url


def output_dir_of(search: Search) -> Path:
    """Returns where the runs of a sweep are written here.

    Args:
        search: The sweep's points.
    """
    return expanded(search.overrides.get("output_dir") or of_machine("output_dir"))


def storage_file(search: Search) -> Path:
    """Returns the file of a sweep's points where no address is given.

    Args:
        search: The points.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", search.sweep.name)
    return output_dir_of(search) / f"{name}.sqlite"


def stored_at(search: Search, url: str | None) -> str | None:
    """Returns the address of a sweep's points for who only reads them.

    Args:
        search: The points.
        url: As given; None is `storage_file`.

    Returns:
        None if it is of a file that there is not: opening it would make it.
    """
    if url is None:
        file = storage_file(search)
        return file_url(file) if file.exists() else None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    with contextlib.suppress(ArgumentError):  # which `open_storage` tells of
        place = make_url(url)
        is_file = place.get_backend_name() == "sqlite" and "uri" not in place.query
        if is_file and not Path(place.database or "").is_file():
            return None
    return url


def patient(method: Callable[P, T]) -> Callable[P, T]:
    """Makes a method ride out a short absence of its database.

    Args:
        method: May be repeated.

    Returns:
        The method, which raises `Failure` after `PATIENCE` seconds without an answer.
    """

    @functools.wraps(method)
    def trying(*args: P.args, **kwargs: P.kwargs) -> T:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import DBAPIError

        deadline, pause = time.monotonic() + PATIENCE, 0.5
        while True:
            try:
                return method(*args, **kwargs)
            except (StorageInternalError, DBAPIError) as error:
                if time.monotonic() + pause > deadline:
                    raise Failure(
                        f"the sweep's storage does not answer ({_first_line(error)}); nothing "
                        "recorded is lost, start the same command again"
                    ) from error
            time.sleep(pause)
            pause = min(8.0, 2 * pause)

    return trying


def _with_driver(url: str) -> str:
    """Returns the address with the driver that we install, if it names none.

    Raises:
        ArgumentError: If it is no address.
    """
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.drivername not in _DRIVERS:
        return url
    named = parsed.set(drivername=_DRIVERS[parsed.drivername])
    return named.render_as_string(hide_password=False)


def _serialise(storage: RDBStorage) -> None:
    """Makes each transaction on a SQLite file exclude all others from its start.

    Optuna first reads and then writes a trial's state. Other databases lock the row; SQLite would
    let two processes read, and both take the same point.
    """
    from sqlalchemy import event

    engine = storage.engine
    engine.dispose()  # connections that began before

    @event.listens_for(engine, "connect")
    def by_hand(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def at_once(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return first_line(getattr(cause, "orig", None) or cause)  # the driver's own words
