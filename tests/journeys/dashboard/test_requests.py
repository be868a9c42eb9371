"""The async proxy on the dashboard: upstreams, requests by state, one request and its answer."""

from collections.abc import Iterator

import pytest

from tests.support.browser import Browser, Tab, open_page
from tests.support.endpoint import Answer, Call, drop, respond
from tests.support.proxq import Backend, Proxq, answering, started
from tests.support.tokens import token
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

API = "/own"
BINARY = bytes(range(256)) * 100
JSON = (("content-type", "application/json"),)


@pytest.fixture(scope="module")
def proxq(valkey: ValkeyProcess, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxq]:
    """A toril with two upstreams, below which its own API is at `/own`."""
    document = {
        "upstreams": [{"prefix": "/shop", "url": backend.url}, {"prefix": "/maps", "url": backend.url}],
        "apiPath": API,
        "concurrency": 2,
        "tokens": [
            token("all", ["*"]),
            token("blind", ["jobs:read", "queues:read"]),
            token("reader", ["*:read"]),
        ],
    }
    process, found = started(tmp_path_factory.mktemp("requests"), valkey, document)
    try:
        process.start(f"{API}/ready")
        yield found
        assert process.complaints() == []
    finally:
        process.close()


def opened(tab: Tab, proxq: Proxq, page: str, who: str = "all") -> None:
    """Open a page with a token."""
    open_page(tab, proxq.process, page, token=f"{who}-secret", below=API)


def answered(proxq: Proxq, target: str, body: bytes = b"") -> str:
    """The id of a request that was answered."""
    job_id = proxq.submit("POST", target, JSON, body)
    proxq.is_in(job_id, "completed")
    return job_id


def test_requests_are_listed_by_upstream_and_state(tab: Tab, proxq: Proxq, backend: Backend) -> None:
    good = answered(proxq, f"/shop{backend.path()}", b'{"sku": "T-1"}')
    path = backend.path(drop())
    failed = proxq.submit("GET", f"/maps{path}")
    proxq.is_in(failed, "failed")
    opened(tab, proxq, "proxy")
    tab.the("heading", "Requests")
    tab.shows("2 upstreams")
    tab.the("link", good)
    assert tab.find("link", failed) == []
    tab.click("link", "/maps")
    tab.until("!!document.querySelector('nav.tabs a[href*=\"state=failed\"]')", "the states")
    tab.run("document.querySelector('nav.tabs a[href*=\"state=failed\"]').click()")
    tab.click("link", failed)
    tab.the("heading", failed)
    tab.shows(f"GET {path}")


def test_a_request_and_its_answer_are_shown_as_they_were(tab: Tab, proxq: Proxq, backend: Backend) -> None:
    reply = answering(201, [("content-type", "application/json"), ("x-made", "here")], b'{"total": 2}')
    path = backend.path(reply)
    job_id = answered(proxq, f"/shop{path}?q=tent", b'{"customer": {"id": 42}}')
    opened(tab, proxq, f"proxy/{job_id}")
    tab.the("heading", job_id)
    tab.shows(f"POST {path}?q=tent")
    tab.shows('"id": 42')
    tab.shows('"total": 2')
    tab.shows("x-made")
    tab.shows("201")
    assert job_id in tab.run("document.title")


def test_a_binary_body_is_shown_in_hexadecimal_and_read_a_piece_at_a_time(
    tab: Tab, proxq: Proxq, backend: Backend
) -> None:
    path = backend.path(answering(200, [("content-type", "image/png")], BINARY))
    job_id = answered(proxq, f"/shop{path}")
    opened(tab, proxq, f"proxy/{job_id}")
    tab.shows("binary, first 16,384 of 25,600 bytes")
    tab.shows("00 01 02 03")
    tab.click("button", "Next 64 KB")
    tab.shows("binary, 25,600 bytes")


def test_a_request_is_replayed_and_cancelled(tab: Tab, proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    job_id = answered(proxq, f"/shop{path}", b'{"n": 1}')
    opened(tab, proxq, f"proxy/{job_id}")
    tab.click("button", "Replay")
    tab.shows("Sent again as a new request")
    backend.called(path, 2)
    assert backend.calls(path)[1].body == b'{"n": 1}'
    tab.click("link", "Open")
    tab.until(f"!document.querySelector('h1')?.textContent.includes('{job_id}')", "the new request")
    tab.the("button", "Cancel")
    again = str(tab.run("document.querySelector('h1').textContent"))
    proxq.is_in(again, "completed")
    tab.click("button", "Cancel")
    tab.shows(f"Cancel {again}?")
    tab.click("button", "Confirm")
    tab.the("heading", "Requests")
    eventually(lambda: proxq.status(again).status == 404, what="the request to be forgotten")
    tab.forget("404")


def test_secrets_and_bodies_are_hidden_from_who_may_not_read_payloads(tab: Tab, proxq: Proxq, backend: Backend) -> None:
    headers = [("authorization", "Bearer s3cr3t"), ("content-type", "application/json")]
    job_id = proxq.submit("POST", f"/shop{backend.path()}", headers, b'{"card": "4111"}')
    proxq.is_in(job_id, "completed")
    opened(tab, proxq, f"proxy/{job_id}", "blind")
    tab.shows("hidden, needs payloads:read")
    tab.shows("A body is shown to tokens with the right payloads:read")
    assert "s3cr3t" not in tab.text
    assert "4111" not in tab.text
    for button in ("Replay", "Cancel"):
        assert tab.find("button", button) == []
    tab.forget("403")


def test_a_running_request_is_seen_on_a_phone(chromium: Browser, proxq: Proxq, backend: Backend) -> None:
    gate = backend.endpoint.gate()

    async def behave(_: Call) -> Answer:
        await gate.passed()
        return respond()

    path = backend.path(behave)
    job_id = proxq.submit("GET", f"/shop{path}")
    backend.called(path)
    tab = chromium.tab(width=390, height=844)
    opened(tab, proxq, "proxy?state=running")
    tab.click("link", job_id)
    tab.shows("No answer yet")
    tab.shows("running")
    gate.open()
    tab.shows("Answered after")
    assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
