"""Looks up host names, each in a thread, so that a name server that does not answer delays only its own names.

Owns how many look-ups run at once, and what is remembered of them for how long. It must never decide where a request
may go: the caller judges each address, remembered or not.

Why not the event loop's `getaddrinfo`: uvloop looks up two names at a time, so two names that hang make every other
name time out. Why not c-ares (aiodns): it ignores nsswitch.conf, by which systems find names of containers, of mDNS
or of a directory service. `getaddrinfo` in threads keeps the system's answers, `/etc/hosts` included.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from msgspec import Struct

log = structlog.get_logger(__name__)

FRESH_S = 30.0
"""How long addresses are used before they are looked up again."""
STALE_S = 600.0
"""How long addresses are used where no name server answers."""
STALE_AFTER_S = 0.5
"""How long to wait for new addresses where old ones are known."""
FAILED_S = 2.0
"""How long a name that was not found is not looked up again."""
HANGING_S = 5.0
"""The same, at most, for a name whose look-up took longer."""
MOST_AT_ONCE = 128
"""How many names are looked up at once; each takes a thread and a descriptor."""
MOST_KNOWN = 4096
LEAST_S = 1.0
_COMPLAIN_EVERY_S = 30.0

LOOPBACK = ("127.0.0.1", "::1")
"""The addresses of `localhost` and the names below it, whatever a name server says (RFC 6761 6.3)."""

_NOT_THERE = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

LookUp = Callable[[str], Sequence[str]]


def system_addresses(host: str) -> list[str]:
    """Return the addresses that the system knows for a host. Blocks.

    Raises:
        OSError: there are none (`socket.gaierror`), or the system could not ask.
    """
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except ValueError as exc:  # also a UnicodeError, where a part of it is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {exc}") from exc
    except socket.gaierror as exc:
        if exc.errno == socket.EAI_MEMORY:
            raise OSError(errno.ENOMEM, exc.strerror) from exc
        # The system reports an unknown name also where it could not open a file or a socket to find out.
        with socket.socket():
            raise
    return list(dict.fromkeys(_text(*address) for *_, address in found))


def _text(host: str | int, _port: object = 0, _flow: object = 0, zone: int = 0) -> str:
    return f"{host}%{zone}" if zone else str(host)


class _KnownName(Struct, frozen=True):
    """The result of a look-up: addresses, or why there are none; when it ended, and until when it is used."""

    addresses: tuple[str, ...]
    error: OSError | None
    at_s: float
    fresh_until: float


class _Lookup(Struct):
    """A look-up under way, or waiting for its turn: its result, when it was asked for, and how many wait for it."""

    found: asyncio.Future[_KnownName]
    began_s: float
    waiters: int = 0


class NameLookups:
    """Answers each name from memory, or by one look-up for all callers that wait for it.

    Args:
        look_up: looks one name up; called in a thread.
        at_once: how many names are looked up at once.
    """

    def __init__(self, look_up: LookUp = system_addresses, at_once: int = MOST_AT_ONCE) -> None:
        self._look_up = look_up
        self._at_once = at_once
        self._known: dict[str, _KnownName] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._waiting: deque[str] = deque()
        self._running = 0
        self._complained_at: float | None = None

    async def __call__(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, the best one first. A cancelled caller does not end the look-up of others.

        Raises:
            OSError: there are none (`socket.gaierror`), or the system could not ask.
        """
        name = host.lower()
        if name.removesuffix(".").rpartition(".")[2] == "localhost":
            return LOOPBACK
        known = self._known.get(name)
        now = asyncio.get_running_loop().time()
        if known is None or now >= known.fresh_until:
            known = await self._renewed(name, known, now)
        if known.error is not None:
            raise type(known.error)(*known.error.args)
        return known.addresses

    def distrust(self, host: str) -> None:
        """Look this name up again the next time: nothing answers at its addresses."""
        name = host.lower()
        known = self._known.get(name)
        if known is not None and known.error is None:
            # Not for each attempt: a server that is down keeps its address.
            soon = min(known.fresh_until, known.at_s + LEAST_S)
            self._known[name] = _KnownName(known.addresses, None, known.at_s, soon)

    async def _renewed(self, name: str, known: _KnownName | None, now: float) -> _KnownName:
        lookup = self._lookups.get(name) or self._begin(name)
        has_old = known is not None and known.error is None and now < known.at_s + STALE_S
        # A look-up that hangs delays the first callers, and not those that come later.
        patience_s = max(0.0, lookup.began_s + STALE_AFTER_S - now) if has_old else None
        lookup.waiters += 1
        try:
            await asyncio.wait([lookup.found], timeout=patience_s)
        finally:
            lookup.waiters -= 1
        found = lookup.found.result() if lookup.found.done() else None
        if known is not None and has_old and (found is None or _may_pass(found.error)):
            return known
        assert found is not None  # noqa: S101 - waited for without a limit where nothing old is known
        return found

    def _begin(self, name: str) -> _Lookup:
        loop = asyncio.get_running_loop()
        lookup = self._lookups[name] = _Lookup(loop.create_future(), loop.time())
        if self._running < self._at_once:
            self._start(name)
        else:
            self._waiting.append(name)
            self._complain()
        return lookup

    def _start(self, name: str) -> None:
        self._running += 1
        loop = asyncio.get_running_loop()
        # A daemon thread: a look-up that hangs does not keep the process from ending.
        thread = threading.Thread(target=self._work, args=(loop, name, loop.time()), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            loop.call_soon(self._ended, name, loop.time(), (), OSError(errno.ENOMEM, str(exc)))

    def _work(self, loop: asyncio.AbstractEventLoop, name: str, began: float) -> None:
        """Look a name up, in a thread, and tell the loop."""
        addresses: tuple[str, ...] = ()
        error: OSError | None = None
        try:
            addresses = tuple(self._look_up(name))
        except OSError as exc:
            error = exc.with_traceback(None)
        except Exception as exc:
            # A task boundary: without a result the look-up would keep its place for ever.
            log.exception("names.failed", name=name)
            error = OSError(errno.EIO, str(exc))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._ended, name, began, addresses, error)

    def _ended(self, name: str, began: float, addresses: tuple[str, ...], error: OSError | None) -> None:
        self._running -= 1
        now = asyncio.get_running_loop().time()
        for_s = FRESH_S if error is None else min(max(now - began, FAILED_S), HANGING_S)
        if error is not None and not isinstance(error, socket.gaierror):
            for_s = 0.0  # the system could not ask, so the name may exist
        found = _KnownName(addresses, error, now, now + for_s)
        old = self._known.get(name)
        if old is not None and old.error is None and _may_pass(error) and now < old.at_s + STALE_S:
            # The old addresses are used meanwhile.
            self._remember(name, _KnownName(old.addresses, None, old.at_s, now + for_s))
        else:
            self._remember(name, found)
        self._lookups.pop(name).found.set_result(found)
        self._start_next()

    def _remember(self, name: str, known: _KnownName) -> None:
        self._known.pop(name, None)
        self._known[name] = known
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _start_next(self) -> None:
        while self._waiting and self._running < self._at_once:
            name = self._waiting.popleft()
            if self._lookups[name].waiters:
                self._start(name)
            else:
                del self._lookups[name]  # all callers have given up

    def _complain(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._complained_at is None or now - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = now
            log.warning("names.slow", at_once=self._at_once, hint="name servers answer late: look-ups wait for others")


def _may_pass(error: OSError | None) -> bool:
    """Return True if a look-up failed for another reason than the name: no server answered, or none was asked."""
    if error is None:
        return False
    return not isinstance(error, socket.gaierror) or error.errno not in _NOT_THERE
