"""`client.deliveries`, blocking and to be awaited."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Unpack

from toril_client import deliveries as calls
from toril_client.calls import LONGEST_WAIT_S, AsyncCalling, Calling
from toril_client.deliveries import Delivery, DeliveryFilter, EnvelopeOptions, Replayed, ReplayOptions


def _listed(target: str | None, status: str | None) -> dict[str, str]:
    given = {"target": target, "status": status}
    return {name: value for name, value in given.items() if value is not None}


class Deliveries:
    """Posts envelopes to targets, and looks after what becomes of them."""

    def __init__(self, call: Calling) -> None:
        self._call = call

    def enqueue(
        self, target: str, body: Any = None, *, key: str | None = None, **options: Unpack[EnvelopeOptions]
    ) -> Delivery:
        """Hand an envelope over. The same `key` with the same envelope is the same delivery."""
        return self._call(calls.enqueue(target, body, key, options))

    def get(self, job_id: str) -> Delivery:
        """Return a delivery; raises `TorilError` with code `job_not_found`."""
        return self._call(calls.get(job_id, 0))

    def wait(self, job_id: str, wait_s: float = 30.0) -> Delivery:
        """Return a delivery as soon as it has ended; raises `TimeoutError` when it takes longer."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.001, until - time.monotonic())
            found = self._call(calls.get(job_id, min(left_s, LONGEST_WAIT_S)))
            if found.ended:
                return found
            if time.monotonic() >= until:
                raise TimeoutError(f"delivery {job_id} is {found.status} after {wait_s:g} s")

    def list(
        self, target: str | None = None, status: str | None = None, **rules: Unpack[DeliveryFilter]
    ) -> Iterator[Delivery]:
        """Go through deliveries, the newest first; `status` is one or several with commas."""
        return self._all("/jobs", _listed(target, status), rules)

    def response_body(self, job_id: str) -> bytes:
        """Return the body of the target's last answer."""
        return self._call(calls.response_body(job_id))

    def cancel(self, job_id: str) -> Delivery:
        """Cancel a delivery that has not ended."""
        return self._call(calls.cancel(job_id))

    def dead_letters(self, target: str, **rules: Unpack[DeliveryFilter]) -> Iterator[Delivery]:
        """Go through the dead letters of a target, the newest first."""
        return self._all(calls.dead_letters_path(target), {}, rules)

    def replay(self, target: str, **options: Unpack[ReplayOptions]) -> Replayed:
        """Replay dead letters: `job_ids`, a filter, or `all=True`; `dry_run=True` only says which."""
        return self._call(calls.replay(target, options))

    def purge(self, target: str, job_id: str) -> None:
        """Remove a dead letter for good."""
        self._call(calls.purge(target, job_id))

    def _all(self, where: str, params: dict[str, str], rules: DeliveryFilter) -> Iterator[Delivery]:
        cursor = None
        while True:
            page = self._call(calls.page(where, cursor, params, rules))
            yield from page.deliveries
            if (cursor := page.next_cursor) is None:
                return


class AsyncDeliveries:
    """The same, to be awaited."""

    def __init__(self, call: AsyncCalling) -> None:
        self._call = call

    async def enqueue(
        self, target: str, body: Any = None, *, key: str | None = None, **options: Unpack[EnvelopeOptions]
    ) -> Delivery:
        """Hand an envelope over. The same `key` with the same envelope is the same delivery."""
        return await self._call(calls.enqueue(target, body, key, options))

    async def get(self, job_id: str) -> Delivery:
        """Return a delivery; raises `TorilError` with code `job_not_found`."""
        return await self._call(calls.get(job_id, 0))

    async def wait(self, job_id: str, wait_s: float = 30.0) -> Delivery:
        """Return a delivery as soon as it has ended; raises `TimeoutError` when it takes longer."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.001, until - time.monotonic())
            found = await self._call(calls.get(job_id, min(left_s, LONGEST_WAIT_S)))
            if found.ended:
                return found
            if time.monotonic() >= until:
                raise TimeoutError(f"delivery {job_id} is {found.status} after {wait_s:g} s")

    def list(
        self, target: str | None = None, status: str | None = None, **rules: Unpack[DeliveryFilter]
    ) -> AsyncIterator[Delivery]:
        """Go through deliveries, the newest first; `status` is one or several with commas."""
        return self._all("/jobs", _listed(target, status), rules)

    async def response_body(self, job_id: str) -> bytes:
        """Return the body of the target's last answer."""
        return await self._call(calls.response_body(job_id))

    async def cancel(self, job_id: str) -> Delivery:
        """Cancel a delivery that has not ended."""
        return await self._call(calls.cancel(job_id))

    def dead_letters(self, target: str, **rules: Unpack[DeliveryFilter]) -> AsyncIterator[Delivery]:
        """Go through the dead letters of a target, the newest first."""
        return self._all(calls.dead_letters_path(target), {}, rules)

    async def replay(self, target: str, **options: Unpack[ReplayOptions]) -> Replayed:
        """Replay dead letters: `job_ids`, a filter, or `all=True`; `dry_run=True` only says which."""
        return await self._call(calls.replay(target, options))

    async def purge(self, target: str, job_id: str) -> None:
        """Remove a dead letter for good."""
        await self._call(calls.purge(target, job_id))

    async def _all(self, where: str, params: dict[str, str], rules: DeliveryFilter) -> AsyncIterator[Delivery]:
        cursor = None
        while True:
            page = await self._call(calls.page(where, cursor, params, rules))
            for delivery in page.deliveries:
                yield delivery
            if (cursor := page.next_cursor) is None:
                return
