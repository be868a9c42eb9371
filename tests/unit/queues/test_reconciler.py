import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.support import FakeDestination, turns
from toril.core.destination import Destination
from toril.core.errors import InvalidRequest
from toril.engine.supervisor import Supervisor
from toril.queues.reconciler import COMPARE_S, LOOK_S, Reconciler
from toril.testing import FakeClock, FakeRegistry


class Ledger:
    """As much of a supervisor as a reconciler uses: what runs, and every order that came."""

    def __init__(self) -> None:
        self.running: dict[str, str] = {}
        self.orders: list[tuple[str, str]] = []

    def start(self, destination: Destination) -> None:
        self.running[destination.queue] = destination.url
        self.orders.append(("start", destination.queue))

    def pause(self, destination: Destination) -> None:
        self.running.pop(destination.queue, None)
        self.orders.append(("pause", destination.queue))

    def stop(self, queue: str) -> None:
        self.running.pop(queue, None)
        self.orders.append(("stop", queue))


def read(document: bytes) -> Destination:
    """`queue url`, or nothing that can run."""
    queue, _, url = document.decode().partition(" ")
    if not url:
        raise InvalidRequest("url is required")
    return FakeDestination(queue, url=url)


class Following:
    def __init__(self, **registry: Any) -> None:
        self.registry = FakeRegistry(**registry)
        self.ledger = Ledger()
        self.reconciler = Reconciler(self.registry, cast(Supervisor, self.ledger), read)

    @property
    def running(self) -> dict[str, str]:
        return self.ledger.running


@asynccontextmanager
async def following(made: Following) -> AsyncIterator[Following]:
    async with asyncio.TaskGroup() as tasks:
        runner = tasks.create_task(made.reconciler.run())
        await turns()
        try:
            yield made
        finally:
            runner.cancel()


async def test_workers_registered_at_the_start_run(clock: FakeClock) -> None:
    made = Following()
    made.registry.documents = {"a": b"a http://a", "b": b"b http://b"}
    assert not made.reconciler.in_step
    async with following(made):
        assert made.running == {"a": "http://a", "b": "http://b"}
        assert made.reconciler.in_step


