"""``toril dev`` with all doors: its configuration file, and the inspector behind each door."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.dev import Dev, StartDev
from tests.support.gateway import Gateway
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

ALL_DOORS = """
egress: {policy: public}
upstreams:
  - {prefix: /api, url: "URL/inspect/upstream"}
targets:
  crm: {url: "URL/inspect/crm"}
  slow: {url: "URL/inspect/slow?status=503", retry: {base: 100ms, max_attempts: 2}}
"""


class TestDoors:
    def test_without_a_file_there_is_a_ledger_and_a_target_to_try(self, start_dev: StartDev, tmp_path: Path) -> None:
        dev = start_dev()
        assert dev.deliver("inspector", {"order": 4711})["status"] == "delivered"
        (request,) = dev.requests("deliveries")
        assert json.loads(request["body"]) == {"order": 4711}
        assert (tmp_path / "data" / "ledger.sqlite3").exists()
        assert not (tmp_path / "toril-ledger.sqlite3").exists()

    def test_without_a_file_there_is_an_upstream_to_try_beside_the_api(self, start_dev: StartDev) -> None:
        dev = start_dev()
        accepted = dev.plain.post("/upstream/report", json={"year": 2026})
        assert accepted.status_code == 202
        assert dev.plain.get(accepted.headers["location"], params={"wait": 15}).json()["status"] == "completed"
        answer = dev.plain.get(f"{accepted.headers['location']}/content")
        assert (answer.status_code, answer.json()["inspected"]) == (200, "upstream")
        assert json.loads(dev.requests("upstream")[0]["body"]) == {"year": 2026}
        # toril's own paths are where they always were, and what is nobody's is not found.
        assert [one["prefix"] for one in dev.gateway.http.get("/upstreams").json()["upstreams"]] == ["/upstream"]
        assert dev.gateway.http.get("/openapi.json").json()["paths"].keys() >= {"/queues", "/upstream/{path}"}
        assert dev.gateway.http.get("/nothing").status_code == 404
        assert dev.plain.get("/__jobs/nothing").status_code == 404
        with socket_to(dev.url, "/ws/queues/orders", dev.token) as socket:
            assert socket.command("getJobCounts")["ok"]["waiting"] == 0

    def test_one_inspector_stands_behind_all_three_doors(self, start_dev: StartDev) -> None:
        dev = start_dev(ALL_DOORS, "/__toril")
        worker = f"{dev.url}/inspect/charge?body={quote(json.dumps({'charged': 42}))}"
        dev.gateway.register("orders", worker)
        done = dev.gateway.finished("orders", dev.gateway.add_one("orders", {"amount": 42}))
        assert done["returnvalue"] == {"charged": 42}
        assert json.loads(dev.requests("charge")[0]["body"])["job"]["data"] == {"amount": 42}

        answer = dev.plain.post("/api/report?status=201", headers={"prefer": "wait=15"}, content=b"\xff")
        assert (answer.status_code, answer.json()["inspected"]) == (201, "upstream")
        (request,) = dev.requests("upstream")
        assert (request["method"], request["bodyBase64"]) == ("POST", "/w==")

        assert dev.deliver("crm", {"n": 1})["status"] == "delivered"
        assert dev.deliver("slow", {"n": 2})["status"] == "dead_lettered"
        assert [request["status"] for request in dev.requests("slow")] == [503, 503]

    def test_the_printed_lines_name_the_api_beside_upstreams(self, start_dev: StartDev) -> None:
        dev = start_dev('upstreams: [{prefix: /, url: "URL/inspect/all"}]\napiPath: "off"\n', "/__toril")
        assert f"{dev.url}/__toril/dashboard/#token=" in dev.process.log()
        assert f"TORIL={dev.url}/__toril " in dev.process.log()
        assert dev.plain.get("/anything", headers={"prefer": "wait=15"}).json()["inspected"] == "all"

    def test_an_upstream_at_the_inspectors_path_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "toril.yaml"
        file.write_text("upstreams: [{prefix: /inspect/x, url: http://127.0.0.1:1}]\n")
        command = ("dev", "--data", str(tmp_path / "data"), "--config", str(file))
        with pytest.raises(AssertionError, match=r"the prefix /inspect/x is the inspector's in toril dev"):
            TorilProcess("", tmp_path / "dev.log", env={"REDIS_URL": None}, command=command).start()

    def test_toril_serve_has_no_inspector(self, gateway: Gateway) -> None:
        assert gateway.http.get("/inspect").status_code == 404
        assert gateway.http.get("/inspect/charge").status_code == 404


class TestReloading:
    def test_a_new_target_works_at_once_and_nothing_is_lost_meanwhile(self, start_dev: StartDev) -> None:
        dev = start_dev('targets: {crm: {url: "URL/inspect/crm"}}\n')
        dev.gateway.register("orders", f"{dev.url}/inspect/charge?delay=1s")
        in_flight = dev.gateway.add_one("orders")
        eventually(lambda: dev.gateway.counts("orders")["active"] == 1, what="a job in flight")
        dev.file.write_text(f'targets: {{erp: {{url: "{dev.url}/inspect/erp"}}}}\n')

        def is_there() -> bool:
            answer = dev.gateway.http.post("/enqueue", json={"target": "erp", "body": 1})
            return answer.status_code == 202

        eventually(is_there, timeout_s=30, what="the new target")
        dev.wait_for("erp")
        assert dev.gateway.finished("orders", in_flight)["attemptsMade"] == 1
        assert len(dev.requests("charge")) == 1, "what was inspected before is still known"
        assert dev.process.log().count("Try it in another terminal") == 1

    def test_a_faulty_file_changes_nothing(self, start_dev: StartDev) -> None:
        dev = start_dev('targets: {crm: {url: "URL/inspect/crm"}}\n')
        dev.file.write_text("targets: nonsense\n")
        eventually(lambda: "config.kept" in dev.process.log(), timeout_s=30, what="the fault in the log")
        assert dev.deliver("crm", 1)["status"] == "delivered"
        assert "starts anew" not in dev.process.log()


class TestInspector:
    @pytest.fixture
    def dev(self, start_dev: StartDev) -> Dev:
        return start_dev()

    def test_the_inspector_answers_as_the_query_says(self, dev: Dev) -> None:
        began = time.monotonic()
        answer = dev.plain.put("/inspect/x/below?status=418&delay=300ms&body=tea", content=b"1")
        assert time.monotonic() - began >= 0.3
        assert (answer.status_code, answer.text) == (418, "tea")
        assert answer.headers["content-type"].startswith("text/plain")
        (request,) = dev.requests("x")
        assert request["target"] == "/inspect/x/below?status=418&delay=300ms&body=tea"
        assert (request["method"], request["status"], request["delayMs"]) == ("PUT", 418, 300)

    def test_the_inspector_prints_each_request_without_control_characters(self, dev: Dev) -> None:
        dev.plain.post("/inspect/evil", content=b"before\x1b[2Jafter\nnext")
        eventually(lambda: "POST /inspect/evil → 200" in dev.process.log(), what="a line")
        assert "\x1b" not in dev.process.log()
        assert r"before\x1b[2Jafter\nnext" in dev.process.log()

    def test_a_browser_is_told_to_run_nothing_of_an_answer(self, dev: Dev) -> None:
        for query in ("body=<script>alert(1)</script>", "status=99", "status=404&body=<script>"):
            answer = dev.plain.get(f"/inspect/x?{query}")
            assert "html" not in answer.headers["content-type"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in answer.headers["content-security-policy"]

    @pytest.mark.parametrize("name", ["%2e%2e", "a%2Fb", "%20", "x" * 65, "%3Cscript%3E", "%ff"])
    def test_the_inspector_refuses_an_invalid_name_and_keeps_no_request(self, dev: Dev, name: str) -> None:
        assert dev.plain.get(f"/inspect/{name}").status_code in {400, 404}
        assert dev.plain.get("/inspect", headers=dict(dev.gateway.http.headers)).json() == {"requests": []}

    def test_a_large_body_is_read_and_only_its_beginning_is_kept(self, dev: Dev) -> None:
        size = 30 * 1024 * 1024
        assert dev.plain.post("/inspect/large", content=b"x" * size).status_code == 200
        (request,) = dev.requests("large")
        assert (request["bodyBytes"], len(request["body"])) == (size, 64 * 1024)

    def test_inspected_requests_are_shown_only_to_callers_with_the_token(self, dev: Dev) -> None:
        dev.plain.get("/inspect/x", headers={"authorization": "Bearer a-callers-secret"})
        assert dev.plain.get("/inspect").status_code == 401
        assert dev.plain.get("/inspect", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert dev.gateway.http.post("/inspect").status_code == 405
        assert dev.gateway.http.get("/inspect?limit=0").status_code == 400
        assert dev.gateway.http.get("/inspect?after=1").json() == {"requests": []}
        assert len(dev.requests("x", limit=1)) == 1

    def test_slow_answers_of_the_inspector_delay_no_other_caller(self, dev: Dev) -> None:
        with ThreadPoolExecutor(20) as pool:
            slow = [pool.submit(dev.plain.get, "/inspect/slow?delay=2s") for _ in range(20)]
            dev.wait_for("slow", 20)
            assert dev.plain.get("/inspect/fast").status_code == 200
            assert not any(one.done() for one in slow)
            assert {one.result().status_code for one in slow} == {200}
