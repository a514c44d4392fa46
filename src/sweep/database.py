"""The SQLite file of a study: how it is opened to write and to read, and what its errors say."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from sweep.errors import StudyError

DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError, sqlite3.Error)
_LOCKED_FOR_S = 60  # how long to wait for another program that writes to the file


def open_storage(connect: Callable[[], sqlite3.Connection], new: bool) -> RDBStorage:
    """Optuna's view of the file that `connect` opens; a `new` one gets its tables."""
    # Paths may hold ? # % { }, which an URL would read as something else: `connect` knows the path.
    return RDBStorage(
        "sqlite:///study.db", engine_kwargs={"creator": connect}, skip_table_creation=not new
    )


def connect_to_write(path: Path) -> sqlite3.Connection:
    """In WAL mode, so that readers are in nobody's way and `kill -9` loses nothing."""
    connection = sqlite3.connect(path, timeout=_LOCKED_FOR_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Changes nothing, whether or not somebody writes."""
    # Nobody has a file without -wal open. SQLite would make one there, and leave it.
    still = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{still}",
        uri=True,
        timeout=_LOCKED_FOR_S,
        check_same_thread=False,
    )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What goes wrong with the file inside is a StudyError that names it."""
    try:
        yield
    except (*DATABASE_ERRORS, RuntimeError) as error:
        raise StudyError(
            f"{path}: cannot be used as a study's record: {cause_of(error)}; mend that, restore it "
            f"from a copy, or move {path.parent} away and begin again"
        ) from None


def cause_of(error: Exception) -> str:
    """The first line of what SQLite said, from below what Optuna and SQLAlchemy made of it."""
    inner = error.__cause__ if isinstance(error, StorageInternalError) else error
    return str(getattr(inner, "orig", inner)).splitlines()[0]
