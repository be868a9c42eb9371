"""A worker on a WebSocket: jobs come in, what the function returns goes out. Connects again by itself.

When the connection breaks, its jobs no longer belong to this worker: their functions are cancelled and nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
import signal
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from toril_client.errors import RetryIn, TorilError, Unrecoverable
from toril_client.jobs import Job

MAX_MESSAGE_BYTES = 10 * 1024 * 1024
"""What the server takes, unless its `max_body_bytes` says otherwise."""
_LONGEST_PAUSE_S = 5.0
_REFUSED = {400: "invalid_request", 401: "unauthorized", 403: "forbidden", 404: "not_found"}


class Task:
    """A job in a worker's hands: its `data`, the `job`, and what can be reported of it."""

    def __init__(self, number: int, payload: dict[str, Any], socket: ClientConnection) -> None:
        self.job = Job.from_json(payload["job"])
        self.data = self.job.data
        self.token: str = payload["token"]
        self._number = number
        self._socket = socket

    async def progress(self, value: Any) -> None:
        """Report how far the job is: any JSON."""
        await self._socket.send(json.dumps({"id": self._number, "data": {"progress": value}}))

    async def log(self, line: str) -> None:
        """Append a line to the job's log."""
        await self._socket.send(json.dumps({"id": self._number, "data": {"log": line}}))


Handler = Callable[[Task], Awaitable[Any] | Any]


class Worker:
    """Consumes a queue over a socket.

    `handler` is the function itself, to be called by tests.

    Args:
        url: toril's, `http://…`.
        token: an API token.
        queue: whose jobs to take.
        handler: called with a `Task`; what it returns (JSON) completes the job, what it raises fails the attempt. A
            plain function runs in a thread.
        concurrency: how many jobs at once.
        timeout_ms: after which a job counts as failed; without it a job may take as long as it likes.
    """

    def __init__(
        self, url: str, token: str, queue: str, handler: Handler, *, concurrency: int = 1, timeout_ms: int | None = None
    ) -> None:
        query = {"payload": "job"} | ({} if timeout_ms is None else {"timeout": str(timeout_ms)})
        base = url.rstrip("/").replace("http", "ws", 1)
        self._address = f"{base}/ws/queues/{quote(queue, safe='')}/process/{concurrency}?{urlencode(query)}"
        self._headers = {"authorization": f"Bearer {token}"}
        self.handler = handler
        self._stopping = False
        self._socket: ClientConnection | None = None
        self._running: dict[int, asyncio.Task[None]] = {}
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop` is called; returns when the last job is done.

        Raises:
            TorilError: the server refuses this worker for good: a wrong token, a bad queue name.
        """
        failures = 0
        while not self._stopping:
            try:
                async with connect(
                    self._address, additional_headers=self._headers, max_size=None, proxy=None
                ) as socket:
                    failures = 0
                    self._socket = socket
                    self.connected.set()
                    await self._serve(socket)
            except InvalidStatus as exc:
                status = exc.response.status_code
                if status in _REFUSED:
                    text = (exc.response.body or b"").decode(errors="replace")
                    raise TorilError(text, _REFUSED[status], status) from exc
            except (OSError, WebSocketException, TimeoutError):
                pass
            finally:
                self._socket = None
                self.connected.clear()
            if not self._stopping:
                failures += 1
                pause_s = min(0.05 * 2 ** min(failures, 10), _LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    def run_forever(self) -> None:
        """Work until SIGTERM or Ctrl-C, for programs that are nothing but a worker."""
        asyncio.run(self._until_told())

    async def _until_told(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told)
        await self.run()

    def _told(self) -> None:
        asyncio.get_running_loop().create_task(self.stop())

    async def stop(self) -> None:
        """Take no more jobs, finish those at hand, and let `run` return."""
        self._stopping = True
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send('{"data":{"type":"stop"}}')

    async def _serve(self, socket: ClientConnection) -> None:
        async with asyncio.TaskGroup() as tasks:
            with contextlib.suppress(ConnectionClosed):
                async for text in socket:
                    self._hear(json.loads(text), socket, tasks)
            # The socket is closed: jobs that are still running no longer belong to this worker.
            for running in self._running.values():
                running.cancel()

    def _hear(self, message: dict[str, Any], socket: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        data = message.get("data") or {}
        number = message.get("id")
        if data.get("type") == "process" and isinstance(number, int):
            running = tasks.create_task(self._work(number, data["payload"], socket))
            self._running[number] = running
            running.add_done_callback(lambda _: self._running.pop(number, None))
        elif data.get("type") == "cancel" and number in self._running:
            self._running[number].cancel()

    async def _work(self, number: int, payload: dict[str, Any], socket: ClientConnection) -> None:
        text = json.dumps({"id": number} | await self._reply(Task(number, payload, socket)))
        if len(text) > MAX_MESSAGE_BYTES:
            # The server would close the socket, and the next worker would do the same.
            message = f"the result is {len(text)} bytes of JSON, more than {MAX_MESSAGE_BYTES}"
            text = json.dumps({"id": number, "err": {"message": message, "unrecoverable": True}})
        with contextlib.suppress(ConnectionClosed):
            await socket.send(text)

    async def _reply(self, task: Task) -> dict[str, Any]:
        error: dict[str, Any]
        try:
            if inspect.iscoroutinefunction(self.handler):
                result = await self.handler(task)
            else:
                result = await asyncio.to_thread(self.handler, task)
                if inspect.isawaitable(result):
                    result = await result
            json.dumps(result)  # what cannot be sent fails the job, not the worker
        except Unrecoverable as exc:
            error = {"message": str(exc), "unrecoverable": True}
        except RetryIn as exc:
            error = {"message": str(exc), "retryIn": round(exc.seconds * 1000)}
        except Exception as exc:
            error = {"message": str(exc) or type(exc).__name__}
            error["stack"] = "".join(traceback.format_exception(exc))
        else:
            return {"data": {"result": result}}
        return {"err": error}
