"""Every page under its address, with its heading, its links and its verbs (the contract is wire/dashboard.md)."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.browser import Tab, open_page
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.gateway import job
from tests.support.tokens import token
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

API = "/__toril"
READER = "reader-secret"
SIZES = [(1440, 900), (1280, 800), (1024, 768), (390, 844)]
TOO_WIDE = """Array.from(document.querySelectorAll('main table'))
    .filter(one => !one.closest('.wide') && one.offsetWidth > one.parentElement.clientWidth + 1)
    .map(one => one.offsetWidth - one.parentElement.clientWidth)"""

FOLLOWED = """(async link => {
    const anchor = document.body.appendChild(Object.assign(document.createElement('a'), {href: link}));
    anchor.click();
    anchor.remove();
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
})"""
"""Follows a link by a click, which loads nothing anew, until what it leads to is drawn."""


class Shop(dict[str, str]):
    """The ids of what stands on the pages of a toril that has something on each, by what it is."""

    toril: TorilProcess


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A toril with all three doors, and something on each page."""
    folder = tmp_path_factory.mktemp("pages")
    with ValkeyProcess(folder / "valkey") as valkey, Endpoint(_behave) as endpoint:
        file = configuration(
            folder / "toril.yaml",
            {"billing": {"url": endpoint.url, "retry": {"max_attempts": 1}}},
            ledger={"url": f"sqlite:///{folder}/ledger.sqlite3"},
            upstreams=[{"prefix": "/shop", "url": endpoint.url}],
            tokens=[token("reader", ["*:read"])],
        )
        toril = TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)])
        try:
            toril.start(f"{API}/ready")
            yield _furnished(toril, endpoint)
        finally:
            toril.close()


def _behave(call: Call) -> Answer:
    return respond(422, body=b'{"error": "unknown article"}') if b"bad" in call.body else respond(200, body=b"{}")


def _furnished(toril: TorilProcess, endpoint: Endpoint) -> Shop:
    made = Shop()
    made.toril = toril
    gateway = toril.gateway
    gateway.http.base_url = httpx.URL(toril.url + API)
    gateway.register("mails", endpoint.url)
    made["job"] = gateway.add_one("mails", {"to": "ana@example.org"})
    made["failed"] = gateway.add_one("mails", "bad")
    made["delayed"] = gateway.add_one("mails", {"n": 1}, delay=3_600_000)
    gateway.http.put("/queues/mails/schedulers/nightly", json={"every": 3_600_000, "template": {"name": "digest"}})
    leaf = {"name": "pdf", "queueName": "parts", "data": {}}
    flow = {"name": "order", "queueName": "orders", "data": {}, "children": [leaf]}
    made["flow"] = gateway.http.post("/flows", json=flow).json()["job"]["id"]
    gateway.add("reports", job(), job())
    gateway.http.post("/queues/reports/pause")
    gateway.add("tenants", job(group={"id": "acme"}))
    gateway.http.put("/queues/tenants/groups/globex", json={"concurrency": 2, "paused": True})
    gateway.finished("mails", made["job"])
    door = Door(gateway)
    made["dead"] = door.enqueue("billing", body="bad", labels={"tenant": "t1"})
    eventually(lambda: door.job(made["dead"])["status"] == "dead_lettered", what="a dead letter")
    sent = gateway.http.post(f"{toril.url}/shop/search", json={"q": "tent"})
    made["request"] = sent.json()["jobId"]
    eventually(
        lambda: gateway.http.get(f"/proxied/{made['request']}").json()["status"] == "completed", what="the answer"
    )
    return made


def pages(shop: Shop) -> dict[str, tuple[str, str]]:
    """Each page: its address, its heading, and the title of its tab."""
    named = {
        "queues": "Queues", "schedulers": "Schedulers", "workers": "Workers", "proxy": "Requests", "targets": "Targets",
        "dead-letters": "Dead letters", "events": "Events", "audit": "Audit", "more": "More",
        "no/such/page": "No such page",
    }  # fmt: skip
    return {
        "": ("Overview", "Overview"),
        **{page: (heading, heading) for page, heading in named.items()},
        "queues/mails": ("mails", "mails"),
        "queues/tenants/groups": ("Groups of tenants", "Groups of tenants"),
        f"queues/mails/jobs/{shop['job']}": (shop["job"], f"{shop['job']} · mails"),
        f"queues/mails/jobs/{shop['failed']}": (shop["failed"], f"{shop['failed']} · mails"),
        f"flows/orders/{shop['flow']}": (f"Flow of {shop['flow']}", f"Flow {shop['flow']}"),
        f"proxy/{shop['request']}": (shop["request"], f"Request {shop['request']}"),
        "targets/billing": ("billing", "billing"),
        f"deliveries/{shop['dead']}": (shop["dead"], shop["dead"]),
    }


