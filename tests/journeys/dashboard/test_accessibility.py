"""The dashboard for people without a mouse, with a small screen, with a screen reader, or in the dark."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, Tab, open_page
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.gateway import job
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

CHECKS = Path(__file__).parents[2] / "dashboard"
PAGES = (
    "", "queues", "queues/mails", "queues/mails?state=completed", "queues/mails/jobs/1", "queues/mails/groups",
    "queues/reports/groups", "flows/mails/1", "schedulers",
    "workers", "targets", "targets/billing", "dead-letters", "events?queues=mails", "audit", "more", "no/such/page",
)  # fmt: skip
FAULTS = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))"


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, which npm installs beside the other checks of the dashboard."""
    file = CHECKS / "node_modules" / "axe-core" / "axe.min.js"
    if not file.exists():
        npm = shutil.which("npm")
        if npm is None:
            if os.environ.get("CI"):
                pytest.fail("CI needs npm")
            pytest.skip("npm is not installed")
        subprocess.run([npm, "ci"], cwd=CHECKS, check=True, capture_output=True, timeout=300)
    return file.read_text()


@pytest.fixture
def furnished(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess],
    endpoint: Endpoint, tmp_path: Path,
) -> TorilProcess:  # fmt: skip
    """A toril with something on every page."""
    targets = {"billing": {"url": endpoint.url, "retry": {"max_attempts": 1}}}
    file = configuration(tmp_path / "toril.yaml", targets, ledger={"url": f"sqlite:///{tmp_path}/ledger.sqlite3"})
    toril = start_toril(start_valkey(), args=["--config", str(file)])
    gateway = toril.gateway
    endpoint.behaviour = lambda call: respond(422) if b"bad" in call.body else respond(200, body=b'{"sent": true}')
    gateway.register("mails", endpoint.url)
    gateway.add("mails", job({"to": "ana@example.org"}), job("bad"))
    gateway.http.put("/queues/mails/schedulers/nightly", json={"every": 3_600_000, "template": {"name": "digest"}})
    gateway.add("reports", job(), job())
    gateway.add("reports", job(group={"id": "acme"}), job(group={"id": "acme/1"}))
    gateway.http.put("/queues/reports/groups/acme", json={"concurrency": 2, "paused": True})
    gateway.http.put("/queues/reports/groups/other", json={"limit": {"max": 10, "duration": 1000}, "weight": 3})
    gateway.http.post("/queues/reports/pause")
    gateway.finished("mails", "1")
    door = Door(gateway)
    dead = door.enqueue("billing", body="bad")
    eventually(lambda: door.job(dead)["status"] == "dead_lettered", what="a dead letter")
    return toril


def loaded(tab: Tab) -> None:
    """Wait until a page shows what it has to show."""
    tab.until("document.querySelector('main h1') && !document.querySelector('[aria-busy]')", "the page")


def test_axe_finds_nothing_on_any_page(chromium: Browser, furnished: TorilProcess, axe: str) -> None:
    tab = chromium.tab()
    found: dict[str, Any] = {}
    for page in PAGES:
        tab.open("about:blank")
        open_page(tab, furnished, page)
        loaded(tab)
        tab.run(axe + "; true")
        for (width, height), dark in itertools.product(((1440, 900), (390, 844)), (False, True)):
            tab.turn(width, height, dark=dark)
            faults = tab.run(FAULTS)
            if faults:
                found[f"{page} at {width}, {'dark' if dark else 'light'}"] = faults
    assert not found, json.dumps(found, indent=1)


def test_axe_finds_nothing_in_any_dialog(chromium: Browser, furnished: TorilProcess, axe: str) -> None:
    tab = chromium.tab()
    for page, button in (
        ("queues/mails", "Add job"), ("queues/mails", "Clean"), ("queues/mails", "Obliterate"),
        ("queues/mails/groups", "Set limits"), ("queues/reports/groups", "Drain acme/1"),
        ("queues/mails/jobs/1", "Edit and send again"), ("workers", "Register worker"),
        ("schedulers", "Add scheduler"), ("targets", "Send test envelope"), ("", "Go to"),
    ):  # fmt: skip
        tab.open("about:blank")
        open_page(tab, furnished, page)
        loaded(tab)
        tab.click("button", button)
        tab.until("!!document.querySelector('dialog[open]')", "the dialog")
        tab.run(axe + "; true")
        faults = tab.run(FAULTS)
        assert faults == [], f"{button} of {page}"


def test_everything_is_listed_and_reached_by_keys(tab: Tab, furnished: TorilProcess) -> None:
    open_page(tab, furnished)
    tab.the("button", "Go to")
    tab.press("?")
    tab.shows("next, previous row")
    tab.press("Escape")
    for key, heading in (
        ("q", "Queues"),
        ("w", "Workers"),
        ("s", "Schedulers"),
        ("t", "Targets"),
        ("d", "Dead letters"),
    ):
        tab.until("!document.querySelector('dialog[open]')")
        tab.press("g")
        tab.press(key)
        tab.the("heading", heading)
    tab.until("!!document.querySelector('[data-row]')", "the dead letter")

    def cursor() -> bool:
        tab.press("j")  # keys are heard from the frame after the one that shows the row
        return bool(tab.run("!!document.querySelector('tr.shows-focus')"))

    eventually(cursor, what="the cursor")
    tab.press("x")
    tab.the("button", "Replay")
    tab.press("Enter")
    tab.shows("Transitions")


def test_a_phone_has_all_pages_and_acts_on_a_job(chromium: Browser, furnished: TorilProcess) -> None:
    tab = chromium.tab(width=390, height=844)
    open_page(tab, furnished)
    tab.click("link", "More")
    tab.the("heading", "More")
    tab.click("link", "Dead letters")
    tab.the("heading", "Dead letters")
    tab.click("link", "Queues")
    tab.click("link", "mails")
    tab.the("heading", "mails")
    tab.until("!!document.querySelector('nav.tabs a[href*=completed]')", "the states")
    tab.run("document.querySelector('nav.tabs a[href*=completed]').click()")
    tab.click("link", "1")
    tab.shows("ana@example.org")
    tab.click("button", "Remove")
    tab.click("button", "Confirm")
    tab.shows("was removed")
    assert not furnished.gateway.exists("mails", "1")


def test_theme_and_times_are_chosen_and_kept(tab: Tab, furnished: TorilProcess) -> None:
    open_page(tab, furnished, "queues/mails?state=completed")
    tab.click("button", "Theme, dark or light")
    tab.click("button", "Times, now relative")
    tab.until("/^\\d{4}-\\d\\d-\\d\\d /.test(document.querySelector('td time').textContent)", "exact times")
    assert tab.run("document.documentElement.dataset.theme") == "dark"
    tab.open("about:blank")
    open_page(tab, furnished, "queues/mails?state=completed")
    tab.the("button", "Times, now exact")
    assert tab.run("document.documentElement.dataset.theme") == "dark"


def test_any_view_is_copied_as_curl(tab: Tab, furnished: TorilProcess) -> None:
    open_page(tab, furnished, "queues/mails")
    loaded(tab)
    tab.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }; true")
    tab.click("button", "Copy as curl")
    assert tab.until("window.copied") == (
        f"curl -X GET '{furnished.url}/queues/mails' \\\n  -H \"authorization: Bearer $TOKEN\""
    )
