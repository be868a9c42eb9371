"""``toril doctor`` on installations with something wrong, and ``GET /doctor``."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.journeys.test_operating import Run, document, run, said
from tests.support.gateway import PLAIN, TOKEN
from tests.support.ports import free_port
from tests.support.tokens import ask, token, write
from tests.support.toril import StartToril
from tests.support.valkey import StartValkey

__all__ = ["run"]  # a fixture


def found(run: Run, *arguments: str, url: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """What the doctor has found, by what it is about; of several findings about one thing the last."""
    told = document(run("doctor", "--json", *arguments, url=url), status)
    return {one["about"]: one for one in told["findings"]}


def states(findings: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The states of findings."""
    return {about: one["state"] for about, one in findings.items()}


@contextmanager
def impatient_proxy(url: str) -> Iterator[str]:
    """A proxy that gives up requests for which the gateway waits."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {"authorization": self.headers["authorization"]}
            answer = httpx.get(url + self.path, headers=headers, trust_env=False, verify=PLAIN)
            late = "wait=" in self.path
            body = b"upstream timed out" if late else answer.content
            self.send_response(504 if late else answer.status_code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def test_the_doctor_names_what_is_wrong_with_redis_and_what_to_do(
    run: Run, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey)
    well = found(run, url=toril.url)
    assert "fail" not in states(well).values()
    assert states(well)["work"] == states(well)["clock"] == states(well)["redis.version"] == "ok"
    valkey.client().config_set("maxmemory-policy", "allkeys-lru")
    sick = found(run, url=toril.url, status=1)["redis.eviction"]
    assert sick["state"] == "fail"
    assert "allkeys-lru" in sick["text"]
    assert "noeviction" in sick["remedy"]
    shown = said(run("doctor", url=toril.url), 1)
    assert shown.splitlines()[0].startswith("fail  redis.eviction: ")
    assert "1 fault, " in shown.splitlines()[-1]


def test_the_doctor_knows_the_user_and_the_descriptors(
    run: Run, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    valkey.client().execute_command("ACL", "SETUSER", "gate", "on", ">hunter2", "~*", "&*", "+@all")
    url = valkey.url.replace("redis://", "redis://gate:hunter2@")
    toril = start_toril(valkey, env={"REDIS_URL": url}, descriptors=512)
    told = found(run, url=toril.url)
    assert (told["redis.acl"]["state"], "'gate'" in told["redis.acl"]["text"]) == ("ok", True)
    assert (told["descriptors"]["state"], "512" in told["descriptors"]["text"]) == ("warn", True)
    assert "hunter2" not in str(told)


def test_the_doctor_finds_a_redis_that_is_away(run: Run, start_valkey: StartValkey, start_toril: StartToril) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey)
    valkey.stop()
    told = found(run, url=toril.url, status=1)
    assert (told["work"]["state"], told["redis"]["state"]) == ("fail", "fail")


def test_the_doctor_finds_a_proxy_that_does_not_wait(
    run: Run, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    toril = start_toril(start_valkey())
    assert states(found(run, "--wait", "1", url=toril.url))["proxies"] == "ok"
    with impatient_proxy(toril.url) as url:
        assert "proxies" not in found(run, url=url)
        cut = found(run, "--wait", "1", url=url, status=1)["proxies"]
    assert (cut["state"], "504" in cut["text"]) == ("fail", True)


def test_the_doctor_checks_a_file_also_when_the_gateway_is_away(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text("nonsense: 1\nport: many\n")
    told = document(run("doctor", "--config", str(file), "--json", url=f"http://127.0.0.1:{free_port()}"), 3)
    texts = [one["text"] for one in told["findings"] if one["about"] == "configuration"]
    assert any("nonsense" in text for text in texts)
    assert told["findings"][-1]["about"] == "gateway"


def test_a_token_for_some_queues_may_not_examine(
    start_valkey: StartValkey, start_toril: StartToril, tmp_path: Path
) -> None:
    file = write(tmp_path / "toril.yaml", token("mine", ["metrics:read"], ["orders"]), token("all", ["metrics:read"]))
    toril = start_toril(start_valkey(), args=("--config", str(file)))
    assert ask(toril.url, "mine-secret", "GET", "/doctor").status_code == 403
    assert ask(toril.url, "all-secret", "GET", "/doctor").status_code == 200
    for wait in ("61", "-1", "soon", "nan"):
        assert ask(toril.url, TOKEN, "GET", f"/doctor?wait={wait}").status_code == 400
