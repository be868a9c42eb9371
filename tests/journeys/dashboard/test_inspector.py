"""The inspector of `toril dev` on the dashboard: what came, as it comes, and what was answered."""

import json
import re

import pytest

from tests.support.browser import Browser, Tab, open_page
from tests.support.dev import Dev, StartDev
from tests.support.tokens import token
from tests.support.toril import TorilProcess

HOSTILE = '<img src=x onerror="window.hacked = 1">\u202egnp.exe'
UPSTREAMS = 'upstreams: [{prefix: /api, url: "URL/inspect/upstream"}]\n'


def opened(tab: Tab, dev: Dev, page: str = "inspector", below: str = "", token: str | None = None) -> None:
    """Open a page of a `toril dev`. What the inspector lists is beside the API."""
    open_page(tab, dev.process, page, token=token or dev.token, below=below)
    tab.documented = re.compile(f"{tab.documented.pattern}|/inspect")


@pytest.fixture
def dev(start_dev: StartDev) -> Dev:
    return start_dev()


def test_requests_are_seen_as_they_come_and_opened(tab: Tab, dev: Dev) -> None:
    opened(tab, dev, "")
    tab.click("link", "Inspector")
    tab.the("heading", "Inspector")
    tab.shows("Nothing came yet")
    dev.gateway.register("orders", f"{dev.url}/inspect/charge?body=%7B%22charged%22:42%7D")
    dev.gateway.add_one("orders", {"amount": 42})
    tab.click("link", "1")
    tab.the("heading", "Request 1")
    tab.shows("POST /inspect/charge?body=%7B%22charged%22:42%7D")
    tab.shows("user-agent")
    tab.shows('"amount": 42')
    tab.shows('"charged": 42')
    tab.run("history.back()")
    tab.the("heading", "Inspector")
    dev.plain.put("/inspect/other/below?status=418&delay=10ms&body=tea", content=b"\xff\x00\x01")
    tab.click("link", "2")
    tab.shows("PUT /inspect/other/below?status=418")
    tab.shows("0000  ff 00 01")
    tab.shows("after 10 ms")
    tab.shows("tea")
    tab.complaints[:] = []


def test_the_requests_of_one_name_are_listed_the_newest_first(tab: Tab, dev: Dev) -> None:
    for name in ("one", "other", "one"):
        dev.plain.post(f"/inspect/{name}")
    opened(tab, dev)
    tab.type("textbox", "Search", "one")
    tab.press("Enter")
    tab.hides("/inspect/other")
    rows = "Array.from(document.querySelectorAll('tbody a.thing'), one => one.textContent)"
    tab.until(f"String({rows}) === '3,1'", "those of one name")
    dev.plain.post("/inspect/other")
    dev.plain.post("/inspect/one")
    tab.until(f"String({rows}) === '5,3,1'", "the next one of that name")
    assert tab.address.endswith("/dashboard/inspector?name=one")


def test_what_callers_send_is_shown_as_text(tab: Tab, dev: Dev) -> None:
    dev.plain.post("/inspect/evil", content=HOSTILE.encode(), headers={"x-evil": "<script>window.hacked = 1</script>"})
    opened(tab, dev, "inspector/1")
    tab.shows("onerror=")
    tab.shows("<script>window.hacked = 1</script>")
    assert tab.run("window.hacked") is None


def test_a_request_that_is_no_longer_kept_says_so(tab: Tab, dev: Dev) -> None:
    opened(tab, dev, "inspector/99")
    tab.shows("It is no longer kept")


def test_the_inspector_is_found_beside_an_api_at_another_path(tab: Tab, start_dev: StartDev) -> None:
    dev = start_dev(UPSTREAMS, "/__toril")
    dev.plain.post("/api/report", headers={"prefer": "wait=15"})
    opened(tab, dev, below="/__toril")
    tab.shows("/inspect/upstream/report")


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_long_targets_fit_the_screen(chromium: Browser, dev: Dev, width: int, height: int) -> None:
    dev.plain.post("/inspect/" + "x" * 64 + "/" + "y" * 300, headers={"x-long": "z" * 500}, content=b"w" * 500)
    tab = chromium.tab(width=width, height=height)
    for page in ("inspector", "inspector/1"):
        tab.open("about:blank")
        opened(tab, dev, page)
        tab.shows("x" * 64)
        assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, page


def test_toril_serve_has_no_such_page(tab: Tab, toril: TorilProcess) -> None:
    open_page(tab, toril, "inspector")
    tab.the("heading", "No such page")
    assert tab.find("link", "Inspector") == []


def test_a_token_that_may_not_see_payloads_is_told_so(tab: Tab, start_dev: StartDev) -> None:
    tokens = json.dumps([token("blind", ["queues:read"])])
    dev = start_dev(f"auth_tokens: [all-the-rights-there-are]\ntokens: {tokens}\n")
    opened(tab, dev, token="blind-secret")
    tab.shows("payloads:read")
    assert tab.find("link", "Inspector") == []
    tab.forget("403")
