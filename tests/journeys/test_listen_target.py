"""``toril listen --target``: an endpoint that toril cannot reach gets the deliveries of a target."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.deliveries import Door
from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, reply_json, respond
from tests.support.gateway import TOKEN
from tests.support.ports import free_port
from tests.support.sockets import socket_to
from tests.support.terminal import Terminal
from tests.support.tokens import token
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey, ValkeyProcess
from tests.support.waiting import eventually
from toril_client import signing

Listen = Callable[..., Terminal]
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
BEARER = "hunter2-the-bearer"
VARYING = ("webhook-", "toril-job-id", "idempotency-key", "host")


@pytest.fixture
def own_endpoint(start_endpoint: StartEndpoint) -> Endpoint:
    """Where the target's own URL leads."""
    return start_endpoint()


@pytest.fixture
def valkey_of_shop(start_valkey: StartValkey) -> ValkeyProcess:
    return start_valkey()


@pytest.fixture
def file(tmp_path: Path, own_endpoint: Endpoint) -> Path:
    """A configuration with a target that authenticates, signs and retries."""
    (tmp_path / "bearer").write_text(BEARER)
    (tmp_path / "signing").write_text(SECRET)
    target = {
        "url": own_endpoint.at("/api?of=url"),
        "auth": {"scheme": "bearer", "secret_file": str(tmp_path / "bearer")},
        "signing": {"secret_file": str(tmp_path / "signing")},
        "timeout": {"total": "2s"},
        "retry": {"max_attempts": 2, "base": "1h", "max": "2h", "fail_on": [400]},
        "breaker": "off",
    }
    tokens = [token("manager", ["deliveries:manage"]), token("reader", ["deliveries:read", "payloads:read"])]
    file = tmp_path / "toril.yaml"
    payloads = {"url": f"file://{tmp_path}/bodies", "threshold": 100_000}
    file.write_text(
        json.dumps({"targets": {"crm": target}, "ledger": {"url": "none"}, "tokens": tokens, "payloads": payloads})
    )
    (tmp_path / "bodies").mkdir()
    return file


@pytest.fixture
def shop(valkey_of_shop: ValkeyProcess, start_toril: StartToril, file: Path) -> TorilProcess:
    """A gateway that makes no deliveries itself."""
    return start_toril(valkey_of_shop, args=("--config", str(file), "--role", "gateway"))


@pytest.fixture
def deliver(valkey_of_shop: ValkeyProcess, start_toril: StartToril, file: Path) -> Callable[[], object]:
    """Starts another toril, which makes deliveries."""
    return lambda: start_toril(valkey_of_shop, args=("--config", str(file)))


@pytest.fixture
def listen(shop: TorilProcess, tmp_path: Path) -> Iterator[Listen]:
    """Starts ``toril listen --target crm`` in a terminal, and waits until it listens."""
    with ExitStack() as stack:

        def start(*arguments: str, waits: bool = True, target: str = "crm", **env: str) -> Terminal:
            env = {"TORIL_URL": shop.url, "TORIL_TOKEN": TOKEN, "NO_COLOR": "1"} | env
            command = ("listen", "--target", target, *arguments)
            terminal = stack.enter_context(Terminal.of_toril(*command, cwd=tmp_path, env=env))
            if waits:
                terminal.wait_for("listens to crm")
            return terminal

        yield start


def ended(door: Door, job_id: str, *statuses: str) -> dict[str, Any]:
    """A delivery once it has one of these states."""
    eventually(lambda: door.job(job_id)["status"] in statuses, what=f"{job_id} to be {statuses}")
    return door.job(job_id)


def seen(call: Call) -> tuple[Any, ...]:
    """A call without what differs between two deliveries."""
    headers = [(name, value) for name, value in call.headers if not name.lower().startswith(VARYING)]
    return call.method, call.target, headers, call.body


def test_the_endpoint_gets_what_the_target_would_get_but_its_credentials(
    shop: TorilProcess,
    listen: Listen,
    start_endpoint: StartEndpoint,
    own_endpoint: Endpoint,
    deliver: Callable[[], object],
) -> None:
    local = start_endpoint(lambda _: reply_json({"taken": True}))
    door = Door(shop.gateway)
    envelope = {"method": "PUT", "path": "/orders/1?b=c", "headers": {"x-key": "größe"}, "body": {"amount": 1.10}}
    terminal = listen("--to", local.at("/api?of=url"))
    done = ended(door, door.enqueue("crm", **envelope), "delivered")
    assert [attempt["status_code"] for attempt in done["attempts"]] == [200]
    terminal.wait_for("PUT /orders/1?b=c")
    assert "attempt 1  → HTTP 200 OK in " in terminal.printed
    answer = shop.client.get(f"/jobs/{done['job_id']}/response")
    assert (answer.status_code, answer.json()) == (200, {"taken": True})
    terminal.press_ctrl_c()
    assert terminal.ended() == 0
    deliver()
    ended(door, door.enqueue("crm", **envelope), "delivered")
    (listened,), (called,) = local.calls, own_endpoint.calls
    assert called.header("authorization") == f"Bearer {BEARER}"
    of_target = [header for header in called.headers if header[0].lower() != "authorization"]
    assert seen(listened) == (*seen(called)[:2], [one for one in seen(called)[2] if one in of_target], called.body)
    for call in (listened, called):
        signing.verify(call.body, dict(call.headers), SECRET)
    assert listened.header("toril-job-id") == done["job_id"]
    assert listened.header("host") == local.at("/").removeprefix("http://").rstrip("/")
    assert BEARER not in str(listened.headers)


