"""One TCP connection to Redis that speaks RESP, from when it is opened until it is closed.

Commands of one event-loop turn are sent together, the first of many before the turn ends; replies are matched in
order. Commands that wait too long, or whose connection breaks, fail. `toril.redis.connection` reconnects.
"""

from __future__ import annotations

import asyncio
import errno
import os
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

# Error replies of a Redis that cannot serve now: trying again may help.
_PASSING = (
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "UNBLOCKED",
)
# After a failover the old master replies READONLY, and UNBLOCKED to what waits: the address has to be resolved again.
_RECONNECT = ("READONLY", "MASTERDOWN", "UNBLOCKED")
_ELSEWHERE = re.compile(r"(MOVED|ASK) \d+ (\S*):(\d+)")
# A script met a key that was being moved; what it wrote before that is kept.
_NOT_HERE = "access a non local key in a cluster node"
# Redis 6 puts the error of a script's command after its place in the script; Redis 7 puts the place last, as here.
_IN_SCRIPT = re.compile(
    r"ERR Error running script \(call to (f_\w+)\): (@\S+?:\d+): (?:@?\w+: ?\d+: )?-?(.+)", re.DOTALL
)
_CODE = re.compile(r"[A-Z]{2,} ")
_NO_PERMISSION = "The user executing the script can't "
_MOST_TOLD = 20
# So many bytes, of ten adds or of seventy reads, do not wait for the end of the turn: Redis works on them while it
# makes more. If all waited, Redis and toril would work by turns: with 32 connections a quarter fewer adds a second
# (benchmarks/README.md).
_EARLY_BYTES = 4_096
_WATCH_S = 0.25
# More time for each command without a reply: a transaction of 10,000 adds keeps Redis busy for 0.3 s, and several times
# as long on a busy machine.
_EACH_S = 0.0002


class ReplyError(StoreRefused):
    """An error reply from Redis, with its message."""


class SlotElsewhere(StoreUnavailable):
    """Another node of the Redis Cluster has the keys. Nothing was written; try again.

    `host` is empty if it is that of the node that replied.
    """

    def __init__(self, message: str, host: str = "", port: int = 0) -> None:
        super().__init__(message)
        self.host = host
        self.port = port


class SlotMoved(SlotElsewhere):
    """Another node has the key's slot now (`MOVED`)."""


class KeyMigrated(SlotElsewhere):
    """The key's slot is being moved to another node, and this node does not have the key (`ASK`)."""


class KeysApart(CannotServe):
    """The keys' slot is being moved, and this node has only some of the keys (`TRYAGAIN`)."""


