"""Takes work over a WebSocket, has an endpoint on this machine do it, and sends what came of it.

The work is that of a queue's jobs (`JobWork`) or a target's deliveries (`DeliveryWork`). A connection
that ends is made anew. On the first signal nothing more is begun: calls under way are broken off, and the socket is
closed, by which the gateway gives them back to the queue without spending an attempt.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from msgspec import Raw, Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from toril import __version__
from toril.cli.gateway_address import GatewayAddress

_MOST_JOB_BYTES = 64 * 1024 * 1024
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_WORK = ("process", "deliver")
_FINAL = frozenset({400, 401, 403, 404})
_NOT_ALLOWED = 4001
_NOT_UNDERSTOOD = 3000

Print = Callable[[str], None]


class LocalWork(Protocol):
    """What a listener does."""

    @property
    def path(self) -> str:
        """The path of the WebSocket that brings the work."""

    @property
    def name(self) -> str:
        """The queue or target that it belongs to."""

    @property
    def url(self) -> str:
        """The endpoint on this machine."""

    def begin(self) -> None:
        """Get ready to call the endpoint; a loop runs."""
        ...

    def do(self, number: int, payload: bytes) -> Coroutine[Any, Any, DoneWork]:
        """Read a piece of work, and return what does it.

        Raises:
            msgspec.DecodeError: this is no gateway of our time.
        """
        ...

    def close(self) -> str | None:
        """Close the connections to the endpoint; return a line about all of the work, if there is one to say."""
        ...


class DoneWork(Struct, frozen=True):
    """The message for the gateway, and the line for the person who looks on, if there is one."""

    message: bytes
    line: str | None


class _Data(Struct, frozen=True):
    type: str = ""
    payload: Raw = Raw(b"")
    reason: str = ""


class _Message(Struct, frozen=True):
    data: _Data = _Data()
    id: int | None = None
    err: Raw = Raw(b"")


_MESSAGE = msgspec.json.Decoder(_Message)


class ListenerRefused(Exception):
    """The gateway will not have this listener, however often it asks; the text says why."""


class Listener:
    """Listens until `stop`.

    Args:
        gateway: where the work comes from.
        work: what to do.
        say: prints a line.
    """

    def __init__(self, gateway: GatewayAddress, work: LocalWork, say: Print) -> None:
        self._gateway = gateway
        self._work = work
        self._say = say
        self._uri = gateway.socket(work.path)
        self._stopping = asyncio.Event()
        self._calls: dict[int, asyncio.Task[None]] = {}

    def stop(self) -> None:
        """Begin nothing more, and give back what is in flight."""
        self._stopping.set()

    async def run(self) -> None:
        """Listen.

        Raises:
            ListenerRefused: the gateway will not have it.
        """
        pause_s = _FIRST_PAUSE_S
        self._work.begin()
        try:
            while not self._stopping.is_set():
                connected = await self._connect()
                if connected is not None:
                    pause_s = _FIRST_PAUSE_S
                    await self._listen(connected)
                if not self._stopping.is_set():
                    await self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnections
                    pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
        finally:
            last = self._work.close()
        if last is not None:
            self._say(last)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _connect(self) -> ClientConnection | None:
        """Return a connection; None where there is none for now, or it is not wanted any longer."""
        async with asyncio.TaskGroup() as tasks:
            connecting = tasks.create_task(self._try_to_connect())
            stopping = tasks.create_task(self._stopping.wait())
            await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
            connecting.cancel()
            stopping.cancel()
        if connecting.cancelled():
            return None
        made = connecting.result()
        if isinstance(made, ListenerRefused):
            raise made
        return made

    async def _try_to_connect(self) -> ClientConnection | ListenerRefused | None:
        gateway = self._gateway
        try:
            return await connect(
                self._uri,
                additional_headers={"authorization": f"Bearer {gateway.token}"},
                user_agent_header=f"toril/{__version__}",
                max_size=_MOST_JOB_BYTES,
            )
        except InvalidStatus as exc:
            status = exc.response.status_code
            body = (exc.response.body or b"")[:200].decode(errors="replace")
            why = f"{gateway.url} refuses: {status} {exc.response.reason_phrase}, {body}".rstrip(", ")
            if status in _FINAL:
                return ListenerRefused(why)
        except InvalidURI as exc:
            return ListenerRefused(str(exc))
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as exc:
            why = f"{gateway.url} cannot be reached: {exc or type(exc).__name__}"
        self._say(f"{why}; tries again")
        return None

    async def _listen(self, socket: ClientConnection) -> None:
        """Work until the connection ends.

        Raises:
            ListenerRefused: the token is no longer valid, or this is not a toril.
        """
        self._say(f"listens to {self._work.name} at {self._gateway.url}, calls {self._work.url}")
        fault: ListenerRefused | None = None
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(self._close_when_stopped(socket))
            try:
                async for message in socket:
                    self._hear(message, socket, tasks)
            except ConnectionClosed:
                pass
            except msgspec.DecodeError as exc:
                fault = ListenerRefused(f"{self._gateway.url} sent a message that is not understood: {exc}")
                await socket.close(_NOT_UNDERSTOOD)
            finally:
                closing.cancel()
                given_back = self._break_off()
        if fault is not None:
            raise fault
        if self._stopping.is_set():
            self._say(f"gave back {given_back} in flight" if given_back else "nothing was in flight")
            return
        if socket.close_code == _NOT_ALLOWED:
            raise ListenerRefused(f"{self._gateway.url} says: {socket.close_reason}")
        lost = f", {given_back} in flight go back to the queue" if given_back else ""
        self._say(f"the connection has ended ({socket.close_code}{lost}); connects again")

    async def _close_when_stopped(self, socket: ClientConnection) -> None:
        await self._stopping.wait()
        await socket.close(1000)

    def _break_off(self) -> int:
        """Break off the calls under way; return how many there were."""
        under_way = list(self._calls.values())
        for call in under_way:
            call.cancel()
        return len(under_way)

    def _hear(self, message: str | bytes, socket: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        said = _MESSAGE.decode(message)
        number, data = said.id, said.data
        if data.type in _WORK and number is not None:
            if self._stopping.is_set():
                return
            work = self._work.do(number, bytes(data.payload))
            call = self._calls[number] = tasks.create_task(self._do(work, socket))
            call.add_done_callback(lambda _: self._calls.pop(number, None))
        elif data.type == "cancel" and number in self._calls:
            self._calls[number].cancel()
            self._say(f"a job was called off ({data.reason})")
        elif bytes(said.err):
            self._say(f"the gateway says: {bytes(said.err)[:200].decode(errors='replace')}")

    async def _do(self, work: Coroutine[Any, Any, DoneWork], socket: ClientConnection) -> None:
        done = await work
        with suppress(ConnectionClosed):
            await socket.send(done.message, text=True)
            if done.line is not None:
                self._say(done.line)


async def listen(gateway: GatewayAddress, work: LocalWork, say: Print) -> None:
    """Listen until SIGINT or SIGTERM; a second one ends the process at once.

    Raises:
        ListenerRefused: the gateway will not have it.
    """
    listener = Listener(gateway, work, say)
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        listener.stop()
        loop.remove_signal_handler(number)  # the next one ends the process

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle, number)
    await listener.run()