@pytest.mark.parametrize(
    ("answer", "status", "outcome"),
    [
        (lambda _: respond(503, "Busy"), "retrying", "answered"),
        (lambda _: respond(400, "No"), "dead_lettered", "answered"),
        (lambda _: Answer((), "hang"), "retrying", "timeout"),
        (
            lambda _: Answer((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",), "close"),
            "retrying",
            "cut_off",
        ),
    ],
    ids=["busy", "refused", "hanging", "cut"],
)
def test_the_targets_policy_decides_by_the_answer(
    shop: TorilProcess,
    listen: Listen,
    start_endpoint: StartEndpoint,
    answer: Callable[[Call], Answer],
    status: str,
    outcome: str,
) -> None:
    listen("--to", start_endpoint(answer).url)
    door = Door(shop.gateway)
    found = ended(door, door.enqueue("crm", body=1), status)
    (attempt,) = found["attempts"]
    assert (attempt["outcome"], found["attempts_made"]) == (outcome, 1)


def test_an_endpoint_that_is_away_is_an_attempt_too(shop: TorilProcess, listen: Listen) -> None:
    listen("--to", f"http://127.0.0.1:{free_port()}")
    door = Door(shop.gateway)
    (attempt,) = ended(door, door.enqueue("crm", body=1), "retrying")["attempts"]
    assert attempt["outcome"] == "connect_error"
    assert "ECONNREFUSED" in attempt["error"]


def test_a_large_body_that_is_stored_elsewhere_arrives_whole(
    shop: TorilProcess, listen: Listen, start_endpoint: StartEndpoint
) -> None:
    local = start_endpoint()
    listen("--to", local.url)
    text = "grün" * 600_000
    door = Door(shop.gateway)
    ended(door, door.enqueue("crm", body=text), "delivered")
    assert json.loads(local.calls[0].body) == text
    signing.verify(local.calls[0].body, dict(local.calls[0].headers), SECRET)


def test_ctrl_c_gives_back_the_delivery_in_flight_without_an_attempt(
    shop: TorilProcess, listen: Listen, start_endpoint: StartEndpoint
) -> None:
    hanging = start_endpoint(lambda _: Answer((), "hang"))
    terminal = listen("--to", hanging.url)
    door = Door(shop.gateway)
    job_id = door.enqueue("crm", body=1)
    hanging.wait_for_calls(1)
    terminal.press_ctrl_c()
    assert terminal.ended() == 0
    assert "gave back 1 in flight" in terminal.printed
    given_back = ended(door, job_id, "queued", "retrying")
    assert given_back["attempts_made"] == 0
    listen("--to", start_endpoint().url)
    assert ended(door, job_id, "delivered")["attempts_made"] == 1


@pytest.mark.parametrize(
    ("arguments", "env", "status", "said"),
    [
        (("--to", "http://127.0.0.1:1"), {"TORIL_TOKEN": "manager-secret"}, 1, "refuses: 403"),
        (("--to", "http://127.0.0.1:1"), {"TORIL_TOKEN": "reader-secret"}, 1, "refuses: 403"),
        (("--to", "http://127.0.0.1:1"), {"TORIL_TOKEN": "wrong"}, 1, "refuses: 401"),
        (("--to", "127.0.0.1:3000"), {}, 1, "is not a URL that can be called"),
        (("--to", "http://127.0.0.1:1", "--concurrency", "0"), {}, 1, "Invalid concurrency 0"),
        (("--to", "http://127.0.0.1:1", "--timeout", "soon"), {}, 1, "'soon' is not a duration"),
        (("--to", "http://127.0.0.1:1", "--filter", "name=a"), {}, 2, "--filter and --worker are for a queue"),
        (("orders", "--to", "http://127.0.0.1:1"), {}, 2, "give either a QUEUE or --target NAME"),
    ],
)
def test_invalid_arguments_end_the_listener_with_the_reason(
    listen: Listen, arguments: tuple[str, ...], env: dict[str, str], status: int, said: str
) -> None:
    terminal = listen(*arguments, waits=False, **env)
    assert terminal.ended() == status
    assert said in terminal.printed.replace("\r\n", " ")
    assert "Traceback" not in terminal.printed


def test_a_target_that_is_not_there_is_not_listened_to(listen: Listen, shop: TorilProcess) -> None:
    terminal = listen("--to", "http://127.0.0.1:1", waits=False, target="crn")
    assert terminal.ended() == 1
    assert "No target has this name" in terminal.printed
    with (
        pytest.raises(InvalidStatus) as refused,
        socket_to(shop.url, "/ws/targets/crm/listen/1", token="manager-secret"),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_message_that_no_answer_could_be_closes_the_socket_and_spends_no_attempt(
    shop: TorilProcess, listen: Listen, start_endpoint: StartEndpoint
) -> None:
    door = Door(shop.gateway)
    job_id = door.enqueue("crm", body=1)
    for answer in ({"status": 200, "headers": [["x", "a\r\nset-cookie: b"]]}, {"status": 42}):
        with socket_to(shop.url, "/ws/targets/crm/listen/1") as socket:
            asked = socket.receive()
            assert asked["data"]["payload"]["job_id"] == job_id
            socket.send({"id": asked["id"], "data": answer})
            assert socket.closed() == 1003
    listen("--to", start_endpoint().url)
    assert ended(door, job_id, "delivered")["attempts_made"] == 1


def test_a_reply_to_what_was_never_asked_is_ignored(shop: TorilProcess) -> None:
    door = Door(shop.gateway)
    with socket_to(shop.url, "/ws/targets/crm/listen/1") as socket:
        socket.send({"id": 99, "data": {"status": 200}})
        job_id = door.enqueue("crm", body=1)
        asked = socket.receive()
        socket.send({"id": asked["id"], "data": {"status": 204}})
        socket.send({"id": asked["id"], "data": {"status": 500}})
        assert ended(door, job_id, "delivered")["attempts"][0]["status_code"] == 204
