"""A PgBouncer of the tests' own in transaction mode, in front of their PostgreSQL.

It refuses to run as root; then it runs as ``nobody``, like the PostgreSQL.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.support.ports import free_port
from tests.support.postgres import USER, PostgresProcess

SERVERS = 2
"""How many connections to PostgreSQL the clients share: fewer than they have, so that statements meet other servers."""


class NoPgBouncer(Exception):
    """It is not installed."""


class PgBouncer:
    """One PgBouncer on 127.0.0.1, as it is delivered: transaction mode, and no startup parameter ignored."""

    def __init__(self, postgres: PostgresProcess) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise NoPgBouncer("no PgBouncer: apt-get install pgbouncer")
        self._program = program
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="toril-pgbouncer-", dir="/tmp"))
        (self._folder / "users.txt").write_text(f'"{USER}" ""\n')
        self._config = self._folder / "pgbouncer.ini"
        self._config.write_text(
            f"""[databases]
* = host=127.0.0.1 port={postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self._folder}/users.txt
pool_mode = transaction
default_pool_size = {SERVERS}
"""
        )
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user is not None:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        log = self._folder / "log"
        as_user: dict[str, object] = {}
        if self._user is not None:
            as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": (), "cwd": "/"}
        with log.open("wb") as printed:
            self._process = subprocess.Popen(
                [self._program, self._config], stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, **as_user
            )
        until = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"PgBouncer did not start\n{log.read_text(errors='replace')}")
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def through(self, url: str) -> str:
        """The URL by which a database of the PostgreSQL is reached through it."""
        return urlsplit(url)._replace(netloc=f"{USER}@127.0.0.1:{self.port}").geturl()
