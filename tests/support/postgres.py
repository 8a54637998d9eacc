"""A PostgreSQL server of a test run's own, in a folder that goes with it; a database for each test.

Nobody can reach it but over a socket in its folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError

from control_plane.store.database import Database
from support import postgres_program

_START_S_MAX = 30.0
_TEMPLATE = "migrated"
# What a crash would leave of it is of no use to anybody.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "log_min_messages": "fatal",
}


class Server:
    """A running server, with one migrated database to copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        Database.open(self._url(_TEMPLATE)).close()

    def new_database(self) -> str:
        """Return the URL of a database with the schema and no rows."""
        name = f"test_{next(self._numbers)}"
        _execute(self._url("postgres"), f"create database {name} template {_TEMPLATE}")
        return self._url(name)

    def _url(self, name: str) -> str:
        return _url(self._folder, name)


@contextmanager
def server() -> Iterator[Server]:
    """Run a server; raises RuntimeError if it does not start."""
    program = postgres_program.find()
    assert program is not None, "a test that needs it is marked so"
    folder = Path(tempfile.mkdtemp(prefix="shoal-postgres-"))
    user = postgres_program.user() if os.geteuid() == 0 else None
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        with _running(program, folder, user):
            _execute(_url(folder, "postgres"), f"create database {_TEMPLATE}")
            yield Server(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(program: str, folder: Path, user: pwd.struct_passwd | None) -> Iterator[None]:
    data, who = folder / "data", user.pw_name if user else None
    group = user.pw_gid if user else None
    initialise = [str(Path(program).parent / "initdb"), "--no-sync", "--encoding=UTF8"]
    initialise += ["--locale=C", "--auth=trust", "--username=shoal", f"--pgdata={data}"]
    subprocess.run(
        initialise, check=True, user=who, group=group, cwd=folder, stdout=subprocess.DEVNULL
    )
    command = [program, "-D", str(data), "-k", str(folder)]
    for name, value in _SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    with subprocess.Popen(command, user=who, group=group, cwd=folder) as process:
        try:
            _await(folder, process)
            yield
        finally:
            process.terminate()


def _await(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OperationalError):
            _execute(_url(folder, "postgres"), "select 1")
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start in {folder}")


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def _url(folder: Path, name: str) -> str:
    where = {"host": str(folder)}
    url = URL.create("postgresql+psycopg", username="shoal", database=name, query=where)
    return url.render_as_string()
