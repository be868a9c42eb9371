"""What goes wrong: a token that ends, another person, a server that is away, hostile and very large data."""

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from tests.support.browser import Browser, Tab, open_page
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.gateway import job
from tests.support.sizes import fill
from tests.support.tokens import bearer, token, write
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

NewQueue = Callable[[], str]
OLD, NEW = "old-secret", "new-secret"
MANY = 100_000
quote_all = partial(quote, safe="")


class TestTokens:
    def test_a_token_that_ends_gets_the_login_and_loses_nothing_typed(
        self, tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "toril.yaml", token("ops", ["*"], secret=OLD))
        toril = start_toril(start_valkey(), args=["--config", str(file)])
        job_id = toril.gateway.add_one("mails", {"to": "ana@exmaple.org"})
        open_page(tab, toril, f"queues/mails/jobs/{job_id}", token=OLD)
        tab.click("button", "Edit")
        tab.type("textbox", "Data, JSON", '{"to": "ana@example.org"}')
        write(file, token("ops", ["*"], secret=NEW))
        toril.send(signal.SIGHUP)
        eventually(lambda: toril.client.get("/whoami", headers=bearer(OLD)).status_code == 401, what="the token's end")
        tab.run("document.querySelector('dialog form').requestSubmit()")
        tab.the("textbox", "Token")
        tab.shows("Refused")
        tab.type("textbox", "Token", NEW)
        tab.click("button", "Log in")
        tab.until("document.querySelectorAll('dialog[open]').length === 1", "the login to be gone")
        assert tab.run("document.querySelector('dialog textarea').value") == '{"to": "ana@example.org"}'
        tab.click("button", "Confirm")
        tab.shows("Changed")
        assert toril.gateway.job("mails", job_id)["data"] == {"to": "ana@example.org"}
        tab.forget("401")

    def test_a_token_without_rights_sees_why(
        self, tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "toril.yaml", token("adder", ["jobs:add"], ["mails"]))
        toril = start_toril(start_valkey(), args=["--config", str(file)])
        for page, right in (
            ("queues", "queues:read"), ("workers", "workers:read"), ("schedulers", "schedulers:read"),
            ("audit", "audit:read"), ("queues/mails/jobs/1", "jobs:read"),
        ):  # fmt: skip
            tab.open("about:blank")
            open_page(tab, toril, page, token="adder-secret")
            tab.shows("Not for this token")
            tab.shows(f"It needs {right}")
        assert tab.find("link", "Audit") == []
        tab.forget("403")


