import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from toril.core.errors import LeaseLost, StoreTimeout
from toril.core.lease import Lease
from toril.core.stored_job import read_options
from toril.engine.lock_tokens import LockTokens
from toril.queues import pulls
from toril.queues.pulls import Pulls
from toril.queues.rules.pull import read_action, read_lease_request
from toril.telemetry.measures import UNMEASURED


def pulls_of(stores: Any) -> Pulls:
    """The pull workers of a process; `stores` stand for the queues with leases and for the handed-over jobs, too."""
    tokens = LockTokens([], "instance")
    shared = SimpleNamespace(measures=UNMEASURED, tracing=None, waits=None, tokens=tokens, now=lambda: 0.0)
    rules: Any = "the rules of its worker"
    return Pulls(stores, stores, cast(Any, shared), stores, lambda queue: rules, lambda: 0.5)


class Swept:
    """The queues with leases, and the store of each: how often one was swept."""

    def __init__(self) -> None:
        self.looks = 0
        self.swept = asyncio.Event()

    async def all(self) -> list[str]:
        self.looks += 1
        return ["orders"]

    def of(self, queue: str, rules: object) -> "Swept":
        assert rules == "the rules of its worker"
        return self

    async def recover_lapsed(self, interval_ms: int) -> list[bytes]:
        self.swept.set()
        return []


async def test_lapsed_leases_are_recovered_by_the_rules_of_their_workers_so_not_before_these_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulls, "_SWEEP_S", 0.0)
    known = False
    store = Swept()
    made = pulls_of(store)
    async with asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(made.run(lambda: known))
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.looks == 0
        known = True
        async with asyncio.timeout(5):
            await store.swept.wait()
        sweeping.cancel()


class Held:
    """A store with one leased job, whose scripts answer as they are told, one after the other."""

    queue, lock_ms = "orders", 3000

    def __init__(self, answers: list[Exception | None], *, lost: bool, state: str) -> None:
        fields = {b"ats": b"1", b"processedOn": b"1"}
        self._lease = Lease(
            queue="orders",
            job_id=b"1",
            token=b"t",
            fields=fields,
            options=read_options(b'{"attempts":3}'),
            attempts_made=0,
        )
        self._answers, self._lost, self._state = answers, lost, state
        self.calls: list[str] = []

    def of(self, *_: object) -> "Held":
        return self

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        self.calls.append("held")
        if len(self.calls) > 1:
            raise LeaseLost(state=self._state)
        return self._lease

    async def take(self, *_: object) -> Lease:
        self.calls.append("take")
        return self._lease

    async def note_length(self, *_: object) -> None:
        pass

    async def complete(self, *_: object, fetch_next: bool) -> None:
        await self._write("complete")

    async def retry(self, *_: object, fetch_next: bool) -> None:
        await self._write("retry")

    async def release(self, *_: object) -> None:
        await self._write("release")

    async def _write(self, name: str) -> None:
        self.calls.append(name)
        if (answer := self._answers.pop(0)) is not None:
            raise answer

    async def extend(self, leases: list[Lease]) -> set[bytes]:
        self.calls.append("extend")
        if self._answers and isinstance(self._answers[0], StoreTimeout):
            raise self._answers.pop(0)  # type: ignore[misc]
        return {b"1"} if self._lost else set()

    async def note(self, *_: object) -> None:
        pass

    async def settled(self, *_: object) -> None:
        pass


async def settle(store: Held, action: Any) -> None:
    await pulls_of(store).settle("orders", "1", b"t", action)


COMPLETE = read_action("complete", b'{"returnvalue": 1}')
RETRY = read_action("fail", b'{"reason": "x", "retry_in_ms": 9}')
NO_ANSWER = (StoreTimeout(), LeaseLost())


async def test_a_settlement_that_was_not_carried_out_takes_its_lapsed_lock_back() -> None:
    store = Held([*NO_ANSWER, None], lost=False, state="active")
    await settle(store, COMPLETE)
    assert store.calls == ["held", "complete", "complete", "extend", "complete"]


@pytest.mark.parametrize(("action", "state"), [(COMPLETE, "completed"), (COMPLETE, "unknown"), (RETRY, "delayed")])
async def test_a_settlement_whose_answer_was_lost_is_found_by_where_its_job_is(action: Any, state: str) -> None:
    store = Held([*NO_ANSWER], lost=True, state=state)
    await settle(store, action)
    assert store.calls[3:] == ["extend", "held"]


@pytest.mark.parametrize(
    ("action", "state"), [(COMPLETE, "waiting"), (COMPLETE, "active"), (COMPLETE, "failed"), (RETRY, "waiting")]
)
async def test_a_settlement_that_was_never_written_is_not_acknowledged(action: Any, state: str) -> None:
    with pytest.raises(LeaseLost) as refused:
        await settle(Held([*NO_ANSWER], lost=True, state=state), action)
    assert refused.value.state == state


async def test_a_lease_that_ran_out_while_redis_was_silent_is_not_acknowledged_as_extended() -> None:
    with pytest.raises(LeaseLost):
        await settle(Held([StoreTimeout()], lost=True, state="waiting"), read_action("extend", b""))


async def test_a_job_that_is_given_back_or_came_back_by_itself_waits_again() -> None:
    store = Held([*NO_ANSWER], lost=True, state="waiting")
    await settle(store, read_action("release", b""))
    assert store.calls == ["held", "release", "release", "extend", "held"]


async def test_a_caller_who_is_gone_gets_no_jobs_also_where_their_leases_have_run_out() -> None:
    store = Held([LeaseLost()], lost=True, state="waiting")
    made = pulls_of(store)
    pull = made.begin("orders", read_lease_request(b""))
    pull.hang_up()
    assert await made.lease(pull) == []
    assert store.calls == ["take", "release"]
