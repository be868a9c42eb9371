"""Tokens with their own rights over their life: expiry, rotation, reloading, revocation, limits, the audit log."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.tokens import ask, bearer, token, write
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

READER = token("reader", ["*:read"])
SHOP = token("shop", ["jobs:add", "jobs:read", "queues:manage"], ["orders*"])
ALL = token("all", ["*"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toril.yaml"


@pytest.fixture
def start(file: Path, valkey: ValkeyProcess, start_toril: StartToril) -> Callable[..., TorilProcess]:
    """Starts a toril that knows these tokens."""

    def starting(*tokens: dict[str, Any], args: tuple[str, ...] = (), **options: Any) -> TorilProcess:
        write(file, *tokens)
        return start_toril(valkey, args=["--config", str(file), *args], **options)

    return starting


def status(toril: TorilProcess, secret: str, path: str = "/workers") -> int:
    return ask(toril.url, secret, "GET", path).status_code


def lines(toril: TorilProcess, event: str) -> list[dict[str, Any]]:
    """The log lines of one event."""
    found = [json.loads(line) for line in toril.log().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


@contextmanager
def listening(toril: TorilProcess, secret: str, path: str) -> Iterator[threading.Event]:
    """Listen to a stream for the length of a block; the event is set when the stream ends in good order."""
    ended = threading.Event()
    with (
        httpx.Client(base_url=toril.url, headers=bearer(secret), trust_env=False, timeout=30) as client,
        client.stream("GET", path) as response,
    ):
        assert response.status_code == 200

        def read() -> None:
            for _ in response.iter_raw():
                pass
            ended.set()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield ended
        if not ended.is_set():
            toril.kill()
        thread.join(10)


class TestReloading:
    """The file is read again when it changes or at SIGHUP; a broken one changes nothing."""

    def test_a_token_takes_anothers_place_with_both_valid_meanwhile(
        self, start: Callable[..., TorilProcess], file: Path
    ) -> None:
        old, new = token("shop", ["*"], secret="old"), token("shop", ["*"], secret="new")
        toril = start(old)
        assert (status(toril, "old"), status(toril, "new")) == (200, 401)
        write(file, old, new)
        eventually(lambda: status(toril, "new") == 200, what="the new token to count")
        assert status(toril, "old") == 200
        write(file, new)
        eventually(lambda: status(toril, "old") == 401, what="the old token to count no more")
        assert (status(toril, "new"), status(toril, TOKEN)) == (200, 200)
        assert [line["applied"] for line in lines(toril, "config.reloaded")] == [["tokens"]] * 2

    def test_rights_change_with_the_file(self, start: Callable[..., TorilProcess], file: Path) -> None:
        toril = start(READER)
        assert status(toril, "reader-secret") == 200
        write(file, token("reader", ["jobs:add"]))
        eventually(lambda: status(toril, "reader-secret") == 403, what="the right to be gone")

    def test_a_broken_file_changes_nothing_and_is_logged_once(
        self, start: Callable[..., TorilProcess], file: Path
    ) -> None:
        toril = start(READER)
        write(file, ALL, {"name": "broken", "sha256": "a-secret", "allow": ["*"], "queues": ["*"]})
        (line,) = eventually(lambda: lines(toril, "config.kept"))
        assert line["level"] == "error"
        assert "number 2 (broken): sha256" in line["faults"][0]
        toril.send(signal.SIGHUP)
        eventually(lambda: len(lines(toril, "config.kept")) == 2)
        assert (status(toril, "reader-secret"), status(toril, "all-secret")) == (200, 401)
        assert "a-secret" not in toril.log()
        write(file, ALL)
        eventually(lambda: status(toril, "all-secret") == 200)
        assert status(toril, "reader-secret") == 401

    def test_sighup_rereads_the_token_file_in_all_processes(
        self, start: Callable[..., TorilProcess], file: Path
    ) -> None:
        toril = start(READER, args=("--processes", "2"))
        eventually(lambda: len(lines(toril, "listening")) == 2, timeout_s=30)
        pids = {line["pid"] for line in lines(toril, "listening")}
        toril.send(signal.SIGHUP)
        eventually(lambda: len(lines(toril, "config.reloaded")) == 2)
        assert toril.running
        assert pids == set(toril.children())

    def test_a_change_is_seen_by_all_processes(self, start: Callable[..., TorilProcess], file: Path) -> None:
        toril = start(READER, args=("--processes", "2"))
        eventually(lambda: len(lines(toril, "listening")) == 2, timeout_s=30)
        write(file, ALL)
        eventually(lambda: len(lines(toril, "config.reloaded")) == 2)
        assert {status(toril, "all-secret") for _ in range(20)} == {200}
        assert {status(toril, "reader-secret") for _ in range(20)} == {401}

    def test_sighup_while_children_start_ends_none_of_them(self, start: Callable[..., TorilProcess]) -> None:
        toril = start(READER, args=("--processes", "2"))
        eventually(lambda: len(lines(toril, "listening")) == 2, timeout_s=30)
        for pid in toril.children():
            os.kill(pid, signal.SIGKILL)

        def up_again() -> bool:
            toril.send(signal.SIGHUP)
            return len(lines(toril, "listening")) == 4

        eventually(up_again, timeout_s=30, what="two new children")
        assert len(lines(toril, "process.ended")) == 2

    def test_sighup_without_a_file_does_not_end_the_server(
        self, valkey: ValkeyProcess, start_toril: StartToril
    ) -> None:
        toril = start_toril(valkey)
        toril.send(signal.SIGHUP)
        eventually(lambda: lines(toril, "config.reloaded"))
        assert toril.client.get("/workers").status_code == 200

    def test_auth_tokens_of_the_file_are_reread_too(
        self, file: Path, valkey: ValkeyProcess, start_toril: StartToril
    ) -> None:
        file.write_text("auth_tokens: [leaked, kept]\n")
        toril = start_toril(valkey, env={"AUTH_TOKENS": None}, args=["--config", str(file)])
        with socket_to(toril.url, "/ws/queues/orders", "leaked") as socket:
            assert socket.command("getJobCounts")
            file.write_text("auth_tokens: [kept]\n")
            assert socket.closed() == 4001
        assert (status(toril, "leaked"), status(toril, "kept")) == (401, 200)


class TestTheEndOfAToken:
    """What goes on with a token that is gone, has expired or has lost the right ends within seconds."""

    @pytest.mark.parametrize("how", ["gone", "expired", "no right any more", "no queue any more"])
    def test_open_streams_and_sockets_end_with_their_token(
        self, start: Callable[..., TorilProcess], file: Path, how: str
    ) -> None:
        soon = (datetime.now(UTC) + timedelta(seconds=6)).isoformat()
        expires = {"expires": soon} if how == "expired" else {}
        toril = start(token("leaked", ["*"], **expires), ALL)
        url, secret = toril.url, "leaked-secret"
        with ExitStack() as open_now:
            streams = [
                open_now.enter_context(listening(toril, secret, path))
                for path in ("/queues/orders/events", "/events?queues=orders,invoices")
            ]
            sockets = [
                open_now.enter_context(socket_to(url, f"/ws/queues/orders{path}", secret))
                for path in ("", "/events", "/process/1")
            ]
            others = [
                open_now.enter_context(socket_to(url, f"/ws/queues/orders{path}", "all-secret"))
                for path in ("", "/events", "/process/1")
            ]
            match how:
                case "gone":
                    write(file, ALL)
                case "no right any more":
                    write(file, token("leaked", ["workers:read"], ["invoices"]), ALL)
                case "no queue any more":
                    write(file, token("leaked", ["*"], ["invoices"]), ALL)
            assert [socket.closed(15) for socket in sockets] == [4001] * 3
            assert all(ended.wait(10) for ended in streams)
            assert all(socket.is_quiet(0.1) for socket in others[1:])
            assert others[0].command("getJobCounts")["ok"]
        if how in {"gone", "expired"}:
            assert status(toril, secret) == 401
            with pytest.raises(InvalidStatus) as caught, socket_to(url, "/ws/queues/orders", secret):
                pass
            assert caught.value.response.status_code == 401

    def test_the_jobs_of_a_worker_whose_token_was_removed_are_released(
        self, start: Callable[..., TorilProcess], file: Path, queue: str
    ) -> None:
        toril = start(token("leaked", ["jobs:lease"]), ALL)
        toril.gateway.add_one(queue, attempts=1)
        with socket_to(toril.url, f"/ws/queues/{queue}/process/1", "leaked-secret") as socket:
            socket.jobs(1)
            write(file, ALL)
            assert socket.closed() == 4001
            toril.gateway.wait_for_counts(queue, waiting=1, active=0, failed=0)

    def test_an_open_socket_has_the_rights_of_the_current_file(
        self, start: Callable[..., TorilProcess], file: Path
    ) -> None:
        toril = start(SHOP)
        with socket_to(toril.url, "/ws/queues/orders", "shop-secret") as socket:
            assert socket.command("getWorkers")["code"] == "forbidden"
            assert socket.command("pause") == {}
            write(file, token("shop", ["queues:read"], ["orders*"]))
            eventually(lambda: lines(toril, "config.reloaded"))
            assert socket.command("getWorkers") == {"ok": []}
            assert socket.command("resume")["code"] == "forbidden"
        toril.client.delete("/workers/orders")
        with socket_to(toril.url, "/ws/queues/orders") as socket:
            assert socket.command("resume") == {}


class TestFamilies:
    """A token for some queues, and a flow that reaches into others."""

    def test_children_elsewhere_are_neither_shown_nor_removed(
        self, start: Callable[..., TorilProcess], file: Path, queue: str
    ) -> None:
        hidden, seen = f"{queue}-hidden", f"{queue}-seen"
        toril = start(token("own", ["jobs:*"], [queue, seen]))
        tree = {
            "name": "root",
            "queueName": queue,
            "children": [
                {"name": "a", "queueName": seen, "children": [{"name": "c", "queueName": hidden}]},
                {"name": "b", "queueName": hidden},
            ],
        }
        flow = toril.client.post("/flows", json=tree).json()
        path = f"/queues/{queue}/jobs/{flow['job']['id']}"

        def waits_for(secret: str) -> list[str]:
            shown = ask(toril.url, secret, "GET", f"{path}?expand=dependencies").json()["dependencies"]
            return sorted(key.split(":")[1] for key in shown["unprocessed"])

        assert waits_for("own-secret") == [seen]
        assert waits_for(TOKEN) == sorted([seen, hidden])
        middle = f"/queues/{seen}/jobs/{flow['children'][0]['job']['id']}"
        for method, refused in (("DELETE", path), ("DELETE", f"{path}/children"), ("DELETE", middle)):
            assert ask(toril.url, "own-secret", method, refused).status_code == 403, refused
        assert waits_for(TOKEN) == sorted([seen, hidden])
        assert ask(toril.url, "own-secret", "DELETE", f"{middle}?children=keep").status_code == 204
        assert ask(toril.url, TOKEN, "DELETE", path).status_code == 204
        assert toril.client.get(path).status_code == 404


class TestRateLimits:
    """`rate_limit`, counted over all processes and instances together."""

    def test_all_processes_and_instances_count_together(
        self, start: Callable[..., TorilProcess], file: Path, valkey: ValkeyProcess, start_toril: StartToril
    ) -> None:
        limited = token("limited-fleet", ["*"], rate_limit={"max": 20, "per": "1h"})
        one = start(limited, args=("--processes", "2"))
        two = start_toril(valkey, args=["--config", str(file)])
        answers = [ask(toril.url, "limited-fleet-secret", "GET", "/workers") for _ in range(15) for toril in (one, two)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [429] * 10
        refused = answers[-1]
        assert 170 <= int(refused.headers["retry-after"]) <= 180
        assert refused.headers["toril-code"] == "rate_limited"
        assert status(one, TOKEN) == 200

    def test_a_caller_that_waits_for_retry_after_is_let_in(self, start: Callable[..., TorilProcess]) -> None:
        toril = start(token("limited-wait", ["*"], rate_limit={"max": 2, "per": "2s"}))
        first = [status(toril, "limited-wait-secret") for _ in range(3)]
        assert first == [200, 200, 429]
        answer = ask(toril.url, "limited-wait-secret", "GET", "/queues/orders/jobs/1/result")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["code"] == "rate_limited"
        time.sleep(1.0)
        assert status(toril, "limited-wait-secret") == 200

    def test_many_jobs_in_one_request_count_as_one(self, start: Callable[..., TorilProcess], queue: str) -> None:
        toril = start(token("limited-bulk", ["jobs:add"], rate_limit={"max": 1, "per": "1h"}))
        add = [job()] * 50
        path = f"/queues/{queue}/jobs"
        assert ask(toril.url, "limited-bulk-secret", "POST", path, add).status_code == 200
        assert ask(toril.url, "limited-bulk-secret", "POST", path, add).status_code == 429
        toril.gateway.wait_for_counts(queue, waiting=50)

    def test_commands_are_counted_and_refused_each_for_itself(
        self, start: Callable[..., TorilProcess], queue: str
    ) -> None:
        toril = start(token("limited-ws", ["*"], rate_limit={"max": 3, "per": "1h"}))
        with socket_to(toril.url, f"/ws/queues/{queue}", "limited-ws-secret") as socket:
            assert socket.command("add", "work", {})["ok"]
            assert socket.command("add", "work", {})["ok"]
            for _ in range(3):
                refused = socket.command("add", "work", {})
                assert (refused["code"], refused["stack"]) == ("rate_limited", "")
        toril.gateway.wait_for_counts(queue, waiting=2)

    def test_sockets_and_streams_are_refused_before_they_open(self, start: Callable[..., TorilProcess]) -> None:
        toril = start(token("limited-open", ["*"], rate_limit={"max": 1, "per": "1h"}))
        with socket_to(toril.url, "/ws/queues/orders/events", "limited-open-secret"):
            pass
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, "/ws/queues/orders", "limited-open-secret"):
            pass
        assert caught.value.response.status_code == 429
        assert int(caught.value.response.headers["retry-after"]) > 3500
        assert status(toril, "limited-open-secret", "/queues/orders/events") == 429

    def test_rate_limited_requests_are_503_while_redis_is_away(
        self, file: Path, start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril
    ) -> None:
        limited = token("limited", ["*"], rate_limit={"max": 100, "per": "1s"})
        valkey = start_valkey()
        toril = start_toril(valkey, args=["--config", str(write(file, limited))])
        assert status(toril, "limited-secret") == 200
        valkey.kill()
        answer = ask(toril.url, "limited-secret", "GET", "/workers")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


class TestTheAuditLog:
    """A line for every change, and for every change that was refused."""

    def test_the_audit_names_caller_action_queue_and_result(self, start: Callable[..., TorilProcess]) -> None:
        toril = start(SHOP, READER)
        url = toril.url
        assert ask(url, "shop-secret", "DELETE", "/workers/orders").status_code == 403
        assert ask(url, "guess", "DELETE", "/workers/orders").status_code == 401
        assert ask(url, TOKEN, "DELETE", "/workers/orders").status_code == 404
        assert ask(url, "reader-secret", "POST", "/queues/orders/jobs", [job()]).status_code == 403
        assert ask(url, "shop-secret", "POST", "/queues/orders/jobs", [job("private")]).status_code == 200
        assert ask(url, "reader-secret", "GET", "/queues/orders/jobs").status_code == 200
        with socket_to(url, "/ws/queues/orders-audited", "shop-secret") as socket:
            for fn in ("pause", "resume", "getJobCounts"):
                socket.command(fn)
        with socket_to(url, "/ws/queues/orders-audited", "reader-secret") as socket:
            socket.command("pause")
            socket.command("add", "work", {})
        lines_now = lines(toril, "audit")
        assert all(line["level"] == "info" for line in lines_now)
        delete, add = "DELETE /workers/{queue}", "POST /queues/{queue}/jobs"
        assert [(line["caller"], line["action"], line["queue"], line["status"]) for line in lines_now] == [
            ("shop", delete, "orders", 403),
            (None, delete, "orders", 401),
            ("AUTH_TOKENS", delete, "orders", 404),
            ("reader", add, "orders", 403),
            ("shop", "socket pause", "orders-audited", 200),
            ("shop", "socket resume", "orders-audited", 200),
            ("reader", "socket pause", "orders-audited", 403),
            ("reader", "socket add", "orders-audited", 403),
        ]
        for secret in ("shop-secret", "reader-secret", "guess", TOKEN, "private", SHOP["sha256"]):
            assert secret not in toril.log()

    def test_adds_are_audited_at_debug(self, start: Callable[..., TorilProcess], queue: str) -> None:
        toril = start(SHOP, env={"TORIL_LOG_LEVEL": "debug"})
        toril.gateway.add(queue, job())
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            socket.command("add", "work", {})
        added, over_a_socket = lines(toril, "audit")
        assert (added["level"], added["caller"], added["status"]) == ("debug", "AUTH_TOKENS", 200)
        assert (over_a_socket["level"], over_a_socket["action"]) == ("debug", "socket add")
