"""One connection to Redis while it lasts: RESP out, RESP in.

Commands of one event-loop turn leave in one write; replies are handed out in order. It fails what waits too long or
is cut off, and never connects again: that is `toril.bull.connection`'s.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
import structlog

from toril.core.errors import CannotServe, ConnectionLost, StoreError, StoreRefused, StoreTimeout, StoreUnavailable

log = structlog.get_logger(__name__)

Reply = Any
Argument = str | bytes | int | float

# What Redis says while it cannot serve: not our fault, and worth trying again.
_PASSING = (
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
)
# After a failover the old master answers READONLY: the address has to be looked up again.
_RECONNECT = ("READONLY", "MASTERDOWN")
_ELSEWHERE = re.compile(r"(MOVED|ASK) \d+ (\S*):(\d+)")
# A script has run into a key that was on its way; what it did before that stands.
_NOT_HERE = "access a non local key in a cluster node"
# Redis 6 puts the reply to a script's own command behind where that stands; from 7 on that comes last, as here.
_IN_SCRIPT = re.compile(
    r"ERR Error running script \(call to (f_\w+)\): (@\S+?:\d+): (?:@?\w+: ?\d+: )?-?(.+)", re.DOTALL
)
_CODE = re.compile(r"[A-Z]{2,} ")
_NO_PERMISSION = "The user executing the script can't "
_MOST_TOLD = 20
_WATCH_S = 0.25
# More time for each command that is under way: a transaction of 10,000 adds keeps Redis busy for 0.3 s, and on a busy
# machine for several times that.
_EACH_S = 0.0002


class ReplyError(StoreRefused):
    """An error reply from Redis; the message is Redis' own."""


class SlotElsewhere(StoreUnavailable):
    """The command belongs on another node of the Redis Cluster. Nothing was written; try again.

    `host` is empty where it is that of the node that said so.
    """

    def __init__(self, message: str, host: str = "", port: int = 0) -> None:
        super().__init__(message)
        self.host = host
        self.port = port


class SlotMoved(SlotElsewhere):
    """The key's slot is another node's now (`MOVED`)."""


class KeyMigrated(SlotElsewhere):
    """The key's slot is on its way to another node, and the key is not here any longer, or not yet (`ASK`)."""


class KeysApart(CannotServe):
    """The keys' slot is on its way, and some of the keys are here and others are not (`TRYAGAIN`)."""


def pack(*args: Argument) -> bytes:
    """One command as RESP."""
    return cast(bytes, hiredis.pack_command(args))  # type: ignore[arg-type]


def reply_text(text: str) -> str:
    """An error reply of Redis in the form of Redis 7, which has the code in front also where a script ran into it."""
    found = _IN_SCRIPT.match(text)
    if found is None:
        return text
    script, line, inner = found.groups()
    if inner.startswith(_NO_PERMISSION):
        inner = f"NOPERM {inner}"
    if not _CODE.match(inner):
        return text
    return f"{inner} script: {script}, on {line}."


