"""Running it: health and readiness, the environment, the root of trust, and what the store may look like."""

import json
from typing import Any

import httpx
import pytest

from tests.support.endpoint import Endpoint, StartEndpoint, reply_json
from tests.support.gateway import Gateway, job, worker
from tests.support.ports import free_port
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually


class TestHealth:
    """``/health`` says the process lives, ``/ready`` that work is moving. Neither wants a token."""

    def test_a_working_server_is_healthy_and_ready(self, toril: TorilProcess) -> None:
        assert toril.status("/health") == 200
        assert toril.status("/ready") == 200

    def test_the_server_is_not_ready_without_redis_and_recovers(
        self, start_valkey: StartValkey, start_toril: StartToril
    ) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey)
        valkey.stop()
        eventually(lambda: toril.status("/ready") == 503, what="503 from /ready")
        assert toril.status("/health") == 200
        valkey.start()
        eventually(lambda: toril.status("/ready") == 200, timeout_s=30, what="200 from /ready")

    def test_the_server_is_not_ready_while_redis_hangs(
        self, start_valkey: StartValkey, start_toril: StartToril
    ) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey)
        valkey.pause()
        eventually(lambda: toril.status("/ready") == 503, timeout_s=30, what="503 from /ready")
        assert toril.status("/health") == 200
        valkey.resume()
        eventually(lambda: toril.status("/ready") == 200, timeout_s=30, what="200 from /ready")

    def test_the_server_starts_without_redis_and_gets_ready_when_redis_comes(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey(aof=True)
        valkey.client().hset("bmqp:w:meta", "early", json.dumps(worker("early", endpoint.url)))
        valkey.stop()
        toril = start_toril(valkey, wait_for="/health")
        assert toril.status("/ready") == 503
        valkey.start()
        eventually(lambda: toril.status("/ready") == 200, timeout_s=30, what="200 from /ready")
        toril.gateway.finished("early", toril.gateway.add_one("early"))


class TestTokens:
    """``AUTH_TOKENS``: a comma list; with an empty one every request is refused."""

    def test_each_token_of_the_list_is_accepted(self, start_valkey: StartValkey, start_toril: StartToril) -> None:
        toril = start_toril(start_valkey(), env={"AUTH_TOKENS": "first,second-token"})
        for token, status in (("first", 200), ("second-token", 200), ("first,second-token", 401), (",", 401)):
            answer = httpx.get(toril.url + "/workers", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status, token

    @pytest.mark.parametrize("tokens", [None, "", ","])
    def test_no_token_configured_refuses_everything_and_says_so(
        self, start_valkey: StartValkey, start_toril: StartToril, tokens: str | None
    ) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey, env={"AUTH_TOKENS": tokens})
        for token in (",", "test-token", "undefined", "None", '""'):
            headers = {"authorization": f"Bearer {token}"}
            assert httpx.get(toril.url + "/workers", headers=headers).status_code == 401
            assert httpx.post(toril.url + "/queues/abc/jobs", json=[], headers=headers).status_code == 401
        assert "AUTH_TOKENS" in toril.log()
        assert valkey.client().keys("bull:*") == []

    def test_tokens_are_never_logged(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        toril = start_toril(start_valkey(), env={"AUTH_TOKENS": "test-token", "DEBUG": "true"})
        endpoint = start_endpoint(lambda call: reply_json(call.job["data"]))
        toril.gateway.register("quiet", endpoint.url, headers={"x-secret": "s3cr3t-header"})
        done = toril.gateway.finished("quiet", toril.gateway.add_one("quiet", {"secret": "s3cr3t-data"}))
        assert done["returnvalue"] == {"secret": "s3cr3t-data"}
        log = toril.log()
        for secret in ("test-token", "s3cr3t-header", "s3cr3t-data", endpoint.calls[0].token):
            assert secret not in log


class TestEnvironment:
    """BullMQ Proxy's environment variables, all of them."""

    def test_names_and_limits_come_from_the_environment(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        toril = start_toril(
            valkey,
            env={
                "QUEUE_PREFIX": "acme",
                "MIN_QUEUE_NAME_LENGTH": "2",
                "MAX_QUEUE_NAME_LENGTH": "6",
                "WORKER_METADATA_KEY": "acme:workers",
                "WORKER_METADATA_STREAM": "acme:stream",
                "MAX_LEN_WORKER_METADATA_STREAM": "5",
                "QUEUE_CACHE_SIZE": "10",
            },
        )
        gateway: Gateway = toril.gateway
        for name, text in (
            ("a", "queue name must be at least 2 characters long"),
            ("abcdefg", "queue name must be at most 6 characters long"),
        ):
            answer = gateway.http.post(f"/queues/{name}/jobs", json=[job()])
            assert (answer.status_code, answer.text) == (400, text)
        for _ in range(6):
            gateway.register("ab", endpoint.url)
            gateway.unregister("ab")
        gateway.register("ab", endpoint.url)
        (added,) = gateway.add("ab", job())
        assert added["queueQualifiedName"] == "acme:ab"
        gateway.finished("ab", added["id"])
        assert endpoint.calls[0].job["queueQualifiedName"] == "acme:ab"
        assert store.exists("acme:ab:1") == 1
        assert store.hkeys("acme:workers") == ["ab"]
        assert store.xlen("acme:stream") == 5
        assert store.keys("bull:*") == []
        assert store.exists("bmqp:w:meta", "bmpq:w:stream") == 0

    def test_redis_host_and_port_do_without_a_url(self, start_valkey: StartValkey, start_toril: StartToril) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey, env={"REDIS_URL": None, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(valkey.port)})
        toril.gateway.add_one("hosted")
        assert valkey.client().exists("bull:hosted:1") == 1

    def test_user_and_password_are_taken_from_the_environment(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        store.acl_setuser(
            "toril", enabled=True, passwords=["+p4ss/wörd"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        store.acl_setuser("default", enabled=False)
        toril = start_toril(
            valkey,
            env={
                "REDIS_URL": None,
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(valkey.port),
                "REDIS_USERNAME": "toril",
                "REDIS_PASSWORD": "p4ss/wörd",
            },
        )
        toril.gateway.register("locked", endpoint.url)
        toril.gateway.finished("locked", toril.gateway.add_one("locked"))

    def test_a_url_carries_user_password_and_database(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client(db=3)
        store.acl_setuser(
            "toril", enabled=True, passwords=["+p4ss/word"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        url = f"redis://toril:p4ss%2Fword@127.0.0.1:{valkey.port}/3"
        toril = start_toril(valkey, env={"REDIS_URL": url, "REDIS_HOST": "nowhere.invalid"})
        toril.gateway.register("inside", endpoint.url)
        toril.gateway.finished("inside", toril.gateway.add_one("inside"))
        assert store.exists("bull:inside:1") == 1
        assert valkey.client(db=0).keys("*") == []
        assert "p4ss" not in toril.log()

    def test_a_unix_socket_is_an_address_of_redis(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint, tmp_path: Any
    ) -> None:
        path = tmp_path / "s"
        valkey = start_valkey(config={"unixsocket": str(path), "unixsocketperm": "700"})
        toril = start_toril(valkey, env={"REDIS_URL": f"unix://{path}"})
        toril.gateway.register("socket", endpoint.url)
        toril.gateway.finished("socket", toril.gateway.add_one("socket"))
        assert any(str(path) in client["addr"] for client in valkey.client().client_list())

    def test_the_port_comes_from_the_environment_too(self, start_valkey: StartValkey, tmp_path: Any) -> None:
        port = free_port()
        toril = TorilProcess(
            start_valkey().url, tmp_path / "port.log", port=port, env={"PORT": str(port)}, preloaded=False
        )
        toril._command = toril._command[: toril._command.index("--port")]
        with toril:
            assert toril.status("/health") == 200


class TestEvents:
    """What other BullMQ libraries read: events, meta, and the names of connections."""

    def test_the_life_of_a_job_is_in_the_event_stream(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: Any
    ) -> None:
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue))
        events = [fields for _, fields in store.xrange(f"bull:{queue}:events") if fields.get("jobId") == "1"]
        assert [event["event"] for event in events] == ["added", "waiting", "active", "completed"]
        assert json.loads(events[-1]["returnvalue"]) == {"done": True}

    def test_the_queues_meta_holds_stream_length_and_version(self, gateway: Gateway, queue: str, store: Any) -> None:
        gateway.add_one(queue)
        meta = store.hgetall(f"bull:{queue}:meta")
        assert meta["opts.maxLenEvents"] == "10000"
        assert meta["version"].startswith("bullmq")

    def test_redis_connections_have_names(self, toril: TorilProcess, store: Any) -> None:
        named = [client["name"] for client in store.client_list() if client["name"]]
        assert named, "CLIENT SETNAME"