def pack(*args: Argument) -> bytes:
    """Return one command as RESP."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


def reply_text(text: str) -> str:
    """Return an error reply in the form of Redis 7, which always begins with the code, also in scripts."""
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
    """Return the reply of HGETALL (field, value, field, value …) as a mapping."""
    each = iter(flat)
    return dict(zip(each, each, strict=True))


def as_error(text: str) -> StoreError:
    """Return an error reply of Redis as a `StoreError`."""
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
    """Return all replies once the last one is there, or raise the first error among them. No reply is left unread."""
    if not replies:
        return []
    if len(replies) == 1:  # half the time of `asyncio.wait`
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
    """One TCP connection: gathers the commands of an event-loop turn, and matches replies in order.

    `told` holds the missing permissions that were logged already; a new connection gets that of the one before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command_timeout_s: float,
        silence_timeout_s: float,
        told: set[str] | None = None,
    ) -> None:
        self.closed = asyncio.Event()
        self._is_closed = False
        self.why = "it was never made"
        self.server: str | None = None
        self._loop = loop
        self._command_timeout_s = command_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        # None where bytes have to go through TLS first.
        self._descriptor: int | None = None
        self._outgoing: list[bytes] = []
        # One entry per command without a reply; None if its caller has stopped waiting.
        self._waiting: deque[asyncio.Future[Reply] | None] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._looking_at = 0.0
        self._unread = ""
        self._told = set() if told is None else told
        self._sent = 0
        self._gathered = 0
        self._answered = 0
        # (time of the write, commands sent by then, more time for them): gives the wait of the oldest command
        self._writes: deque[tuple[float, int, float]] = deque()

    @property
    def fault(self) -> ConnectionLost:
        """The error of commands that had no reply when the connection ended."""
        return ConnectionLost(f"{self.why}; whether the command ran is unknown")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and transport.get_extra_info("sslcontext") is None:
            self._descriptor = sock.fileno()
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, packed: bytes) -> asyncio.Future[Reply]:
        """Queue one command, which is written when this turn ends or before; fails if the connection is closed."""
        if self._is_closed:
            raise StoreUnavailable(f"there is no connection to Redis: {self.why}")
        future = self._loop.create_future()
        self._waiting.append(future)
        self._gather(packed, 1)
        return future

    def send_many(self, packed: bytes, count: int, wanted: int) -> list[asyncio.Future[Reply]]:
        """Queue several commands in one piece; fails if the connection is closed."""
        if self._is_closed:
            raise StoreUnavailable(f"there is no connection to Redis: {self.why}")
        futures = [self._loop.create_future() for _ in range(wanted)]
        self._waiting.extend([None] * (count - wanted))
        self._waiting.extend(futures)
        self._gather(packed, count)
        return futures

    def _gather(self, packed: bytes, count: int) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        self._sent += count
        self._gathered += len(packed)
        if self._gathered >= _EARLY_BYTES:
            self._flush()

    async def call(self, *args: Argument) -> Reply:
        """Send one command and return its reply."""
        return await self.send(pack(*args))

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed commands in one piece and return all replies; raise the first error reply."""
        return await settled(self.send_many(b"".join(commands), len(commands), len(commands)))

    def _flush(self) -> None:
        outgoing = self._outgoing
        if not outgoing:
            return  # all of it was written early
        self._outgoing, self._gathered = [], 0
        if self._transport is None or self._transport.is_closing():
            return  # connection_lost fails the futures
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        if len(data) >= _EARLY_BYTES:
            data = self._write_now(self._transport, data)
        if data:
            self._transport.write(data)
        now, extra_s = self._loop.time(), (self._sent - self._answered) * _EACH_S
        if self._writes:  # Redis replies in order, so the oldest command is due first
            written, _, earlier_s = self._writes[-1]
            extra_s = max(extra_s, written + earlier_s - now)
        self._writes.append((now, self._sent, extra_s))
        if self._watch is None:
            self._look_later()

    def _write_now(self, transport: asyncio.Transport, data: bytes) -> bytes:
        """Write what the socket takes at once, and return the rest. uvloop's transports write when the turn is over."""
        if self._descriptor is None or transport.get_write_buffer_size():
            return data
        try:
            return data[os.write(self._descriptor, data) :]
        except OSError:  # the socket is full, or broken: the transport handles both
            return data

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except hiredis.ProtocolError as exc:
                self.drop(f"Redis sent data that is not RESP: {exc}")
                return
            if reply is False:
                return
            if not waiting:
                # A full server sends this error without a command, and disconnects.
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
            text = self._unread or text  # the reply of the command that could not be queued says why
        text = reply_text(text)
        if text.startswith("NOPERM"):
            self._tell_of_permission(text)
        future.set_exception(as_error(text))
        if text.startswith(_RECONNECT):
            self._loop.call_soon(self.drop, text)

    def _tell_of_permission(self, text: str) -> None:
        """Log a missing permission, once for each text: only the operator can grant it."""
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            log.error("redis.permission_missing", error=text, hint="docs/how-to/redis-acl.md has the ACL line")

    def _look_later(self) -> None:
        # Less often where commands may take long: forty connections that block would take 0.3 % of a core.
        self._looking_at = self._loop.time() + max(_WATCH_S, self._command_timeout_s / 10)
        self._watch = self._loop.call_at(self._looking_at, self._look)

    def _look(self) -> None:
        """Fail commands that wait too long; close the connection if no reply comes at all."""
        self._watch = None
        while self._writes and self._writes[0][1] <= self._answered:
            self._writes.popleft()
        if not self._writes:
            return
        now = self._loop.time()
        written, _, extra_s = self._writes[0]
        if now - self._looking_at > _WATCH_S:
            # This process was stopped or busy: replies may have arrived and be unread.
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
        """Close the connection; commands without a reply fail."""
        self.why = why
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        if not self._is_closed:
            name = errno.errorcode.get(exc.errno or 0, "") if isinstance(exc, OSError) else ""
            self.why = f"the connection to Redis broke ({name or exc or 'closed by Redis'})"
        self._end()

    def _end(self) -> None:
        self._is_closed = True
        self.closed.set()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(self.fault)