async def test_a_registered_worker_starts_and_a_removed_one_stops(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://a")
        await turns()
        assert made.running == {"a": "http://a"}
        await made.registry.remove("a")
        await turns()
        assert made.running == {}


async def test_a_worker_is_replaced_when_its_document_differs(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://1")
        await turns()
        await made.registry.put("a", b"a http://2")
        await turns()
        assert made.running == {"a": "http://2"}
        assert made.ledger.orders == [("start", "a"), ("start", "a")]


async def test_the_same_document_again_changes_nothing(clock: FakeClock) -> None:
    async with following(Following()) as made:
        for _ in range(5):
            await made.registry.put("a", b"a http://a")
            await turns()
        assert made.ledger.orders == [("start", "a")]


async def test_only_the_last_of_many_changes_counts(clock: FakeClock) -> None:
    async with following(Following()) as made:
        for number in range(20):
            await made.registry.put("a", b"a http://%d" % number)
            await made.registry.remove("a")
        await made.registry.put("a", b"a http://last")
        await turns()
        assert made.running == {"a": "http://last"}


async def test_announcements_may_come_in_any_order(clock: FakeClock) -> None:
    async with following(Following()) as made:
        made.registry.change_silently("a", b"a http://a")
        made.registry.announce("a")
        made.registry.announce("never-there")
        made.registry.announce("a")
        await turns()
        assert made.running == {"a": "http://a"}
        assert made.ledger.orders == [("start", "a")]


async def test_a_document_that_cannot_run_is_logged_once_and_skipped(clock: FakeClock) -> None:
    made = Following()
    made.registry.documents = {"bad": b"bad", "good": b"good http://good"}
    with capture_logs() as logs:
        async with following(made):
            assert made.running == {"good": "http://good"}
            await asyncio.sleep(3 * COMPARE_S)
            await made.registry.put("other", b"other http://other")
            await turns()
            assert made.running.keys() == {"good", "other"}
    complaints = [(line["queue"], line["error"]) for line in logs if line["event"] == "worker.cannot_run"]
    assert complaints == [("bad", "url is required")]


async def test_an_operator_is_told_of_workers_that_cannot_run_while_they_are_there(clock: FakeClock) -> None:
    made = Following()
    made.registry.documents = {"bad": b"bad", "good": b"good http://good", "others": b"good http://good"}
    told = ["2 registered worker(s) cannot run: GET /workers?state=invalid names them"]
    with capture_logs():
        async with following(made):
            assert made.reconciler.warnings() == told
            await made.registry.pause("others", paused=True)
            await made.registry.put("bad", b"bad http://bad")
            await turns()
            assert made.reconciler.warnings() == []
            await made.registry.put("good", b"good")
            await turns()
            assert len(made.reconciler.warnings()) == 1
            await made.registry.remove("good")
            await turns()
            assert made.reconciler.warnings() == []


async def test_a_document_for_another_queue_is_skipped(clock: FakeClock) -> None:
    made = Following()
    made.registry.documents = {"a": b"b http://b"}
    with capture_logs() as logs:
        async with following(made):
            assert made.running == {}
    assert [line["error"] for line in logs] == ["it says that its queue is 'b'"]


async def test_a_worker_whose_new_document_cannot_run_stops(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://a")
        await turns()
        with capture_logs():
            await made.registry.put("a", b"a")
            await turns()
        assert made.running == {}
        await made.registry.put("a", b"a http://a")
        await turns()
        assert made.running == {"a": "http://a"}


async def test_after_a_gap_in_the_announcements_all_workers_are_compared(clock: FakeClock) -> None:
    made = Following(max_len=3)
    made.registry.documents = {"gone": b"gone http://gone", "stays": b"stays http://stays"}
    async with following(made):
        made.registry.change_silently("gone", None)
        made.registry.change_silently("new", b"new http://new")
        for _ in range(3):  # the announcements of both are trimmed away
            made.registry.announce("stays")
        await turns()
        assert made.running == {"stays": "http://stays", "new": "http://new"}


async def test_after_a_reconnect_all_workers_are_compared(clock: FakeClock) -> None:
    async with following(Following()) as made:
        made.registry.change_silently("a", b"a http://a")
        made.reconciler.missed()
        await asyncio.sleep(6)  # until it has stopped waiting for announcements
        assert made.running == {"a": "http://a"}


async def test_changes_announced_while_redis_was_away_are_found(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://a")
        await turns()
        made.registry.go_away()
        made.registry.change_silently("a", None)
        made.registry.change_silently("b", b"b http://b")
        await asyncio.sleep(10)
        assert made.running == {"a": "http://a"}, "Redis being away is no reason to stop"
        made.registry.come_back()
        await asyncio.sleep(1)
        assert made.running == {"b": "http://b"}


async def test_all_workers_are_compared_periodically(clock: FakeClock) -> None:
    async with following(Following()) as made:
        made.registry.change_silently("a", b"a http://a")
        await asyncio.sleep(COMPARE_S + 10)
        assert made.running == {"a": "http://a"}


async def test_the_reconciler_is_not_in_step_before_it_has_read_the_workers(clock: FakeClock) -> None:
    made = Following()
    made.registry.go_away()
    async with following(made):
        await asyncio.sleep(10)
        assert not made.reconciler.in_step
        made.registry.come_back()
        await asyncio.sleep(1)
        assert made.reconciler.in_step


async def test_a_document_that_breaks_its_reader_stops_no_other_worker(clock: FakeClock) -> None:
    """Documents come from the whole fleet; whatever one of them makes us do wrong, the others go on."""

    def fragile(document: bytes) -> Destination:
        if b"poison" in document:
            raise UnicodeError("label empty or too long")
        return read(document)

    made = Following()
    made.reconciler = Reconciler(made.registry, cast(Supervisor, made.ledger), fragile)
    made.registry.documents = {"a": b"poison http://a", "b": b"b http://b"}
    with capture_logs():
        async with following(made):
            assert made.running == {"b": "http://b"}
            await made.registry.put("c", b"c http://c")
            await turns()
            assert made.running.keys() == {"b", "c"}


async def test_a_paused_worker_does_not_run_until_it_is_resumed(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://a")
        await turns()
        for paused in (True, True, False, False):
            await made.registry.pause("a", paused=paused)
            await turns()
        assert made.ledger.orders == [("start", "a"), ("pause", "a"), ("start", "a")]
        assert made.running == {"a": "http://a"}


async def test_a_paused_worker_stays_so_with_another_document_and_after_a_start(clock: FakeClock) -> None:
    made = Following()
    made.registry.documents = {"a": b"a http://1"}
    await made.registry.pause("a", paused=True)
    async with following(made):
        assert made.running == {}
        await made.registry.put("a", b"a http://2")
        await turns()
        assert made.running == {}
        await made.registry.pause("a", paused=False)
        await turns()
        assert made.running == {"a": "http://2"}


async def test_a_worker_that_is_removed_and_registered_again_runs(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://a")
        await made.registry.pause("a", paused=True)
        await turns()
        await made.registry.remove("a")
        await made.registry.put("a", b"a http://a")
        await turns()
        assert made.running == {"a": "http://a"}


async def test_a_worker_that_is_removed_has_stopped_when_it_has_caught_up(clock: FakeClock) -> None:
    async with following(Following()) as made:
        made.registry.documents = {"a": b"a http://1"}
        await made.reconciler.catch_up("a")
        assert made.running == {"a": "http://1"}
        made.registry.change_silently("a", b"a http://2")
        await made.reconciler.catch_up("a")
        assert made.running == {"a": "http://2"}
        made.registry.paused_queues.add("a")
        await made.reconciler.catch_up("a")
        assert made.running == {}
        made.registry.change_silently("a", None)
        await made.reconciler.catch_up("a")
        assert made.ledger.orders[-1] == ("stop", "a")
        await made.reconciler.catch_up("never-there")


async def test_a_document_read_before_a_removal_does_not_start_the_worker_afterwards(clock: FakeClock) -> None:
    made = Following()
    reading = asyncio.Event()
    go_on = asyncio.Event()
    some = made.registry.some

    async def slow(queues: Sequence[str]) -> dict[str, bytes]:
        found = await some(queues)
        if not reading.is_set():
            reading.set()
            await go_on.wait()
        return found

    made.registry.some = slow  # type: ignore[method-assign]
    async with following(made), asyncio.TaskGroup() as tasks:
        await made.registry.put("a", b"a http://a")
        await reading.wait()  # its announcement is being acted by
        await made.registry.remove("a")
        caught_up = tasks.create_task(made.reconciler.catch_up("a"))
        await turns()
        go_on.set()
        await caught_up
        assert made.running == {}
        made.ledger.orders.clear()
        await turns()
        assert made.ledger.orders == []


@pytest.mark.parametrize("announced_s", [[0.01 * n for n in range(480)], [1.4, 2.8], [1.4, 1.5], [3.9], [4.4], []])
async def test_a_document_removed_without_an_announcement_is_noticed_within_five_seconds(
    clock: FakeClock, announced_s: list[float]
) -> None:
    made = Following()
    made.registry.documents = {"a": b"a http://a"}
    async with following(made):
        assert made.running == {"a": "http://a"}
        made.registry.change_silently("a", None)
        passed_s = 0.0
        # Others are busy: each announcement begins another wait for the next one.
        for number, at_s in enumerate(announced_s):
            await asyncio.sleep(at_s - passed_s)
            passed_s = at_s
            await made.registry.put("other", b"other http://%d" % (number % 2))
        await asyncio.sleep(4.9 - passed_s)
        assert "a" not in made.running


LOST = ["Redis has lost the registered workers; they are being put back"]


async def looks_again() -> None:
    """Let the reconciler's wait for announcements end, after which it looks."""
    await asyncio.sleep(LOOK_S + 2)
    await turns()


async def test_workers_that_redis_has_lost_are_put_back_and_go_on(clock: FakeClock) -> None:
    async with following(Following()) as made:
        for queue in ("a", "b"):
            await made.registry.put(queue, f"{queue} http://{queue}".encode())
        await made.registry.pause("b", paused=True)
        await turns()
        documents, orders = dict(made.registry.documents), list(made.ledger.orders)
        assert await made.reconciler.faults() == []
        with capture_logs() as logs:
            made.registry.wipe()
            assert await made.reconciler.faults() == LOST
            assert await made.reconciler.faults() == LOST
            await looks_again()
            assert await made.reconciler.faults() == []
        assert made.registry.documents == documents
        assert made.registry.paused_queues == {"b"}
        assert made.ledger.orders == orders, "nothing was stopped or started"
        told = [(line["event"], line["log_level"], line["workers"]) for line in logs]
        assert told == [("registry.lost", "error", 2), ("registry.put_back", "error", 2)]


async def test_a_worker_removed_after_a_loss_is_not_put_back(clock: FakeClock) -> None:
    async with following(Following()) as made:
        for queue in ("a", "b", "c"):
            await made.registry.put(queue, f"{queue} http://{queue}".encode())
        await turns()
        made.registry.wipe()
        assert not await made.registry.remove("a")
        await made.registry.put("b", b"b http://new")
        await looks_again()
        assert made.running == {"b": "http://new", "c": "http://c"}
        assert set(made.registry.documents) == {"b", "c"}


async def test_workers_that_cannot_be_put_back_yet_go_on_and_are_put_back_later(clock: FakeClock) -> None:
    async with following(Following()) as made:
        await made.registry.put("a", b"a http://a")
        await turns()
        made.registry.wipe()
        made.registry.go_away()
        await looks_again()
        assert made.running == {"a": "http://a"}
        made.registry.come_back()
        await asyncio.sleep(1)
        await turns()
        assert made.registry.documents == {"a": b"a http://a"}
        assert made.ledger.orders == [("start", "a")]


async def test_a_worker_removed_without_an_announcement_stops_at_the_next_look(clock: FakeClock) -> None:
    async with following(Following()) as made:
        for queue in ("a", "b"):
            await made.registry.put(queue, f"{queue} http://{queue}".encode())
        await turns()
        made.registry.change_silently("a", None)
        await looks_again()
        assert made.running == {"b": "http://b"}
        assert set(made.registry.documents) == {"b"}
        assert await made.reconciler.faults() == []


async def test_a_loss_where_nothing_is_registered_is_no_fault(clock: FakeClock) -> None:
    async with following(Following()) as made:
        made.registry.wipe()
        assert await made.reconciler.faults() == []
        await looks_again()
        await made.registry.put("a", b"a http://a")
        await turns()
        assert made.running == {"a": "http://a"}
