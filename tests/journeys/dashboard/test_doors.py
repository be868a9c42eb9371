"""Flows, schedulers, workers, deliveries, events and the audit log on the dashboard."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.browser import Tab, open_page
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, reply_json, respond
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

NewQueue = Callable[[], str]


class TestFlows:
    def test_a_tree_of_jobs_shows_the_state_of_each(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        parents, children = new_queue(), new_queue()
        leaf = {"name": "pdf", "queueName": children, "data": {}}
        flow = {"name": "order", "queueName": parents, "data": {}, "children": [leaf]}
        added = toril.gateway.http.post("/flows", json=flow).json()
        parent, child = added["job"]["id"], added["children"][0]["job"]["id"]
        open_page(tab, toril, f"flows/{parents}/{parent}")
        tab.the("link", child)
        tab.shows("waiting-children")
        tab.click("link", child)
        tab.the("heading", child)
        tab.the("link", "Open tree")


class TestSchedulers:
    def test_a_scheduler_is_made_changed_and_removed(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add_one(queue)
        open_page(tab, toril, f"schedulers?queue={queue}")
        tab.shows("has no schedulers")
        tab.run("document.querySelector('.blank .primary').click()")
        tab.type("textbox", "Name of the scheduler", "nightly")
        tab.type("textbox", "Cron pattern", "0 3 * * *")
        tab.type("textbox", "Time zone", "Europe/Prague")
        tab.click("button", "Confirm")
        tab.shows("nightly")
        made = toril.gateway.http.get(f"/queues/{queue}/schedulers/nightly").json()
        assert (made["pattern"], made["tz"]) == ("0 3 * * *", "Europe/Prague")
        tab.click("button", "Show the next times of nightly")
        tab.shows("In Europe/Prague")
        tab.until("document.querySelectorAll('dialog tbody tr').length === 5", "the next five times")
        tab.click("button", "Dismiss")
        tab.click("button", "Edit nightly")
        tab.type("textbox", "Cron pattern", "30 4 * * *")
        tab.click("button", "Confirm")
        tab.shows("30 4 * * *")
        tab.click("button", "Remove nightly")
        tab.click("button", "Confirm")
        tab.shows("was removed")
        assert toril.gateway.http.get(f"/queues/{queue}/schedulers/nightly").status_code == 404


class TestWorkers:
    def test_a_worker_is_registered_sent_a_test_job_and_paused(
        self, tab: Tab, toril: TorilProcess, endpoint: Endpoint, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        endpoint.behaviour = lambda _: reply_json({"done": True})
        open_page(tab, toril, "workers")
        tab.click("button", "Register worker")
        tab.type("textbox", "Queue", queue)
        tab.type("textbox", "URL", endpoint.url)
        tab.click("button", "Confirm")
        tab.click("button", f"Send test job to {queue}")
        tab.click("button", "Confirm")
        eventually(lambda: toril.gateway.counts(queue)["completed"] == 1, what="the test job to be done")
        tab.click("button", f"Pause the worker of {queue}")
        tab.the("button", f"Resume the worker of {queue}")
        assert toril.gateway.http.get(f"/workers/{queue}").json()["state"] == "paused"
        toril.gateway.unregister(queue)


class TestDeliveries:
    @pytest.fixture
    def delivering(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess],
        endpoint: Endpoint, tmp_path: Path,
    ) -> Iterator[TorilProcess]:  # fmt: skip
        targets = {"billing": {"url": endpoint.url, "retry": {"max_attempts": 1}}, "crm": endpoint.url}
        file = configuration(tmp_path / "toril.yaml", targets, ledger={"url": f"sqlite:///{tmp_path}/ledger.sqlite3"})
        return start_toril(start_valkey(), args=["--config", str(file)])

    def test_a_target_is_paused_and_sent_an_envelope(self, tab: Tab, delivering: TorilProcess) -> None:
        open_page(tab, delivering, "targets")
        tab.click("button", "Pause crm")
        tab.the("button", "Resume crm")
        tab.click("link", "crm")
        tab.the("heading", "crm")
        tab.click("button", "Send test envelope")
        tab.click("button", "Confirm")
        tab.shows("was accepted")
        tab.shows("1 delivery waits")
        tab.click("link", "Open")
        tab.shows("queued")
        tab.click("button", "Cancel")
        tab.click("button", "Confirm")
        tab.shows("cancelled")

    def test_a_target_that_asked_for_nothing_more_is_held_and_resumed(
        self, tab: Tab, delivering: TorilProcess, endpoint: Endpoint
    ) -> None:
        endpoint.behaviour = lambda _: respond(429, headers=[("Retry-After", "600")])
        Door(delivering.gateway).enqueue("crm")
        eventually(lambda: delivering.client.get("/targets/crm").json()["held_until"], what="the hold")
        open_page(tab, delivering, "targets")
        tab.shows("1 target is held")
        tab.click("button", "Resume crm")
        tab.the("button", "Pause crm")
        assert delivering.client.get("/targets/crm").json()["held_until"] is None

    def test_dead_letters_are_replayed_and_purged(self, tab: Tab, delivering: TorilProcess, endpoint: Endpoint) -> None:
        endpoint.behaviour = lambda _: respond(422)
        door = Door(delivering.gateway)
        ids = [door.enqueue("billing", labels={"tenant": tenant}) for tenant in ("t1", "t1", "t2")]
        eventually(lambda: all(door.job(one)["status"] == "dead_lettered" for one in ids), what="three dead letters")
        open_page(tab, delivering, "dead-letters?target=billing&labels=tenant%3Dt1")
        tab.the("link", ids[0])
        assert tab.find("link", ids[2]) == []
        endpoint.behaviour = lambda _: respond(204)
        tab.click("checkbox", "Select this page")
        tab.click("button", "Dry run")
        tab.shows("2 match, 2 would be replayed")
        tab.click("button", "Replay")
        tab.shows("Replay 2 dead letters?")
        tab.click("button", "Confirm")
        tab.shows("2 of 2 replayed")
        eventually(lambda: door.job(ids[0])["status"] == "delivered", what="the delivery")
        open_page(tab, delivering, f"deliveries/{ids[2]}")
        tab.shows("dead_lettered")
        tab.click("button", "Purge")
        tab.click("button", "Confirm")
        tab.shows("Purged")
        assert delivering.client.get(f"/jobs/{ids[2]}").status_code == 404
        tab.forget("404")


class TestEverything:
    def test_events_are_seen_as_they_come(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add_one(queue)
        open_page(tab, toril, f"events?queues={queue}&names=added")
        tab.shows("Live")
        job_id = toril.gateway.add_one(queue)
        tab.the("link", job_id)
        tab.hides("waiting")

    def test_the_audit_log_says_what_was_done(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add_one(queue)
        toril.gateway.http.post(f"/queues/{queue}/pause")
        open_page(tab, toril, "audit")
        tab.type("textbox", "Search", queue)
        tab.shows("POST /queues/{queue}/pause")

    def test_the_overview_shows_what_needs_attention(
        self, tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
    ) -> None:
        toril = start_toril(start_valkey())
        open_page(tab, toril)
        tab.shows("All is well")
        toril.gateway.add_one("orders")
        toril.gateway.http.post("/queues/orders/pause")
        tab.shows("1 thing is paused")
        tab.click("button", "Resume")
        tab.hides("is paused")
        assert not toril.gateway.http.get("/queues/orders").json()["paused"]