def fields_of(flat: Sequence[Any]) -> dict[bytes, bytes]:
    """A hash as HGETALL returns it (field, value, field, value …) as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def as_error(text: str) -> StoreError:
    """The error reply of Redis as one of ours."""
    text = reply_text(text)
    if found := _ELSEWHERE.match(text):
        kind, host, port = found.groups()
        if kind == "MOVED":
            return SlotMoved(f"The key is on another node of the Redis Cluster now: {text}", host, int(port))
        return KeyMigrated(f"The key is on its way to another node of the Redis Cluster: {text}", host, int(port))
    if text.startswith("TRYAGAIN"):
        return KeysApart(f"The keys are on their way to another node of the Redis Cluster: {text}")
    if _NOT_HERE in text:
        return ConnectionLost(f"A key is on its way to another node of the Redis Cluster; what ran is unknown: {text}")
    if text.startswith(_PASSING):
        return CannotServe(f"Redis cannot serve now: {text}")
    return ReplyError(text)


async def settled(replies: Sequence[asyncio.Future[Reply]]) -> list[Reply]:
    """Wait for every reply, then raise the first error among them. No reply is left unread."""
    if not replies:
        return []
    if len(replies) == 1:  # half of what `asyncio.wait` takes
        return [await replies[0]]
    try:
        await asyncio.wait(replies)
    except asyncio.CancelledError:
        for reply in replies:
            reply.cancel()
        raise
    faults = [fault for reply in replies if (fault := reply.exception()) is not None]
    if faults:
        raise faults[0]
    return [reply.result() for reply in replies]


class Wire(asyncio.Protocol):
    """One TCP connection: writes gathered per event-loop turn, replies handed out in order.

    `told` has the missing permissions that are logged already; connections that replace one another share it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command_timeout_s: float,
        silence_timeout_s: float,
        told: set[str] | None = None,
    ) -> None:
        self.closed = asyncio.Event()
        self.why = "it was never made"
        self._loop = loop
        self._command_timeout_s = command_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        # One entry per command without a reply; None where nobody waits for it any more.
        self._waiting: deque[asyncio.Future[Reply] | None] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._looking_at = 0.0
        self._unread = ""
        self._told = set() if told is None else told
        self._sent = 0
        self._answered = 0
        # (time of the write, commands sent by then, more time for them): how long the oldest command has been waiting
        self._writes: deque[tuple[float, int, float]] = deque()

    @property
    def fault(self) -> ConnectionLost:
        """Why the connection ended, as the error of what was in flight."""
        return ConnectionLost(f"{self.why}; whether the command ran is unknown")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, packed: bytes) -> asyncio.Future[Reply]:
        """Queue one command for the write at the end of this turn; a closed connection refuses it."""
        if self.closed.is_set():
            raise StoreUnavailable(f"there is no connection to Redis: {self.why}")
        future = self._loop.create_future()
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        self._waiting.append(future)
        self._sent += 1
        return future

    def send_many(self, packed: bytes, count: int, wanted: int) -> list[asyncio.Future[Reply]]:
        """Queue several commands as one piece; a closed connection refuses them."""
        if self.closed.is_set():
            raise StoreUnavailable(f"there is no connection to Redis: {self.why}")
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        futures = [self._loop.create_future() for _ in range(wanted)]
        self._waiting.extend([None] * (count - wanted))
        self._waiting.extend(futures)
        self._sent += count
        return futures

    async def call(self, *args: Argument) -> Reply:
        """Send one command and wait for its reply."""
        return await self.send(pack(*args))

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed commands as one piece and wait for all replies; the first error reply is raised."""
        return await settled(self.send_many(b"".join(commands), len(commands), len(commands)))

    def _flush(self) -> None:
        outgoing = self._outgoing
        self._outgoing = []
        if self._transport is None or self._transport.is_closing():
            return  # connection_lost fails the futures
        self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
        now, extra_s = self._loop.time(), (self._sent - self._answered) * _EACH_S
        if self._writes:  # Redis answers in order, so nothing can be due before what was sent earlier
            written, _, earlier_s = self._writes[-1]
            extra_s = max(extra_s, written + earlier_s - now)
        self._writes.append((now, self._sent, extra_s))
        if self._watch is None:
            self._look_later()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except hiredis.ProtocolError as exc:
                self.drop(f"Redis sent what is not RESP: {exc}")
                return
            if reply is False:
                return
            if not waiting:
                # A full server says so without being asked, and hangs up.
                self.drop(f"Redis said {reply} without being asked")
                return
            self._answered += 1
            future = waiting.popleft()
            if future is None or future.done():
                if isinstance(reply, hiredis.ReplyError):
                    self._unread = str(reply)
                continue
            if isinstance(reply, hiredis.ReplyError):
                self._refuse(future, str(reply))
            else:
                future.set_result(reply)

    def _refuse(self, future: asyncio.Future[Reply], text: str) -> None:
        if text.startswith("EXECABORT"):
            text = self._unread or text  # why a command could not be queued stood in that command's own reply
        text = reply_text(text)
        if text.startswith("NOPERM"):
            self._tell_of_permission(text)
        future.set_exception(as_error(text))
        if text.startswith(_RECONNECT):
            self._loop.call_soon(self.drop, text)

    def _tell_of_permission(self, text: str) -> None:
        """Log a missing permission, once for each text: nothing but the operator can mend it."""
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            log.error("redis.permission_missing", error=text, hint="docs/operations.md, Permissions, has the ACL line")

    def _look_later(self) -> None:
        self._looking_at = self._loop.time() + _WATCH_S
        self._watch = self._loop.call_at(self._looking_at, self._look)

    def _look(self) -> None:
        """Fail commands that wait too long; give the connection up when nothing comes at all."""
        self._watch = None
        while self._writes and self._writes[0][1] <= self._answered:
            self._writes.popleft()
        if not self._writes:
            return
        now = self._loop.time()
        written, _, extra_s = self._writes[0]
        if now - self._looking_at > _WATCH_S:
            # It was this process that stood still; the replies may be there already, unread.
            self._look_later()
            return
        if now - written > self._silence_timeout_s + extra_s:
            self.drop(f"Redis has not answered for {self._silence_timeout_s:g} s")
            return
        overdue = self._answered
        for written, sent, extra_s in self._writes:
            if now - written <= self._command_timeout_s + extra_s:
                break
            overdue = sent
        for position in range(overdue - self._answered):
            future = self._waiting[position]
            self._waiting[position] = None
            if future is not None and not future.done():
                future.set_exception(StoreTimeout(f"Redis has not answered for {self._command_timeout_s:g} s"))
        self._look_later()

    def drop(self, why: str) -> None:
        """Give the connection up; what is in flight fails."""
        self.why = why
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        if not self.closed.is_set():
            name = errno.errorcode.get(exc.errno or 0, "") if isinstance(exc, OSError) else ""
            self.why = f"the connection to Redis broke ({name or exc or 'closed by Redis'})"
        self._end()

    def _end(self) -> None:
        self.closed.set()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(self.fault)
