"""Pausing and resuming a queue, in every order, by both majors of Node BullMQ and by toril: which jobs are there then.

BullMQ 5 renames `paused` over `wait` when it resumes. What others have added to `wait` meanwhile is lost then, unless
toril had its hand in it.
"""

from itertools import product

import pytest
import redis

from tests.compat.nodejs import LiveNode
from tests.support.gateway import Gateway, job
from tests.support.waiting import eventually

pytestmark = pytest.mark.node

WHO = ("bullmq5", "bullmq6", "toril")
ORDERS = list(product(WHO, repeat=3))
# Who paused, who added two jobs to two meanwhile, who resumed; and how many jobs that costs: docs/bullmq-parity.md.
LOST = {("bullmq5", "bullmq6", "bullmq5"): 2, ("bullmq6", "bullmq5", "bullmq5"): 2}


class Party:
    """One of those who use the queue."""

    def __init__(self, name: str, lives: dict[str, LiveNode], gateway: Gateway, queue: str) -> None:
        self._live = lives.get(name)
        self._gateway = gateway
        self._queue = queue

    def add(self) -> None:
        """Add two jobs."""
        if self._live is not None:
            for _ in range(2):
                self._live.queue(self._queue, "add", "work", {})
        else:
            self._gateway.add(self._queue, job(), job())

    def do(self, action: str) -> None:
        """Pause or resume."""
        if self._live is not None:
            self._live.queue(self._queue, action)
        else:
            assert self._gateway.http.post(f"/queues/{self._queue}/{action}").status_code == 204


def waiting(store: redis.Redis, queue: str) -> dict[str, list[str]]:
    """The lists of waiting jobs that are there."""
    lists = {name: store.lrange(f"bull:{queue}:{name}", 0, -1) for name in ("wait", "paused")}
    return {name: ids for name, ids in lists.items() if ids}


@pytest.mark.parametrize("order", ORDERS, ids=[" ".join(order) for order in ORDERS])
def test_what_is_there_when_the_queue_is_resumed(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str, order: tuple[str, str, str]
) -> None:
    pausing, adding, resuming = (Party(name, lives, gateway, queue) for name in order)
    pausing.add()
    pausing.do("pause")
    adding.add()
    if "toril" in order[:2]:
        eventually(lambda: len(waiting(store, queue)) == 1, what="all jobs in one list")
    assert gateway.http.post(f"/queues/{queue}/lease").json() == {"jobs": []}
    resuming.do("resume")
    left = 4 - LOST.get(order, 0)
    assert {name: len(ids) for name, ids in waiting(store, queue).items()} == {"wait": left}
    held = gateway.http.post(f"/queues/{queue}/lease", json={"count": 10}).json()["jobs"]
    assert len(held) == left


def test_a_queue_whose_jobs_wait_in_both_lists_says_so(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str
) -> None:
    old, new = (Party(name, lives, gateway, queue) for name in WHO[:2])
    old.add()
    old.do("pause")
    new.add()
    assert len(waiting(store, queue)) == 2
    (warning,) = gateway.http.get(f"/queues/{queue}").json()["warnings"]
    assert "resume the queue with toril" in warning
    Party("toril", lives, gateway, queue).do("resume")
    assert "warnings" not in gateway.http.get(f"/queues/{queue}").json()
    assert len(waiting(store, queue)["wait"]) == 4


def test_jobs_keep_their_order_when_they_move(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str
) -> None:
    old = Party("bullmq5", lives, gateway, queue)
    old.add()
    old.do("pause")
    gateway.add(queue, *(job() for _ in range(3)))
    eventually(lambda: len(waiting(store, queue)) == 1, what="all jobs in one list")
    old.do("resume")
    held = gateway.http.post(f"/queues/{queue}/lease", json={"count": 1}).json()["jobs"]
    ids = [one["job"]["id"] for one in held]
    for _ in range(4):
        held = gateway.http.post(f"/queues/{queue}/lease").json()["jobs"]
        ids.append(held[0]["job"]["id"])
    assert ids == ["1", "2", "3", "4", "5"]
