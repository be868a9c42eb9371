"""``toril listen``: an endpoint that toril cannot reach works on a queue, as a registered worker would."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.journeys.test_handovers import end, later, state
from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, huge, reply_json, reply_text, respond
from tests.support.gateway import TOKEN, Gateway, job
from tests.support.ports import free_port
from tests.support.terminal import Terminal
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey, ValkeyProcess
from tests.support.waiting import eventually
from toril_client import signing

Listen = Callable[..., Terminal]
SECRET = "whsec_" + "a2V5" * 8


@pytest.fixture
def listen(toril: TorilProcess, tmp_path: Path) -> Iterator[Listen]:
    """Starts ``toril listen`` in a terminal, at the shared toril unless told otherwise, and waits until it listens."""
    with ExitStack() as stack:

        def start(*arguments: str, url: str = toril.url, waits: bool = True, **env: str) -> Terminal:
            env = {"TORIL_URL": url, "TORIL_TOKEN": TOKEN, "NO_COLOR": "1"} | env
            terminal = stack.enter_context(Terminal.of_toril("listen", *arguments, cwd=tmp_path, env=env))
            if waits:
                terminal.wait_for("listens to")
            return terminal

        yield start


@pytest.fixture
def worker_file(tmp_path: Path) -> Path:
    """A worker document with everything that counts for `toril listen`."""
    file = tmp_path / "worker.json"
    document = {
        "queue": "other",
        "endpoint": {"url": "http://nowhere.invalid/", "method": "PUT", "headers": {"x-key": "k"}, "timeout": 1500},
        "opts": {"concurrency": 2, "limiter": {"max": 1, "duration": 1000}},
        "policy": {"fail_on": [402], "retry_after": True, "signing": {"secrets": [SECRET]}},
    }
    file.write_text(json.dumps(document))
    return file


def without_times(stacktrace: list[str]) -> list[str]:
    """Stack traces without how long each answer took."""
    return [line.split(" after ")[0] for line in stacktrace]


def seen(call: Call) -> tuple[Any, ...]:
    """A call without what differs between two jobs."""
    assert call.header("content-length") == str(len(call.body))
    varying = ("webhook-", "content-length")
    headers = [(name, value) for name, value in call.headers if not name.startswith(varying)]
    pushed = json.loads(call.body)
    for name in ("id", "timestamp", "processedOn", "token", "queueQualifiedName"):
        pushed["job"].pop(name)
    pushed["job"]["stacktrace"] = without_times(pushed["job"]["stacktrace"])
    assert set(pushed) == {"job", "token"}
    return call.method, call.target, headers, pushed["job"]


ANSWERS: list[Callable[[Call], Answer]] = [
    lambda _: reply_json({"charged": 42}),
    lambda _: reply_text("tea"),
    lambda _: respond(204, "No Content"),
    lambda _: respond(200, "OK", [("content-type", "application/json")], b"{broken"),
    lambda _: respond(402, "Payment Required", body=b"no"),
    lambda _: respond(503, "Service Unavailable", [("retry-after", "60")], b"busy"),
    lambda _: respond(500, "Oh no", [("toril-retry-in", "0")], b"again"),
    lambda _: Answer((), "hang"),
    lambda _: Answer((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",), "close"),
    lambda _: huge(11 * 1024 * 1024),
]


class TestAsARegisteredWorker:
    @pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
    def test_the_endpoint_and_the_job_see_no_difference_from_a_registered_worker(
        self,
        answer: Callable[[Call], Answer],
        gateway: Gateway,
        start_endpoint: StartEndpoint,
        new_queue: Callable[[], str],
        listen: Listen,
        worker_file: Path,
    ) -> None:
        endpoint, registered, listened = start_endpoint(answer), new_queue(), new_queue()
        document = json.loads(worker_file.read_text())
        document["endpoint"]["url"] = f"{endpoint.url}/charge?a=b"
        gateway.register_document(document | {"queue": registered, "opts": {"concurrency": 2}})
        terminal = listen(listened, "--to", f"{endpoint.url}/charge?a=b", "--worker", str(worker_file))
        assert "not used here: opts.limiter" in terminal.printed

        def settled(queue: str) -> dict[str, Any]:
            job_id = gateway.add_one(queue, {"größe": 1.10}, attempts=2, backoff={"type": "fixed", "delay": 60_000})
            eventually(lambda: state(gateway, queue, job_id) not in {"waiting", "active"}, what="an attempt to end")
            found = gateway.job(queue, job_id)
            kept = ("returnvalue", "failedReason", "attemptsMade", "delay", "stacktrace", "attemptsStarted")
            told = {name: found.get(name) for name in kept}
            told["stacktrace"] = without_times(told["stacktrace"])
            return told | {"state": state(gateway, queue, job_id)}

        assert settled(registered) == settled(listened)
        half = len(endpoint.calls) // 2
        assert [seen(call) for call in endpoint.calls[:half]] == [seen(call) for call in endpoint.calls[half:]]
        for call in endpoint.calls:
            signing.verify(call.body, dict(call.headers), SECRET)
        messages = [call.header("webhook-id") or "" for call in endpoint.calls]
        assert messages[-1].startswith(f"bull:{listened}:1@")

    def test_the_endpoint_reports_with_the_lock_token(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str, listen: Listen
    ) -> None:
        def work(call: Call) -> Answer:
            url = f"{gateway.url}/queues/{queue}/jobs/{call.job['id']}/progress"
            reported = httpx.post(url, json=50, headers={"authorization": f"Bearer {call.token}"})
            return reply_json(reported.status_code)

        listen(queue, "--to", start_endpoint(work).url)
        done = gateway.finished(queue, gateway.add_one(queue))
        assert (done["returnvalue"], done["progress"]) == (200, 50)

    def test_a_job_can_be_settled_later_also_when_the_listener_is_gone(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str, listen: Listen
    ) -> None:
        endpoint = start_endpoint(lambda _: later(60_000))
        terminal = listen(queue, "--to", endpoint.url)
        job_id = gateway.add_one(queue)
        terminal.wait_for("is settled later, within 1m")
        terminal.press_ctrl_c()
        assert terminal.ended() == 0
        assert state(gateway, queue, job_id) == "active"
        assert end(gateway, queue, endpoint.calls[0], "complete", returnvalue="by then")[0] == 204
        assert gateway.finished(queue, job_id)["returnvalue"] == "by then"

    def test_a_call_ends_when_the_lease_is_lost(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str, listen: Listen, store: redis.Redis
    ) -> None:
        endpoint = start_endpoint(lambda _: Answer((), "hang"))
        terminal = listen(queue, "--to", endpoint.url, "--timeout", "1m")
        job_id = gateway.add_one(queue)
        endpoint.wait_for_calls(1)
        store.set(f"bull:{queue}:{job_id}:lock", "somebody else", px=60_000)
        eventually(lambda: "was called off (lease_lost)" in terminal.printed, timeout_s=40, what="a call that ends")


class TestInTheTerminal:
    def test_each_job_is_a_line(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str, listen: Listen, store: redis.Redis
    ) -> None:
        codes = iter([200, 503, 402])
        endpoint = start_endpoint(lambda _: respond(next(codes), "As it is"))
        gateway.add_one(queue, name="charge", attempts=2, backoff=60_000)
        store.hset(f"bull:{queue}:1", "name", "char\x1b[2Jge")  # as another BullMQ program may have it
        terminal = listen(queue, "--to", endpoint.url, NO_COLOR="")
        terminal.wait_for("#1  attempt 1  → 200 in ")
        gateway.add_one(queue, name="charge", attempts=2, backoff=60_000)
        terminal.wait_for("#2  attempt 1  → 503 in ")
        gateway.add_one(queue, name="charge")
        terminal.wait_for("#3  attempt 1  → 402 in ")
        terminal.press_ctrl_c()
        assert terminal.ended() == 0
        _, first, second, third, *_ = terminal.printed.splitlines()
        assert first.startswith(r"char\x1b[2Jge #1 ")
        assert first.endswith("\x1b[32mcompleted\x1b[0m")
        assert second.endswith("\x1b[33mis tried again in 1m: As it is\x1b[0m")
        assert third.endswith("\x1b[31mfailed: As it is\x1b[0m")

    def test_no_more_jobs_than_told_are_worked_on_at_once(
        self,
        gateway: Gateway,
        start_endpoint: StartEndpoint,
        queue: str,
        listen: Listen,
        canary: Callable[[], None],
    ) -> None:
        endpoint = start_endpoint(lambda _: Answer((), "hang"))
        listen(queue, "--to", endpoint.url, "--concurrency", "3", "--timeout", "1m")
        gateway.add(queue, *[job(number) for number in range(5)])
        endpoint.wait_for_calls(3)
        canary()
        assert len(endpoint.calls) == 3
        assert gateway.counts(queue)["active"] == 3

    def test_a_filter_leaves_other_jobs_to_others(
        self, gateway: Gateway, endpoint: Endpoint, start_endpoint: StartEndpoint, queue: str, listen: Listen
    ) -> None:
        terminal = listen(queue, "--to", endpoint.url, "--filter", "name=charge")
        mail = gateway.add_one(queue, name="mail", attempts=1)
        eventually(lambda: state(gateway, queue, mail) == "delayed", what="the other job to be put off")
        charge = gateway.add_one(queue, name="charge")
        gateway.finished(queue, charge)
        assert [call.job["name"] for call in endpoint.calls] == ["charge"]
        terminal.press_ctrl_c()
        assert terminal.ended() == 0
        assert "put off" in terminal.printed
        gateway.register(queue, start_endpoint().url)
        assert gateway.finished(queue, mail, timeout_s=40)["attemptsMade"] == 1, "being put off is no attempt"

    def test_ctrl_c_gives_back_the_jobs_in_flight(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str, listen: Listen
    ) -> None:
        endpoint = start_endpoint(lambda _: Answer((), "hang"))
        terminal = listen(queue, "--to", endpoint.url, "--concurrency", "2", "--timeout", "1m")
        ids = [gateway.add_one(queue, number) for number in range(2)]
        endpoint.wait_for_calls(2)
        terminal.press_ctrl_c()
        assert terminal.ended() == 0
        assert "gave back 2 in flight" in terminal.printed
        assert "Traceback" not in terminal.printed
        gateway.wait_for_counts(queue, waiting=2, active=0)
        for job_id in ids:
            found = gateway.job(queue, job_id)
            assert (found["attemptsMade"], found["stalledCounter"]) == (0, 0)


class TestConnections:
    def test_the_listener_reconnects_and_the_job_is_done_again(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, listen: Listen
    ) -> None:
        valkey: ValkeyProcess = start_valkey()
        toril = start_toril(valkey, port=(port := free_port()))
        endpoint = start_endpoint(lambda call: Answer((), "hang") if call.number == 0 else reply_json("second"))
        terminal = listen("orders", "--to", endpoint.url, "--timeout", "1m", url=toril.url)
        job_id = toril.gateway.add_one("orders")
        endpoint.wait_for_calls(1)
        toril.kill()
        terminal.wait_for("1 in flight go back to the queue")
        terminal.wait_for("cannot be reached")
        again = start_toril(valkey, port=port)
        terminal.wait_for("listens to", 2)
        assert again.gateway.finished("orders", job_id, timeout_s=60)["returnvalue"] == "second"

    def test_the_listener_finishes_its_jobs_when_the_gateway_goes(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint, listen: Listen
    ) -> None:
        valkey: ValkeyProcess = start_valkey()
        toril = start_toril(valkey)
        endpoint = start_endpoint(lambda _: reply_json("in time").after(1))
        terminal = listen("orders", "--to", endpoint.url, url=toril.url)
        job_id = toril.gateway.add_one("orders")
        endpoint.wait_for_calls(1)
        assert toril.terminate().code == 0
        terminal.wait_for("completed")
        terminal.wait_for("the connection has ended (1012)")
        assert valkey.client().hget(f"bull:orders:{job_id}", "returnvalue") == '"in time"'

    def test_the_listener_waits_for_an_absent_gateway_until_ctrl_c(self, listen: Listen) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        terminal = listen("orders", "--to", "http://127.0.0.1:1", url=url, waits=False)
        terminal.wait_for(f"{url} cannot be reached", 2)
        terminal.press_ctrl_c()
        assert terminal.ended() == 0

    @pytest.mark.parametrize(
        ("arguments", "env", "said"),
        [
            (("orders", "--to", "http://127.0.0.1:1"), {"TORIL_TOKEN": "wrong"}, "refuses: 401"),
            (("ab", "--to", "http://127.0.0.1:1"), {}, "at least 3 characters"),
            (("orders", "--to", "127.0.0.1:3000"), {}, "Invalid URL"),
            (("orders", "--to", "http://127.0.0.1:1", "--concurrency", "0"), {}, "Invalid concurrency 0"),
            (("orders", "--to", "http://127.0.0.1:1", "--timeout", "soon"), {}, "'soon' is not a duration"),
            (("orders", "--to", "http://127.0.0.1:1", "--worker", "nowhere.json"), {}, "nowhere.json"),
            (("orders", "--to", "http://127.0.0.1:1"), {"TORIL_URL": "ftp://x"}, "is not the URL of a toril"),
            (("orders", "--to", "http://127.0.0.1:1"), {"TORIL_TOKEN": ""}, "there is no token"),
        ],
    )
    def test_invalid_arguments_end_the_listener_with_the_reason(
        self, listen: Listen, arguments: tuple[str, ...], env: dict[str, str], said: str
    ) -> None:
        terminal = listen(*arguments, waits=False, **env)
        assert terminal.ended() == 1
        assert said in terminal.printed.replace("\r\n", " ")
        assert "Traceback" not in terminal.printed

    def test_a_removed_token_ends_the_listener(
        self, start_valkey: StartValkey, start_toril: StartToril, tmp_path: Path, listen: Listen
    ) -> None:
        file = tmp_path / "toril.yaml"
        file.write_text("auth_tokens: [first, second]\n")
        toril = start_toril(start_valkey(), args=("--config", str(file)), env={"AUTH_TOKENS": None})
        terminal = listen("orders", "--to", "http://127.0.0.1:1", url=toril.url, TORIL_TOKEN="first")
        file.write_text("auth_tokens: [second]\n")
        assert terminal.ended() == 1
        assert "the token is no longer valid" in terminal.printed

    def test_in_the_folder_of_a_dev_the_listener_needs_no_address(
        self, tmp_path: Path, start_endpoint: StartEndpoint
    ) -> None:
        endpoint = start_endpoint(lambda _: reply_json("local"))
        command = ("dev", "--data", str(tmp_path / "toril-data"))
        env: dict[str, str | None] = {"REDIS_URL": None, "AUTH_TOKENS": None}
        with TorilProcess("", tmp_path / "dev.log", env=env, command=command) as process:
            gateway = Gateway(process.url, (tmp_path / "toril-data" / "token").read_text())
            with Terminal.of_toril("listen", "orders", "--to", endpoint.url, cwd=tmp_path) as terminal:
                terminal.wait_for(f"listens to orders at {process.url}")
                assert gateway.finished("orders", gateway.add_one("orders"))["returnvalue"] == "local"
            gateway.close()