class TestTwoPeople:
    def test_an_edit_shows_changes_made_by_another_user_meanwhile(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        job_id = toril.gateway.add_one(queue, {"amount": 1})
        open_page(tab, toril, f"queues/{queue}/jobs/{job_id}")
        tab.click("button", "Edit")
        tab.type("textbox", "Data, JSON", '{"amount": 3}')
        changed = toril.gateway.http.put(f"/queues/{queue}/jobs/{job_id}/data", json={"amount": 2})
        assert changed.is_success
        tab.click("button", "Confirm")
        tab.shows("It was changed meanwhile")
        tab.shows("amount: 2")
        assert toril.gateway.job(queue, job_id)["data"] == {"amount": 2}
        assert tab.run("document.querySelector('dialog textarea').value") == '{"amount": 3}'
        tab.click("button", "Confirm")
        tab.shows("Changed")
        assert toril.gateway.job(queue, job_id)["data"] == {"amount": 3}

    def test_removing_a_job_that_another_user_removed_shows_an_error(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        job_id = toril.gateway.add_one(queue, {"amount": 1})
        open_page(tab, toril, f"queues/{queue}/jobs/{job_id}")
        tab.click("button", "Remove")
        tab.shows("cannot be undone")
        assert toril.gateway.http.delete(f"/queues/{queue}/jobs/{job_id}").is_success
        tab.click("button", "Confirm")
        tab.shows("Refused")
        tab.shows("404")
        tab.click("button", "Cancel")
        tab.shows("removed")
        tab.until("![...document.querySelectorAll('main button')].some(b => b.textContent === 'Remove')", "no Remove")
        tab.the("button", "Edit and send again")
        tab.forget("404")

    def test_a_retry_of_several_says_which_another_was_faster_with(
        self, tab: Tab, toril: TorilProcess, endpoint: Endpoint, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        endpoint.behaviour = lambda _: respond(500)
        toril.gateway.register(queue, endpoint.url)
        first, second = (one["id"] for one in toril.gateway.add(queue, job(), job()))
        for one in (first, second):
            toril.gateway.finished(queue, one)
        toril.gateway.unregister(queue)
        open_page(tab, toril, f"queues/{queue}?state=failed")
        tab.click("button", "Pause live updates")
        tab.click("checkbox", "Select this page")
        tab.click("button", "Retry")
        tab.shows("Retry 2 jobs of")
        assert toril.gateway.http.post(f"/queues/{queue}/jobs/{first}/retry").is_success
        tab.click("button", "Confirm")
        tab.shows(f"1 were in another state: {first}")
        tab.shows("1 retried")

    def test_a_pause_by_another_is_seen(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        toril.gateway.add_one(queue)
        open_page(tab, toril, f"queues/{queue}")
        tab.the("button", "Pause")
        toril.gateway.http.post(f"/queues/{queue}/pause")
        tab.the("button", "Resume")
        tab.shows("paused")

    def test_a_dead_letter_that_another_purged_is_named(
        self, tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril, endpoint: Endpoint,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        targets = {"billing": {"url": endpoint.url, "retry": {"max_attempts": 1}}}
        file = configuration(tmp_path / "toril.yaml", targets, ledger={"url": f"sqlite:///{tmp_path}/ledger.sqlite3"})
        toril = start_toril(start_valkey(), args=["--config", str(file)])
        endpoint.behaviour = lambda _: respond(422)
        door = Door(toril.gateway)
        ids = [door.enqueue("billing"), door.enqueue("billing")]
        eventually(lambda: all(door.job(one)["status"] == "dead_lettered" for one in ids), what="two dead letters")
        open_page(tab, toril, "dead-letters?target=billing")
        tab.the("link", ids[0])
        tab.click("button", "Pause live updates")
        tab.click("checkbox", "Select this page")
        assert toril.client.delete(f"/targets/billing/dead-letters/{ids[0]}").is_success
        tab.click("button", "Purge")
        tab.click("button", "Confirm")
        tab.shows(f"1 dead letter purged; 1 were gone already: {ids[0]}")
        tab.forget("404", "409")


class TestRestarts:
    def test_a_page_that_gets_no_answer_says_so_and_goes_on_when_there_is_one(
        self, tab: Tab, toril: TorilProcess
    ) -> None:
        tab.call("Network.setBlockedURLs", urls=["*/whoami"])
        open_page(tab, toril, "queues")
        tab.shows("toril does not answer")
        tab.call("Network.setBlockedURLs", urls=[])
        tab.until("document.querySelector('h1')?.textContent === 'Queues'", "the page")
        tab.forget("whoami")

    def test_a_paused_page_does_not_take_a_look_for_a_change(self, tab: Tab, toril: TorilProcess) -> None:
        open_page(tab, toril, "workers")
        tab.shows("Live")
        tab.click("button", "Pause live updates")
        tab.the("button", "Resume live updates")
        tab.run("document.dispatchEvent(new Event('visibilitychange'))")  # it looks as it does every few seconds
        tab.run("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
        assert "change waits" not in tab.text

    def test_a_click_while_the_server_is_away_shows_an_error_and_works_afterwards(
        self, tab: Tab, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril
    ) -> None:
        toril = start_toril(start_valkey())
        toril.gateway.add("orders", job())
        open_page(tab, toril, "queues/orders")
        tab.shows("1 job waits")
        tab.shows("Live")
        tab.click("button", "Add job")
        tab.type("textbox", "Name", "charge")
        tab.type("textbox", "Data, JSON", '{"amount": 42}')
        toril.kill()
        tab.shows("Not live")
        tab.click("button", "Confirm")
        tab.shows("toril cannot be reached")
        assert tab.run("document.querySelector('dialog textarea').value") == '{"amount": 42}'
        toril.start()
        tab.shows("Live")
        tab.click("button", "Confirm")
        tab.shows("was added to orders")
        tab.shows("2 jobs wait")
        toril.kill()
        tab.shows("Not live")
        tab.click("button", "Pause")
        tab.shows("toril cannot be reached")
        tab.the("button", "Dismiss")
        toril.start()
        tab.shows("Live")
        tab.click("button", "Pause")
        tab.the("button", "Resume")
        tab.forget("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY")


class TestHostileData:
    def test_ten_megabytes_are_shown_without_freezing(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = new_queue()
        data = {
            "text": "x" * 4_000_000,
            "list": list(range(400_000)),
            "keys": {f"key {n}": n for n in range(10_000)},
            "html": "<img src=x onerror=alert(1)>",
            "filler": ["y" * 100_000] * 25,
        }
        assert 9_000_000 < len(json.dumps(data)) < 10_000_000
        job_id = toril.gateway.add_one(queue, data)
        open_page(tab, toril, f"queues/{queue}")
        tab.the("link", job_id)
        tab.shows("Too large for a list")
        tab.click("link", job_id)
        tab.the("heading", job_id)
        tab.shows("list of 400000")
        tab.shows("10000 keys")
        tab.shows("<img src=x")
        tab.shows("Show all 4000002 characters")
        assert tab.run("document.querySelectorAll('main img').length") == 0
        assert tab.run("document.querySelectorAll('main *').length") < 5000
        tab.press("?")
        tab.shows("next, previous row")  # it still listens

    def test_hostile_names_are_text_everywhere(self, tab: Tab, toril: TorilProcess, new_queue: NewQueue) -> None:
        queue = f"{new_queue()} <b>\u202egnp"
        name = "<script>document.title = 'taken'</script>"
        data = {"nul": "a\u0000b", "rtl": "\u202egnp.exe", "html": "</script><script>alert(1)</script>"}
        job_id = f"<i>{'z' * 40}\u202eabc"
        toril.gateway.http.post(f"/queues/{quote_all(queue)}/jobs", json=[job(data, name, jobId=job_id)])
        own = f"queues/{quote_all(queue)}"
        for page in (f"queues?match={quote_all(queue[:12])}", own, f"{own}/jobs/{quote_all(job_id)}"):
            tab.open("about:blank")
            open_page(tab, toril, page)
            tab.until("!!document.querySelector('main h1') && !document.querySelector('[aria-busy]')", page)
            tab.until(f"document.body.innerText.includes({json.dumps(queue)})", "the queue's name as text")
            assert tab.run("document.querySelectorAll('main script, main bdi :not(span, wbr)').length") == 0
            assert "taken" not in tab.run("document.title") or name in tab.run("document.title")
        tab.until("document.body.innerText.includes('a\\\\u0000b')", "the NUL, escaped")


class TestMany:
    def test_an_action_on_100_000_jobs_says_how_many_and_wants_the_queues_name(
        self, tab: Tab, toril: TorilProcess, store: redis.Redis, new_queue: NewQueue
    ) -> None:
        queue = new_queue()
        fill(store, queue, wait=MANY)
        open_page(tab, toril, f"queues/{queue}?state=waiting")
        tab.shows("1 to 25 of 100,000")
        tab.click("checkbox", "Select this page")
        tab.click("button", "Select all that match")
        tab.click("button", "Remove")
        tab.shows(f"Remove 100,000 jobs of {queue}?")
        assert tab.run("document.querySelector('dialog button.primary').disabled")
        tab.type("textbox", f"Type {queue}", queue)
        tab.click("button", "Confirm")
        eventually(lambda: "100,000 jobs removed" in tab.text, timeout_s=120, what="the jobs to be gone")
        assert toril.gateway.counts(queue)["waiting"] == 0

    @pytest.mark.parametrize(
        ("where", "said"),
        [
            ("data.customer.id = ", "at character 19"),
            ("data.a = 1 and (", "at character 17"),
            ("nonsense ? 1", "at character 10"),
        ],
    )
    def test_a_filter_that_cannot_be_read_says_at_which_character(
        self, tab: Tab, toril: TorilProcess, new_queue: NewQueue, where: str, said: str
    ) -> None:
        queue = new_queue()
        toril.gateway.add_one(queue)
        open_page(tab, toril, f"queues/{queue}")
        tab.type("textbox", "Search", where)
        tab.press("Enter")
        tab.shows("Not understood")
        tab.shows(said)
        assert tab.run("document.querySelector('input[name=where]').getAttribute('aria-invalid')") == "true"
        tab.forget("400")


def test_the_keyboard_alone_finds_a_page_selects_rows_and_acts(
    chromium: Browser, toril: TorilProcess, new_queue: NewQueue
) -> None:
    queue = new_queue()
    toril.gateway.add(queue, *(job({"n": n}) for n in range(4)))
    tab = chromium.tab()
    open_page(tab, toril)
    tab.the("button", "Go to")
    for _ in range(40):  # the button that opens the palette is reached with Tab
        tab.press("Tab")
        if tab.run("document.activeElement?.getAttribute('aria-label')") == "Go to":
            break
    tab.press("Enter")
    tab.the("dialog", "Command palette")
    tab.call("Input.insertText", text="sched")
    tab.press("Enter")
    tab.the("heading", "Schedulers")
    tab.press("k", ctrl=True)
    tab.the("dialog", "Command palette")
    tab.call("Input.insertText", text=queue)
    tab.press("Enter")
    tab.the("heading", queue)
    tab.the("link", "1")
    tab.press("/")
    tab.until("document.activeElement?.getAttribute('aria-label') === 'Search'", "the search field")
    tab.call("Input.insertText", text="data.n > 1")
    tab.press("Enter")
    tab.shows("2 match")
    tab.run("document.activeElement.blur()")
    tab.press("j")
    tab.press("x")
    tab.press("j")
    tab.press("x", shift=True)
    tab.shows("2 selected")
    tab.run("document.querySelector('.bulk .danger').focus()")
    tab.press("Enter")
    tab.shows("Remove 2 jobs of")
    tab.press("Enter")
    tab.shows("2 jobs removed")
    assert toril.gateway.counts(queue)["waiting"] == 2
