"""Pausing and resuming a queue, in every order, by both majors of Node BullMQ and by toril: which jobs are there then.

BullMQ 5 renames `paused` over `wait` when it resumes. What others have put into `wait` meanwhile is lost then, unless
toril had its hand in it. What toril itself puts there is in `test_pausing_operations.py`, operation by operation.
"""

import threading
from itertools import product
from typing import Any

import pytest
import redis

from tests.compat.nodejs import LiveNode
from tests.support.gateway import Gateway, job
from tests.support.waiting import eventually

pytestmark = pytest.mark.node

WHO = ("bullmq5", "bullmq6", "toril")
ORDERS = list(product(WHO, repeat=3))
# Who paused, who added two jobs to two meanwhile, who resumed; how many jobs were lost: docs/explanation/pausing.md.
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


def give_back(gateway: Gateway, queue: str, held: dict[str, Any]) -> None:
    """Release a leased job."""
    lock = {"authorization": f"Bearer {held['token']}"}
    assert gateway.http.post(f"/queues/{queue}/jobs/{held['job']['id']}/release", headers=lock).status_code == 204


def waiting(store: redis.Redis, queue: str) -> dict[str, list[str]]:
    """The lists of waiting jobs that are there."""
    lists = {name: store.lrange(f"bull:{queue}:{name}", 0, -1) for name in ("wait", "paused")}
    return {name: ids for name, ids in lists.items() if ids}


@pytest.mark.parametrize("order", ORDERS, ids=[" ".join(order) for order in ORDERS])
def test_all_jobs_wait_in_one_list_when_a_paused_queue_is_resumed(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str, order: tuple[str, str, str]
) -> None:
    pausing, adding, resuming = (Party(name, lives, gateway, queue) for name in order)
    pausing.add()
    pausing.do("pause")
    adding.add()
    if order == ("toril", "bullmq5", "bullmq5"):  # the one order in which toril has to see what another has done
        eventually(lambda: len(waiting(store, queue)) == 1, what="all jobs in one list")
    resuming.do("resume")
    left = 4 - LOST.get(order, 0)
    assert {name: len(ids) for name, ids in waiting(store, queue).items()} == {"wait": left}
    held = gateway.http.post(f"/queues/{queue}/lease", json={"count": 10}).json()["jobs"]
    assert len(held) == left


@pytest.mark.parametrize("order", list(LOST), ids=[" ".join(order) for order in LOST])
def test_all_jobs_wait_after_the_resume_if_toril_leased_during_the_pause(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str, order: tuple[str, str, str]
) -> None:
    pausing, adding, resuming = (Party(name, lives, gateway, queue) for name in order)
    pausing.add()
    pausing.do("pause")
    assert gateway.http.post(f"/queues/{queue}/lease").json() == {"jobs": []}
    adding.add()
    eventually(lambda: len(waiting(store, queue)) == 1, what="all jobs in one list")
    resuming.do("resume")
    assert len(waiting(store, queue)["wait"]) == 4


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


def test_jobs_keep_their_order_when_the_queue_is_paused(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str
) -> None:
    """As with BullMQ 5 alone: what is given back, and what is to come first, is in front."""
    old = Party("bullmq5", lives, gateway, queue)
    old.add()
    (held,) = gateway.http.post(f"/queues/{queue}/lease").json()["jobs"]
    old.do("pause")
    gateway.add(queue, *(job() for _ in range(3)))
    give_back(gateway, queue, held)
    gateway.add(queue, job(lifo=True))
    assert waiting(store, queue) == {"paused": ["5", "4", "3", "2", "1", "6"]}
    old.do("resume")
    assert waiting(store, queue) == {"wait": ["5", "4", "3", "2", "1", "6"]}


def test_a_job_that_bullmq_5_has_set_aside_can_be_given_a_priority(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str
) -> None:
    old = Party("bullmq5", lives, gateway, queue)
    old.add()
    old.do("pause")
    assert gateway.http.put(f"/queues/{queue}/jobs/2/priority", json={"priority": 5}).status_code == 204
    assert (waiting(store, queue), store.zrange(f"bull:{queue}:prioritized", 0, -1)) == ({"paused": ["1"]}, ["2"])


@pytest.mark.parametrize("pauses", WHO)
def test_a_job_added_to_an_empty_paused_queue_is_begun_with_when_bullmq_5_resumes_it(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str, pauses: str
) -> None:
    """BullMQ 5 leaves a marker only where it brings a list back; consumers wait for a marker."""
    Party(pauses, lives, gateway, queue).do("pause")
    gateway.add_one(queue)
    # A BullMQ 6 that opens the queue last says in its meta that it is no BullMQ 5's.
    store.hset(f"bull:{queue}:meta", "version", "bullmq:6.7.0")
    gateway.add_one(queue)
    Party("bullmq5", lives, gateway, queue).do("resume")
    assert eventually(lambda: store.zrange(f"bull:{queue}:marker", 0, -1), timeout_s=5, what="a marker") == ["0"]
    assert len(waiting(store, queue)["wait"]) == 2


def test_nothing_is_lost_under_load_while_bullmq_5_pauses_and_resumes(
    lives: dict[str, LiveNode], gateway: Gateway, store: redis.Redis, queue: str
) -> None:
    """Jobs are added, leased and given back all the time, and BullMQ 5 adds too."""
    old = lives["bullmq5"]
    added: list[str] = []
    over = threading.Event()

    def add() -> None:
        caller = Gateway(gateway.url)
        while not over.is_set():
            added.extend(one["id"] for one in caller.add(queue, job(attempts=100), job(attempts=100)))
        caller.close()

    def work() -> None:
        caller = Gateway(gateway.url)
        while not over.is_set():
            for held in caller.http.post(f"/queues/{queue}/lease", json={"count": 2}).json()["jobs"]:
                give_back(caller, queue, held)
        caller.close()

    threads = [threading.Thread(target=target) for target in (add, add, work)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            old.queue(queue, "pause")
            before = len(added)
            eventually(
                lambda before=before: len(added) > before + 30, timeout_s=30, what="jobs added while it is paused"
            )
            added.append(old.queue(queue, "add", "work", {})["id"])
            before = len(added)
            eventually(lambda before=before: len(added) > before + 30, timeout_s=30, what="more of them")
            old.queue(queue, "resume")
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert len(added) > 240
    places = store.lrange(f"bull:{queue}:wait", 0, -1) + store.lrange(f"bull:{queue}:active", 0, -1)
    assert sorted(places) == sorted(added)
