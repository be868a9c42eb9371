"""Long names of everything that has one: they stay within their place on every page, at every width."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.browser import Browser, open_page
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.gateway import Gateway, job
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

API = "/__toril"
PARTS = "customer-exports-of-the-nightly-warehouse-synchronisation-for-northern-europe"
UNBROKEN = "q" * 100
TARGET = PARTS[:60]
OVER = """Array.from(document.querySelectorAll('main table'), one => one.closest('.wide') || one)
    .map(one => [one.scrollWidth - one.clientWidth, one.offsetWidth - one.parentElement.clientWidth])
    .filter(([scrolls, sticks]) => scrolls > 1 || sticks > 1)"""
"""How far tables have to be scrolled, or stick out of their place."""

COLLAPSED = """Array.from(document.querySelectorAll('main td .thing, main .lines th bdi'))
    .filter(one => one.textContent.length > 50 && one.offsetWidth && one.offsetWidth < 100)
    .map(one => [one.textContent.slice(0, 20), one.offsetWidth])"""
"""Long names that are squeezed into a narrow column."""
STICKING = """Array.from(document.querySelectorAll('main td, main th'))
    .filter(one => getComputedStyle(one).overflowX === 'visible' && one.scrollWidth > one.clientWidth + 1)
    .map(one => [one.innerText.slice(0, 40), one.scrollWidth - one.clientWidth])"""
"""Cells whose text goes over the next one."""


class Named:
    """A toril whose things have long names, and the pages that show them."""

    def __init__(self, toril: TorilProcess, pages: list[str]) -> None:
        self.toril = toril
        self.pages = pages


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    """A toril with all three doors and a long name wherever there is one."""
    folder: Path = tmp_path_factory.mktemp("long")
    with ValkeyProcess(folder / "valkey") as valkey, Endpoint(lambda _: respond(422, "No such article")) as endpoint:
        file = configuration(
            folder / "toril.yaml",
            {TARGET: {"url": f"{endpoint.url}/{PARTS}/{UNBROKEN}", "retry": {"max_attempts": 1}}},
            ledger={"url": f"sqlite:///{folder}/ledger.sqlite3"},
            upstreams=[{"prefix": f"/{PARTS}", "url": endpoint.url}],
        )
        toril = TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)])
        try:
            toril.start(f"{API}/ready")
            toril.gateway.http.base_url = httpx.URL(toril.url + API)
            with socket_to(toril.url, f"{API}/ws/queues/{PARTS}-sockets/process/2") as worker:
                toril.gateway.add(f"{PARTS}-sockets", job(jobId="j" * 100))
                worker.jobs(1)
                yield Named(toril, _furnished(toril.gateway, toril.url, endpoint))
        finally:
            toril.close()


def _furnished(gateway: Gateway, url: str, endpoint: Endpoint) -> list[str]:
    """Make one of each; the pages of them."""
    pages = ["", "queues", "schedulers", "workers", "proxy", "targets", f"targets/{TARGET}", "dead-letters", "audit"]
    for queue in (PARTS, UNBROKEN):
        failed = gateway.add_one(queue, "x" * 300, name="n" * 200, jobId=f"job-{'y' * 90}")
        gateway.register(queue, f"{endpoint.url}/{PARTS}/{UNBROKEN}")
        gateway.finished(queue, failed)
        gateway.http.put(
            f"/queues/{queue}/schedulers/{'s' * 100}",
            json={"pattern": "0 0 3 * * 1-5", "tz": "America/Argentina/Buenos_Aires", "template": {"name": "n" * 80}},
        )
        for group in (PARTS, "g" * 200):
            limits = {
                "concurrency": 10**12,
                "limit": {"max": 10**12, "duration": 7 * 86_400_000},
                "max_waiting": 10**12,
            }
            gateway.http.put(f"/queues/{queue}/groups/{group}", json=limits | {"weight": 1000, "paused": True})
        pages += [
            f"queues/{queue}/groups",
            f"queues/{queue}?state=failed",
            f"queues/{queue}/jobs/{failed}",
            f"events?queues={queue}",
        ]
    gateway.http.post(f"/queues/{UNBROKEN}/pause")
    sent = gateway.http.post(f"{url}/{PARTS}/{'p' * 120}", params={"q": "q" * 200}, json={}).json()["jobId"]
    door = Door(gateway)
    dead = door.enqueue(TARGET, labels={"tenant": PARTS, "region": "r" * 60})
    eventually(lambda: door.job(dead)["status"] == "dead_lettered", what="a dead letter")
    reasons = lambda: gateway.http.get("/stats").json()["reasons"]  # noqa: E731 - asked again and again
    eventually(lambda: len(reasons()) >= 2, timeout_s=30, what="the reasons of failures")
    return [*pages, f"proxy/{sent}", f"deliveries/{dead}"]


def test_no_page_and_no_table_is_wider_than_its_place(chromium: Browser, named: Named) -> None:
    tab = chromium.tab(width=1440, height=844)
    for page in named.pages:
        tab.open("about:blank")
        open_page(tab, named.toril, page, below=API)
        tab.until("document.querySelector('main h1') && !document.querySelector('[aria-busy]')", "a heading")
        for width in (390, 1024, 1440):
            tab.turn(width, 844)
            at = f"{page} at {width}"
            over = tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, f"{at} is {over} px too wide"
            assert tab.run(OVER) == [], f"a table of {at}"
            assert tab.run(COLLAPSED) == [], f"a name of {at}"
            assert tab.run(STICKING) == [], f"a cell of {at}"