def opened(tab: Tab, shop: Shop, page: str, **more: str) -> None:
    """Open a page and wait until it shows what it has to show."""
    tab.open("about:blank")
    open_page(tab, shop.toril, page, below=API, **more)
    tab.until("!!document.querySelector('main h1') && !document.querySelector('[aria-busy]')", f"the page {page}")


def test_each_page_has_one_heading_with_the_things_name_and_fits_every_screen(tab: Tab, shop: Shop) -> None:
    for page, (heading, title) in pages(shop).items():
        tab.resize(*SIZES[0])
        opened(tab, shop, page)
        for width, height in SIZES:
            tab.turn(width, height)
            at = f"{page} at {width}"
            tab.the("heading", heading)
            tab.until("!document.querySelector('[aria-busy]')", "what it shows")
            found = tab.run("Array.from(document.querySelectorAll('h1'), one => one.textContent)")
            assert found == [heading], at
            assert tab.run("document.title") == f"{title} · toril"
            assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, at
            assert tab.run(TOO_WIDE) == [], f"a table of {at} is wider than its place"
            assert tab.run("document.querySelectorAll('main').length") == 1


def test_every_link_of_a_page_leads_to_a_page(tab: Tab, shop: Shop) -> None:
    found: set[str] = set()
    for page in pages(shop):
        opened(tab, shop, page)
        found |= set(tab.run("Array.from(document.querySelectorAll('a[href]'), one => one.getAttribute('href'))"))
    assert {f"{API}/dashboard/{page}" for page in ("", "queues", "proxy", "targets", "audit")} <= found
    assert len(found) > 40
    for link in sorted(found):
        assert link.startswith(f"{API}/dashboard/"), link
        tab.run(f"{FOLLOWED}({json.dumps(link)})")
        tab.until("!!document.querySelector('main h1')", link)
        assert tab.address == link
        assert tab.run("document.querySelector('h1').textContent") != "No such page", link
    tab.forget("404")  # the scheduler's next job may be made anew


def test_a_browser_that_has_shown_a_page_asks_for_none_of_the_files_again(tab: Tab, shop: Shop) -> None:
    opened(tab, shop, "queues")
    opened(tab, shop, "queues/mails")
    sent = """performance.getEntriesByType('resource').filter(one => one.name.includes('/static/'))
        .map(one => [one.name, one.transferSize])"""
    files = tab.run(sent)
    assert len(files) > 40
    assert [name for name, size in files if size] == []


VERBS = {
    "queues": {"Add job", "Pause mails", "Resume reports", "Search"},
    "queues/mails": {
        "Pause", "Add job", "Drain", "Clean", "Obliterate", "Edit", "Previous", "Next", "Search", "Go to", "Log out",
        "Copy as curl", "Pause live updates",
    },
    "queues/reports": {"Resume"},
    "queues/tenants/groups": {"Set limits", "Pause acme", "Edit acme", "Drain acme", "Resume globex", "Search"},
    "queues/mails/jobs/{job}": {"Retry", "Remove", "Edit", "Edit and send again", "Copy"},
    "queues/mails/jobs/{delayed}": {"Promote", "Move to delay", "Remove", "Edit"},
    "workers": {"Register worker", "Send test job to mails", "Pause the worker of mails", "Remove the worker of mails"},
    "schedulers": {"Add scheduler", "Edit nightly", "Remove nightly", "Show the next times of nightly"},
    "targets": {"Send test envelope", "Pause billing"},
    "targets/billing": {"Pause", "Send test envelope"},
    "deliveries/{dead}": {"Replay", "Purge"},
    "proxy/{request}": {"Replay", "Cancel", "Copy request as curl"},
}  # fmt: skip
"""The buttons of each page, by their accessible names."""


@pytest.mark.parametrize("page", VERBS)
def test_the_verbs_of_a_page_are_buttons_of_that_name(tab: Tab, shop: Shop, page: str) -> None:
    opened(tab, shop, page.format(**shop))
    for verb in sorted(VERBS[page]):
        tab.the("button", verb)


