"""Every URL that toril gives leads back to toril: below `apiPath`, and behind a proxy that cuts a prefix off."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import TOKEN
from tests.support.proxied import Proxied
from tests.support.proxq import Backend
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

AUTHORIZATION = {"authorization": f"Bearer {TOKEN}"}
ENVELOPE = {"target": "billing", "delay_ms": 3_600_000}
NO_PREFIXES = [
    "//evil.example",
    "https://evil.example",
    "https://evil.example/gw",
    "evil.example",
    "",
    "/",
    "/gw//evil.example",
    "/\\evil.example",
    "/..//evil.example",
    "/gw/%2e%2e/x",
    "/gw/..;x",
    "/gw?next=x",
    "/gw#x",
    "/gw, /other",
    "/g w",
    "/\x01gw",
    "/\xe9",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given-urls")


@pytest.fixture(scope="module")
def valkey(folder: Path) -> Iterator[ValkeyProcess]:
    """A Valkey of these tests' own: on another one's, the target may have another ledger."""
    with ValkeyProcess(folder / "valkey") as server:
        yield server


@pytest.fixture(scope="module")
def toril(folder: Path, valkey: ValkeyProcess, backend: Backend) -> Iterator[TorilProcess]:
    config = Proxied(
        folder,
        [{"prefix": "/", "url": backend.url}],
        apiPath="/own/api",
        targets={"billing": {"url": "http://127.0.0.1:9/"}},
        ledger={"url": f"sqlite:///{folder / 'ledger.sqlite3'}"},
    )
    server = TorilProcess(valkey.url, folder / "toril.log", **config.arguments)
    try:
        yield server.start("/own/api/ready")
    finally:
        server.close()
    assert server.complaints() == []


def enqueued(toril: TorilProcess, **headers: str) -> str:
    """Where an accepted envelope's job is said to be."""
    answer = httpx.post(f"{toril.url}/own/api/enqueue", json=ENVELOPE, headers=AUTHORIZATION | headers, trust_env=False)
    assert answer.status_code == 202, answer.text
    location = answer.headers["location"]
    assert isinstance(location, str)
    return location.replace(answer.json()["job_id"], "ID")


def submitted(toril: TorilProcess, **headers: str) -> str:
    """Where a submission's job is said to be."""
    answer = httpx.post(f"{toril.url}/x", content=b"x", headers=headers, trust_env=False)
    assert answer.status_code == 202, answer.text
    location = answer.headers["location"]
    assert isinstance(location, str)
    return location.replace(answer.json()["jobId"], "ID")


def test_the_location_of_an_envelope_leads_to_its_job_and_no_token_to_the_upstream(
    toril: TorilProcess, backend: Backend
) -> None:
    before = len(backend.endpoint.calls)  # of other tests, which may send a token on purpose
    accepted = httpx.post(f"{toril.url}/own/api/enqueue", json=ENVELOPE, headers=AUTHORIZATION, trust_env=False)
    location = accepted.headers["location"]
    assert location == f"/own/api/jobs/{accepted.json()['job_id']}"
    found = httpx.get(f"{toril.url}{location}", headers=AUTHORIZATION, trust_env=False)
    assert (found.status_code, found.json()["job_id"]) == (200, accepted.json()["job_id"])
    assert not [call for call in backend.endpoint.calls[before:] if TOKEN in str(call.headers)]


@pytest.mark.parametrize(("given", "cut"), [("/gw", "/gw"), ("/gw/", "/gw"), ("/a/b-c/d%20e", "/a/b-c/d%20e")])
def test_behind_a_proxy_that_cuts_a_prefix_off_every_url_has_it(
    toril: TorilProcess, backend: Backend, given: str, cut: str
) -> None:
    assert enqueued(toril, **{"x-forwarded-prefix": given}) == f"{cut}/own/api/jobs/ID"
    assert submitted(toril, **{"x-forwarded-prefix": given}) == f"{cut}/__jobs/ID"
    answer = httpx.get(f"{toril.url}/own/api/openapi.json", headers={"x-forwarded-prefix": given}, trust_env=False)
    document: dict[str, Any] = answer.json()
    assert document["servers"] == [{"url": cut}]
    assert answer.headers["vary"].lower() == "x-forwarded-prefix"
    assert f"{document['servers'][0]['url']}/own/api/enqueue" == f"{cut}/own/api/enqueue"
    assert "/own/api/enqueue" in document["paths"]


@pytest.mark.parametrize("given", NO_PREFIXES)
def test_an_invalid_prefix_is_ignored(toril: TorilProcess, backend: Backend, given: str) -> None:
    raw = given.encode("latin-1")
    with httpx.Client(trust_env=False) as http:
        headers = [(b"authorization", AUTHORIZATION["authorization"].encode()), (b"x-forwarded-prefix", raw)]
        answer = http.post(f"{toril.url}/own/api/enqueue", json=ENVELOPE, headers=headers)
        if answer.status_code == 400:  # no header of HTTP at all
            return
        assert answer.headers["location"] == f"/own/api/jobs/{answer.json()['job_id']}"
        document = http.get(f"{toril.url}/own/api/openapi.json", headers=headers[1:]).json()
        assert "servers" not in document


def test_two_prefix_headers_are_ignored(toril: TorilProcess) -> None:
    headers = [("authorization", AUTHORIZATION["authorization"])] + [("x-forwarded-prefix", "/a")] * 2
    answer = httpx.post(f"{toril.url}/own/api/enqueue", json=ENVELOPE, headers=headers, trust_env=False)
    assert answer.headers["location"] == f"/own/api/jobs/{answer.json()['job_id']}"
