"""Logging in, queues and jobs on the dashboard, in a real Chromium and on a real server."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.browser import Tab, open_page
from tests.support.endpoint import Endpoint, reply_json, respond
from tests.support.gateway import TOKEN, Gateway, job
from tests.support.tokens import token, write
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

READER = "reader-token"
NewQueue = Callable[[], str]
OUTAGE = ("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY")
SEEN = "[...document.querySelectorAll('table.events bdi')].filter((one) => one.innerText === 'seen').length"


class TestLogin:
    def test_a_link_with_a_token_logs_in_and_keeps_it_out_of_the_address(self, tab: Tab, toril: TorilProcess) -> None:
        open_page(tab, toril, "queues")
        tab.the("heading", "Queues")
        assert "token" not in tab.address
        assert tab.run("document.cookie") == ""
        assert tab.run("localStorage.length + Object.keys(sessionStorage).length") == 1

    def test_a_wrong_token_gets_the_login_again_with_the_reason(self, tab: Tab, toril: TorilProcess) -> None:
        open_page(tab, toril, "queues", token="")
        tab.type("textbox", "Token", "wrong")
        tab.click("button", "Log in")
        tab.shows("Refused")
        tab.type("textbox", "Token", TOKEN)
        tab.click("button", "Log in")
        tab.the("heading", "Queues")
        tab.forget("401")

    def test_logging_out_forgets_the_token(self, tab: Tab, toril: TorilProcess) -> None:
        open_page(tab, toril, "queues")
        tab.click("button", "Log out")
        tab.the("textbox", "Token")
        assert tab.run("Object.keys(sessionStorage).length") == 0


class TestQueues:
    def test_a_queue_is_found_paused_and_resumed(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job(), job())
        open_page(tab, toril, "queues")
        tab.type("textbox", "Search", queue)
        tab.press("Enter")
        tab.click("button", f"Pause {queue}")
        tab.the("button", f"Resume {queue}")
        assert toril.gateway.http.get(f"/queues/{queue}").json()["paused"]
        tab.click("button", f"Resume {queue}")
        tab.the("button", f"Pause {queue}")
        tab.click("link", queue)
        tab.the("heading", queue)
        tab.shows("2 jobs wait")

    def test_a_job_is_added_and_what_is_wrong_with_it_is_said_where_it_is(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job())
        open_page(tab, toril, f"queues/{queue}")
        tab.click("button", "Add job")
        tab.type("textbox", "Name", "charge")
        tab.type("textbox", "Data, JSON", '{\n  "amount": 42\n  "currency": "EUR"\n}')
        tab.shows("Line 3")
        assert tab.find("button", "Confirm")
        assert tab.run("document.querySelector('dialog button.primary').disabled")
        tab.type("textbox", "Data, JSON", '{"amount": 12345678901234567890}')
        tab.click("button", "Confirm")
        tab.shows("was added to")
        newest = toril.gateway.http.get(f"/queues/{queue}/jobs?statuses=waiting")
        assert '"data":{"amount": 12345678901234567890}' in newest.text

    def test_obliterate_wants_the_name_typed(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job())
        open_page(tab, toril, f"queues/{queue}")
        tab.click("button", "Obliterate")
        tab.shows("cannot be undone")
        assert tab.run("document.querySelector('dialog button.primary').disabled")
        tab.type("textbox", f"Type {queue}", queue)
        tab.click("button", "Confirm")
        tab.shows("was obliterated")
        assert toril.gateway.http.get(f"/queues/{queue}").status_code == 404

    def test_limits_are_set_and_taken_away(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job())
        open_page(tab, toril, f"queues/{queue}")
        tab.shows("Concurrency")
        tab.click("button", "Edit")
        tab.type("textbox", "Jobs at once", "3")
        tab.type("textbox", "Starts", "10")
        tab.click("button", "Confirm")
        tab.shows("0 of 3 in use")
        tab.shows("10 per 1 s")
        assert toril.gateway.http.get(f"/queues/{queue}").json()["concurrency"] == 3
        tab.click("button", "Edit")
        tab.type("textbox", "Jobs at once", "")
        tab.click("button", "Confirm")
        tab.hides("in use")
        assert toril.gateway.http.get(f"/queues/{queue}").json()["concurrency"] is None

    def test_a_queue_is_drained_and_cleaned(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job(), job(), job(delay=3_600_000))
        open_page(tab, toril, f"queues/{queue}")
        tab.click("button", "Drain")
        tab.shows("Removes 2 waiting jobs")
        tab.click("button", "Confirm")
        tab.shows("Nothing waits")
        assert toril.gateway.counts(queue)["delayed"] == 1
        tab.click("button", "Clean")
        tab.choose("combobox", "State", "delayed")
        tab.type("textbox", "Older than, hours", "0")
        tab.click("button", "Confirm")
        eventually(lambda: toril.gateway.counts(queue)["delayed"] == 0, what="the delayed job to be gone")

    def test_a_change_by_another_client_is_shown_at_once(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job())
        open_page(tab, toril, f"queues/{queue}")
        tab.shows("1 job waits")
        tab.shows("Live")
        toril.gateway.add(queue, job(), job())
        tab.shows("3 jobs wait")
        tab.click("button", "Pause live updates")
        toril.gateway.add(queue, job())
        tab.shows("wait")
        time.sleep(1.5)  # long enough for an update that must not come
        assert "3 jobs wait" in tab.text
        tab.click("button", "Resume live updates")
        tab.shows("4 jobs wait")


class TestJobs:
    def test_a_failed_job_is_looked_at_and_retried(
        self, tab: Tab, toril: TorilProcess, endpoint: Endpoint, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        endpoint.behaviour = lambda _: respond(500, body=b'{"error": "the mailbox is full"}')
        toril.gateway.register(queue, endpoint.url)
        job_id = toril.gateway.add_one(queue, {"customer": {"id": 42}}, name="mail")
        open_page(tab, toril, f"queues/{queue}?state=failed")
        tab.click("link", job_id)
        tab.the("heading", job_id)
        tab.shows("failed")
        tab.shows("customer")
        endpoint.behaviour = lambda _: reply_json({"sent": True})
        tab.click("button", "Retry")
        tab.shows("completed")
        tab.shows("sent: true")

    def test_a_job_is_edited_and_sent_again_as_a_new_one(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        job_id = toril.gateway.add_one(queue, {"to": "ana@exmaple.org"}, name="mail", priority=3)
        open_page(tab, toril, f"queues/{queue}/jobs/{job_id}")
        tab.click("button", "Edit and send again")
        tab.type("textbox", "Data, JSON", '{"to": "ana@example.org"}')
        tab.click("button", "Confirm")
        tab.shows("was added to")
        jobs = toril.gateway.jobs(queue, statuses="prioritized", order="newest", length=10)["jobs"]
        assert [one["data"] for one in jobs if one["id"] != job_id] == [{"to": "ana@example.org"}]
        assert {one["priority"] for one in jobs} == {3}

    def test_the_keyboard_alone_finds_opens_and_removes_a_job(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        toril.gateway.add(queue, job(), job(), job())
        open_page(tab, toril)
        tab.the("button", "Go to")
        tab.press("k", ctrl=True)
        tab.the("dialog", "Command palette")
        tab.call("Input.insertText", text=queue)
        tab.press("Enter")
        tab.the("heading", queue)
        tab.shows("3 jobs wait")
        tab.the("link", "3")
        tab.press("j")
        tab.press("Enter")
        tab.the("heading", "3")
        tab.the("button", "Remove")
        tab.run("Array.from(document.querySelectorAll('main button')).find(b => b.textContent === 'Remove').focus()")
        tab.press("Enter")
        tab.shows("cannot be undone")
        tab.press("Enter")
        tab.shows("was removed")
        assert not toril.gateway.exists(queue, "3")

    def test_data_priority_and_delay_are_edited(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        job_id = toril.gateway.add_one(queue, {"to": "ana@exmaple.org"}, delay=3_600_000)
        open_page(tab, toril, f"queues/{queue}/jobs/{job_id}")
        tab.click("button", "Edit")
        tab.type("textbox", "Data, JSON", '{"to": "ana@example.org"}')
        tab.type("textbox", "Priority", "7")
        tab.type("textbox", "Delay, seconds from now", "7200")
        tab.click("button", "Confirm")
        tab.shows("ana@example.org")
        edited = toril.gateway.job(queue, job_id)
        assert (edited["data"], edited["priority"]) == ({"to": "ana@example.org"}, 7)
        assert 7_100_000 < edited["delay"] + edited["timestamp"] - time.time() * 1000 <= 7_200_000
        tab.click("button", "Promote")
        tab.shows("prioritized")

    def test_jobs_are_found_by_what_is_in_them_and_acted_on_together(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        toril.gateway.add(queue, *(job({"customer": {"id": n % 2}}) for n in range(60)))
        open_page(tab, toril, f"queues/{queue}")
        tab.type("textbox", "Search", "data.customer.id = ")
        tab.press("Enter")
        tab.shows("Not understood")
        tab.forget("400")
        tab.type("textbox", "Search", "data.customer.id = 1 and name ~ wor")
        tab.press("Enter")
        tab.shows("in 60 of 60 waiting jobs")
        tab.click("checkbox", "Select this page")
        tab.click("button", "Select all that match")
        tab.click("button", "Dry run")
        tab.shows("30 match, 30 would be removed, 0 refused")
        assert toril.gateway.counts(queue)["waiting"] == 60
        tab.click("button", "Remove")
        tab.shows("Remove 30 jobs of")
        tab.click("button", "Confirm")
        tab.shows("30 jobs removed")
        left = toril.gateway.jobs(queue, statuses="waiting", length=100)["jobs"]
        assert [one["data"]["customer"]["id"] for one in left] == [0] * 30

    def test_hostile_data_is_shown_as_text(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        data = {
            "script": "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
            "right to left": "\u202egnp.exe",
            "nul": "a\u0000b",
            "many": {f"key {n}": n for n in range(10_000)},
            "long": "x" * 200_000,
        }
        name = "<b>bold</b>"
        job_id = toril.gateway.add_one(queue, data, name=name)
        open_page(tab, toril, f"queues/{queue}")
        tab.shows(name)
        open_page(tab, toril, f"queues/{queue}/jobs/{job_id}")
        tab.shows("<script>document.title")
        tab.shows("10000 keys")
        assert job_id in tab.run("document.title")
        assert tab.run("document.querySelectorAll('main b, main img, main script').length") == 0


class TestRights:
    @pytest.fixture
    def guarded(
        self, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril, tmp_path: Path
    ) -> TorilProcess:
        file = write(tmp_path / "toril.yaml", token("reader", ["*:read"], ["mails*"], secret=READER))
        return start_toril(start_valkey(), args=["--config", str(file)])

    def test_a_token_that_may_only_read_finds_no_button_that_acts(self, tab: Tab, guarded: TorilProcess) -> None:
        guarded.gateway.add("mails", job({"a": 1}))
        guarded.gateway.add("orders", job())
        open_page(tab, guarded, "queues/mails", token=READER)
        tab.shows("1 job waits")
        buttons = tab.run(
            "Array.from(document.querySelectorAll('main button'), b => b.textContent.trim()).filter(Boolean)"
        )
        acting = {"Pause", "Resume", "Add job", "Drain", "Clean", "Obliterate", "Edit", "Retry", "Remove"}
        assert not acting.intersection(buttons)
        assert tab.find("checkbox") == []
        open_page(tab, guarded, "queues", token=READER)
        tab.the("link", "mails")
        assert "orders" not in tab.text
        open_page(tab, guarded, "queues/orders", token=READER)
        tab.shows("Not for this token")
        tab.forget("403")
        reader = Gateway(guarded.url, READER)
        assert reader.http.post("/queues/mails/pause").status_code == 403
        reader.close()


@pytest.mark.parametrize(
    "page", ["", "queues", "queues/{queue}", "queues/{queue}/jobs/1", "workers", "schedulers", "events"]
)
def test_no_page_is_wider_than_the_screen(tab: Tab, toril: TorilProcess, new_queue: NewQueue, page: str) -> None:
    queue = new_queue()
    toril.gateway.add(queue, job({"text": "word " * 50, "unbroken": "x" * 300}, name="order-confirmation"))
    open_page(tab, toril, page.format(queue=queue))
    tab.until("document.querySelector('main h1') && !document.querySelector('[aria-busy]')", "a heading")
    for width, height in ((1440, 900), (1024, 768), (390, 844)):
        tab.turn(width, height)
        assert tab.run("document.querySelectorAll('h1').length") == 1
        overflow = tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{overflow} px too wide at {width}"


def test_the_page_comes_back_by_itself_when_the_server_restarts(
    tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey)
    toril.gateway.add("orders", job())
    open_page(tab, toril, "queues/orders")
    tab.shows("1 job waits")
    tab.click("button", "Pause live updates")
    tab.click("button", "Resume live updates")  # which ends the pause between two tries, but not all later ones
    tab.shows("Live")
    toril.kill()
    before = len(tab.requested)
    tab.shows("Not live")
    toril.start()
    toril.gateway.add("orders", job())
    tab.shows("2 jobs wait")
    tab.shows("Live")
    assert len([url for url in tab.requested[before:] if "/events" in url]) < 8
    tab.forget(*OUTAGE)


def test_the_tail_of_events_goes_on_where_it_broke_off(
    tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril, other = start_toril(valkey), start_toril(valkey)
    toril.gateway.add("orders", job())
    open_page(tab, toril, "events?queues=orders")
    tab.shows("Live")
    toril.gateway.add_one("orders", {}, jobId="seen")
    tab.until(f"{SEEN} === 2", "the events 'added' and 'waiting'")
    toril.kill()
    tab.shows("Not live")
    other.gateway.add_one("orders", {}, jobId="missed")
    toril.start()
    tab.shows("missed")
    toril.gateway.add_one("orders", {}, jobId="after")
    tab.shows("after")
    assert tab.run(SEEN) == 2
    tab.forget(*OUTAGE)