def test_dialogs_and_controls_that_open_have_accessible_names(tab: Tab, shop: Shop) -> None:
    opened(tab, shop, "dead-letters?target=billing")
    tab.the("textbox", "Search")
    tab.click("checkbox", f"Select {shop['dead']}")
    for verb in ("Dry run", "Replay", "Purge", "Select all that match"):
        tab.the("button", verb)
    tab.press("k", ctrl=True)
    tab.the("dialog", "Command palette")
    tab.press("Escape")
    opened(tab, shop, "queues/mails?state=failed")
    tab.click("checkbox", "Select this page")
    for verb in ("Dry run", "Retry", "Remove", "Select all that match"):
        tab.the("button", verb)
    tab.click("button", "Remove")
    tab.the("button", "Confirm")
    tab.click("button", "Cancel")
    tab.click("button", "Log out")
    tab.the("textbox", "Token")
    tab.the("button", "Log in")


ACTING = {
    "Pause", "Resume", "Retry", "Promote", "Remove", "Drain", "Clean", "Obliterate", "Replay", "Purge", "Cancel",
    "Add job", "Add scheduler", "Edit", "Edit and send again", "Send test job", "Move to delay", "Send test envelope",
    "Register worker", "Set limits",
}  # fmt: skip


def test_a_token_that_may_only_read_finds_no_button_that_acts_on_any_page(tab: Tab, shop: Shop) -> None:
    for page in pages(shop):
        opened(tab, shop, page, token=READER)
        for width, height in ((390, 844), (1440, 900)):
            tab.turn(width, height)
            acting = "Array.from(document.querySelectorAll('main button'), one => one.textContent.trim())"
            assert not ACTING & set(tab.run(acting)), page
            assert tab.find("checkbox") == [], page


def test_dead_letters_are_found_by_reason_and_by_their_error(tab: Tab, shop: Shop) -> None:
    opened(tab, shop, "dead-letters")
    tab.the("link", shop["dead"])
    tab.choose("combobox", "Reason", "deadline")
    tab.shows("No dead letters")
    tab.choose("combobox", "Reason", "refused")
    tab.the("link", shop["dead"])
    tab.type("textbox", "Search", "tenant=t1 HTTP 422")
    tab.press("Enter")
    tab.the("link", shop["dead"])
    assert "error_contains" not in tab.address  # one field says both
    tab.type("textbox", "Search", "tenant=t1 timeout")
    tab.press("Enter")
    tab.shows("No dead letters")


def test_a_delivery_shows_what_was_sent_and_what_came_back(tab: Tab, shop: Shop) -> None:
    opened(tab, shop, f"deliveries/{shop['dead']}")
    tab.the("heading", "Envelope")
    tab.until(
        "[...document.querySelectorAll('pre')].some(one => one.textContent.includes('bad'))", "the envelope's body"
    )
    tab.shows("unknown article")
    tab.shows("Transitions")


def test_a_target_says_how_many_of_its_attempts_fail(tab: Tab, shop: Shop) -> None:
    opened(tab, shop, "targets")
    tab.shows("Failing")
    tab.shows("100 %")
    tab.click("link", "billing")
    tab.shows("1 of 1 attempt in 10 min")


def test_a_workers_last_attempts_lead_to_their_jobs(tab: Tab, shop: Shop) -> None:
    opened(tab, shop, "workers")
    name = str(tab.until("document.querySelector('button.dots')?.getAttribute('aria-label')", "the attempts"))
    assert name.startswith("Last attempts of mails: ")
    tab.click("button", name)
    tab.the("dialog", "Last attempts of mails")
    tab.click("link", shop["failed"])
    tab.the("heading", shop["failed"])
    tab.shows("422")


def test_workers_that_lease_jobs_are_listed(tab: Tab, shop: Shop) -> None:
    http = shop.toril.gateway.http
    http.post("/queues/pulled/jobs", json=[job({"n": 1})])
    leased = http.post("/queues/pulled/lease", json={"worker": "puller-7", "count": 1})
    assert leased.status_code == 200, leased.text
    opened(tab, shop, "workers")
    tab.shows("puller-7")
    tab.shows("1 lease holder")
    opened(tab, shop, "queues/pulled")
    tab.shows("holds 1 job")


def test_a_queue_whose_jobs_no_worker_takes_says_so(tab: Tab, shop: Shop) -> None:
    shop.toril.gateway.add("lonely", job())
    opened(tab, shop, "queues/lonely")
    tab.shows("No worker")
    opened(tab, shop, "queues/reports")
    tab.shows("paused")
    assert "No worker" not in tab.text
