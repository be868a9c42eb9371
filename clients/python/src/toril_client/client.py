"""The two clients. Their methods say the same; one blocks and the other is awaited."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar, Unpack, overload

import httpx

from toril_client import calls
from toril_client import deliveries as delivery_calls
from toril_client.calls import Call, EventLines
from toril_client.delivery_clients import AsyncDeliveries, Deliveries
from toril_client.endpoint import EndpointOptions
from toril_client.errors import TorilError
from toril_client.groups import AsyncGroups, GroupOption, Groups, in_group
from toril_client.jobs import Event, Job, NewJob
from toril_client.worker import Handler, Worker

T = TypeVar("T")
STATES = ("waiting", "active", "completed", "failed")
_SILENCE = httpx.Timeout(10.0, read=45.0)
_GONE = "toril cannot be reached"


def _verified(url: str) -> bool:
    """Whether there is a certificate to verify. Without one, reading all authorities for it would cost 20 ms."""
    return not url.startswith("http://")


class _Workers:
    """What both clients have alike: workers on sockets."""

    _url: str
    _token: str

    @overload
    def worker(
        self, queue: str, handler: Handler, *, concurrency: int = 1, timeout_ms: int | None = None
    ) -> Worker: ...

    @overload
    def worker(
        self, queue: str, *, concurrency: int = 1, timeout_ms: int | None = None
    ) -> Callable[[Handler], Worker]: ...

    def worker(
        self, queue: str, handler: Handler | None = None, *, concurrency: int = 1, timeout_ms: int | None = None
    ) -> Worker | Callable[[Handler], Worker]:
        """A worker on a socket; without a handler, what makes one of the function that it decorates.

        `await worker.run()` works until it is stopped, `worker.run_forever()` until SIGTERM or Ctrl-C.
        """

        def made(handler: Handler) -> Worker:
            return Worker(self._url, self._token, queue, handler, concurrency=concurrency, timeout_ms=timeout_ms)

        return made if handler is None else made(handler)


class Client(_Workers):
    """A blocking client. Calls that can be repeated safely are, while the server is away for a moment."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, verify=_verified(url))
        self.deliveries = Deliveries(self.call)
        self.groups = Groups(self.call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def add(self, queue: str, name: str, data: Any, *, group: GroupOption | None = None, **options: Any) -> Job:
        """Add one job; options as BullMQ spells them (`attempts`, `delay`, `backoff`, `jobId` …), times in ms."""
        return self.add_bulk(queue, [NewJob(name, data, in_group(group, options))])[0]

    def add_bulk(self, queue: str, jobs: Iterable[NewJob]) -> list[Job]:
        """Add jobs, all or none."""
        return self.call(calls.add(queue, jobs))

    def get(self, queue: str, job_id: str) -> Job:
        """One job; raises `TorilError` with code `job_not_found`."""
        return self.call(calls.get(queue, job_id))

    def jobs(self, queue: str, states: Sequence[str] = STATES, start: int = 0, length: int = 10) -> list[Job]:
        """The newest jobs of each state, at most 100 of each."""
        return self.call(calls.page(queue, states, start, length))[1]

    def counts(self, queue: str, states: Sequence[str] = (*STATES, "delayed")) -> dict[str, int]:
        """How many jobs are in each state."""
        return self.call(calls.page(queue, states, 0, 0))[0]

    def logs(self, queue: str, job_id: str, start: int = 0, end: int = -1) -> list[str]:
        """A job's log lines, oldest first."""
        return self.call(calls.logs(queue, job_id, start, end))

    def result(self, queue: str, job_id: str, wait_s: float = 30.0) -> Any:
        """Wait for a job's return value; raises `JobFailed`, or `TimeoutError` when it takes longer."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            done, value = self.call(calls.result(queue, job_id, left_s))
            if done:
                return value
            if left_s <= calls.LONGEST_WAIT_S and time.monotonic() >= until:
                raise TimeoutError(f"job {job_id} of {queue} is {value['state']} after {wait_s:g} s")

    def search(self, queue: str, where: str, *, states: Sequence[str] = (), order: str = "newest") -> Iterator[Job]:
        """Go through the jobs that match, as `data.customer.id = 42 and failedReason ~ timeout`."""
        cursor: str | None = None
        while True:
            found = self.call(calls.search(queue, where, states, order, cursor))
            yield from found.jobs
            if (cursor := found.next_cursor) is None:
                return

    def bulk(self, queue: str, action: calls.BulkAction, **options: Unpack[calls.BulkOptions]) -> calls.BulkResult:
        """Retry, promote, remove or delay many jobs: `ids`, or all in `states` that match `where`."""
        return self.call(calls.bulk(queue, action, options))

    def retry(self, queue: str, job_id: str) -> None:
        """Retry a failed or completed job."""
        self.call(calls.job_action(queue, job_id, "retry"))

    def promote(self, queue: str, job_id: str) -> None:
        """Move a delayed job to waiting."""
        self.call(calls.job_action(queue, job_id, "promote"))

    def remove(self, queue: str, job_id: str) -> None:
        """Remove a job and its children."""
        self.call(calls.remove(queue, job_id))

    def pause(self, queue: str) -> None:
        """Pause a queue: no worker takes jobs from it."""
        self.call(calls.queue_action(queue, "pause"))

    def resume(self, queue: str) -> None:
        """Resume a paused queue."""
        self.call(calls.queue_action(queue, "resume"))

    def targets(self) -> list[dict[str, Any]]:
        """Return every target with its status."""
        return self.call(delivery_calls.targets())

    def target(self, name: str) -> dict[str, Any]:
        """Return a target with its status: `breaker`, `depth`, `dead_letters`, `paused` …"""
        return self.call(delivery_calls.target(name))

    def pause_target(self, name: str) -> None:
        """Pause a target on all instances."""
        self.call(delivery_calls.switch_target(name, "pause"))

    def resume_target(self, name: str) -> None:
        """Resume a paused target, and end its hold."""
        self.call(delivery_calls.switch_target(name, "resume"))

    def register_worker(self, queue: str, url: str, **options: Unpack[EndpointOptions]) -> None:
        """Register an endpoint as the worker of a queue, in place of the one that was."""
        self.call(calls.register(queue, url, options))

    def unregister_worker(self, queue: str) -> None:
        """Remove the registered worker of a queue."""
        self.call(calls.unregister(queue))

    def workers(self) -> dict[str, str]:
        """Every registered endpoint's URL, by queue."""
        return self.call(calls.workers())

    def events(self, queue: str, since: str | None = None) -> Iterator[Event]:
        """The events of a queue, from now on or from behind an event's id. Connects again by itself."""
        lines = EventLines(since)
        tried = 0
        while True:
            try:
                with self._http.stream(
                    "GET", calls.events_path(queue), headers=lines.headers(), timeout=_SILENCE
                ) as response:
                    if response.status_code != 503:
                        if response.status_code >= 400:
                            response.read()
                        calls.checked(Call("GET", "", lambda _: None), response)
                        for line in response.iter_lines():
                            event = lines.take(line, json.loads)
                            if event is not None:
                                tried = 0
                                yield event
            except httpx.TransportError:
                pass
            time.sleep(min(calls.pause_s(tried), 5.0))
            tried = min(tried + 1, 10)

    def call(self, call: Call[T]) -> T:
        """Send one of `toril_client.calls`, again where that is safe, and read its answer."""
        tried = 0
        while True:
            try:
                response = self._http.request(
                    call.method,
                    call.path,
                    json=call.json,
                    params=call.params,
                    headers=call.headers,
                    timeout=call.timeout_s,
                )
            except httpx.TransportError as exc:
                if call.once or tried + 1 >= calls.TRIES:
                    raise TorilError(f"{_GONE}: {exc}") from exc
            else:
                if not calls.worth_another(call, response, tried):
                    return calls.checked(call, response)
            time.sleep(calls.pause_s(tried))
            tried += 1


class AsyncClient(_Workers):
    """The same, to be awaited."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._http = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {token}"}, verify=_verified(url)
        )
        self.deliveries = AsyncDeliveries(self.call)
        self.groups = AsyncGroups(self.call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def add(self, queue: str, name: str, data: Any, *, group: GroupOption | None = None, **options: Any) -> Job:
        """Add one job; options as BullMQ spells them, times in ms."""
        return (await self.add_bulk(queue, [NewJob(name, data, in_group(group, options))]))[0]

    async def add_bulk(self, queue: str, jobs: Iterable[NewJob]) -> list[Job]:
        """Add jobs, all or none."""
        return await self.call(calls.add(queue, jobs))

    async def get(self, queue: str, job_id: str) -> Job:
        """One job; raises `TorilError` with code `job_not_found`."""
        return await self.call(calls.get(queue, job_id))

    async def jobs(self, queue: str, states: Sequence[str] = STATES, start: int = 0, length: int = 10) -> list[Job]:
        """The newest jobs of each state, at most 100 of each."""
        return (await self.call(calls.page(queue, states, start, length)))[1]

    async def counts(self, queue: str, states: Sequence[str] = (*STATES, "delayed")) -> dict[str, int]:
        """How many jobs are in each state."""
        return (await self.call(calls.page(queue, states, 0, 0)))[0]

    async def logs(self, queue: str, job_id: str, start: int = 0, end: int = -1) -> list[str]:
        """A job's log lines, oldest first."""
        return await self.call(calls.logs(queue, job_id, start, end))

    async def result(self, queue: str, job_id: str, wait_s: float = 30.0) -> Any:
        """Wait for a job's return value; raises `JobFailed`, or `TimeoutError` when it takes longer."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            done, value = await self.call(calls.result(queue, job_id, left_s))
            if done:
                return value
            if left_s <= calls.LONGEST_WAIT_S and time.monotonic() >= until:
                raise TimeoutError(f"job {job_id} of {queue} is {value['state']} after {wait_s:g} s")

    async def search(
        self, queue: str, where: str, *, states: Sequence[str] = (), order: str = "newest"
    ) -> AsyncIterator[Job]:
        """Go through the jobs that match, as `data.customer.id = 42 and failedReason ~ timeout`."""
        cursor: str | None = None
        while True:
            found = await self.call(calls.search(queue, where, states, order, cursor))
            for job in found.jobs:
                yield job
            if (cursor := found.next_cursor) is None:
                return

    async def bulk(
        self, queue: str, action: calls.BulkAction, **options: Unpack[calls.BulkOptions]
    ) -> calls.BulkResult:
        """Retry, promote, remove or delay many jobs: `ids`, or all in `states` that match `where`."""
        return await self.call(calls.bulk(queue, action, options))

    async def retry(self, queue: str, job_id: str) -> None:
        """Retry a failed or completed job."""
        await self.call(calls.job_action(queue, job_id, "retry"))

    async def promote(self, queue: str, job_id: str) -> None:
        """Move a delayed job to waiting."""
        await self.call(calls.job_action(queue, job_id, "promote"))

    async def remove(self, queue: str, job_id: str) -> None:
        """Remove a job and its children."""
        await self.call(calls.remove(queue, job_id))

    async def pause(self, queue: str) -> None:
        """Pause a queue: no worker takes jobs from it."""
        await self.call(calls.queue_action(queue, "pause"))

    async def resume(self, queue: str) -> None:
        """Resume a paused queue."""
        await self.call(calls.queue_action(queue, "resume"))

    async def targets(self) -> list[dict[str, Any]]:
        """Return every target with its status."""
        return await self.call(delivery_calls.targets())

    async def target(self, name: str) -> dict[str, Any]:
        """Return a target with its status: `breaker`, `depth`, `dead_letters`, `paused` …"""
        return await self.call(delivery_calls.target(name))

    async def pause_target(self, name: str) -> None:
        """Pause a target on all instances."""
        await self.call(delivery_calls.switch_target(name, "pause"))

    async def resume_target(self, name: str) -> None:
        """Resume a paused target, and end its hold."""
        await self.call(delivery_calls.switch_target(name, "resume"))

    async def register_worker(self, queue: str, url: str, **options: Unpack[EndpointOptions]) -> None:
        """Register an endpoint as the worker of a queue, in place of the one that was."""
        await self.call(calls.register(queue, url, options))

    async def unregister_worker(self, queue: str) -> None:
        """Remove the registered worker of a queue."""
        await self.call(calls.unregister(queue))

    async def workers(self) -> dict[str, str]:
        """Every registered endpoint's URL, by queue."""
        return await self.call(calls.workers())

    async def events(self, queue: str, since: str | None = None) -> AsyncIterator[Event]:
        """The events of a queue, from now on or from behind an event's id. Connects again by itself."""
        lines = EventLines(since)
        tried = 0
        while True:
            try:
                async with self._http.stream(
                    "GET", calls.events_path(queue), headers=lines.headers(), timeout=_SILENCE
                ) as response:
                    if response.status_code != 503:
                        if response.status_code >= 400:
                            await response.aread()
                        calls.checked(Call("GET", "", lambda _: None), response)
                        async for line in response.aiter_lines():
                            event = lines.take(line, json.loads)
                            if event is not None:
                                tried = 0
                                yield event
            except httpx.TransportError:
                pass
            await asyncio.sleep(min(calls.pause_s(tried), 5.0))
            tried = min(tried + 1, 10)

    async def call(self, call: Call[T]) -> T:
        """Send one of `toril_client.calls`, again where that is safe, and read its answer."""
        tried = 0
        while True:
            try:
                response = await self._http.request(
                    call.method,
                    call.path,
                    json=call.json,
                    params=call.params,
                    headers=call.headers,
                    timeout=call.timeout_s,
                )
            except httpx.TransportError as exc:
                if call.once or tried + 1 >= calls.TRIES:
                    raise TorilError(f"{_GONE}: {exc}") from exc
            else:
                if not calls.worth_another(call, response, tried):
                    return calls.checked(call, response)
            await asyncio.sleep(calls.pause_s(tried))
            tried += 1
