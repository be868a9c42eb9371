"""`POST /mcp` as agents use it: through the protocol's own client in both of its eras, and byte by byte."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, reply_json
from tests.support.gateway import PLAIN, TOKEN, worker
from tests.support.ports import free_port
from tests.support.tokens import ask, bearer, token
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.mcp.routes import TOOLS

TARGET = "mcp-billing"
MODERN, LEGACY = "2026-07-28", "2025-11-25"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
READING = {
    "what_needs_attention", "list_queues", "show_queue", "find_jobs", "explain_job", "list_schedulers", "list_targets",
    "find_deliveries", "explain_delivery",
}  # fmt: skip
ADDING = {"add_job", "send_delivery"}


@pytest.fixture(scope="module")
def toril(valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    folder = tmp_path_factory.mktemp("mcp")
    nowhere = {"url": f"http://127.0.0.1:{free_port()}/", "retry": {"max_attempts": 1}}
    file = configuration(
        folder / "toril.yaml",
        {TARGET: nowhere},
        ledger={"url": f"sqlite:///{folder}/ledger.sqlite3"},
        cors={"origins": ["https://agents.example"]},
        tokens=[
            token("reader", ["*:read"]),
            token("some", ["jobs:*", "queues:*"], ["mcp-mine-*"]),
            token("nothing-here", ["metrics:read"]),
            token("slow", ["queues:read"], rate_limit={"max": 2, "per": "1h"}),
        ],
    )
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as toril:
        yield toril
        assert toril.complaints() == []


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue of the test's own."""
    return "mcp-" + "".join(letter for letter in request.node.name if letter.isalnum())[:60].lower()


@asynccontextmanager
async def agent(toril: TorilProcess, mode: str = MODERN, secret: str = TOKEN) -> AsyncIterator[Client]:
    """An agent's client: the protocol's own, which checks every answer against its schema."""
    async with (
        httpx2.AsyncClient(headers=bearer(secret), trust_env=False, verify=PLAIN, timeout=20) as http,
        Client(streamable_http_client(f"{toril.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    (content,) = result.content
    assert isinstance(content, mcp_types.TextContent)
    found: dict[str, Any] = result.structured_content
    assert json.loads(content.text) == found
    return found


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """What an agent reads where a call fails."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (content,) = result.content
    assert isinstance(content, mcp_types.TextContent)
    return content.text


def posted(toril: TorilProcess, body: Any, secret: str = TOKEN, **headers: str) -> httpx2.Response:
    """One message, byte by byte."""
    given = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with httpx2.Client(trust_env=False, verify=PLAIN, timeout=20) as http:
        return http.post(f"{toril.url}/mcp", content=content, headers=bearer(secret) | given)


def modern(method: str, meta: Any = META, **params: Any) -> dict[str, Any]:
    """A request of 2026-07-28."""
    return {"jsonrpc": "2.0", "id": "1", "method": method, "params": params | {"_meta": meta}}


def headers_of(method: str, name: str | None = None) -> dict[str, str]:
    """The headers that go with it."""
    return {"mcp_protocol_version": MODERN, "mcp_method": method} | ({} if name is None else {"mcp_name": name})


class TestTheProtocolsOwnClient:
    """Both eras, as an agent's program speaks them."""

    @pytest.mark.parametrize("mode", [MODERN, "auto", "legacy"])
    async def test_it_lists_and_calls_tools(self, toril: TorilProcess, queue: str, mode: str) -> None:
        toril.gateway.add_one(queue, {"customer": 42}, name="charge")
        async with agent(toril, mode) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == [tool.name for tool in TOOLS]
            found = await called(client, "find_jobs", queue=queue, where="data.customer = 42")
            assert [job["name"] for job in found["jobs"]] == ["charge"]

    async def test_it_learns_what_the_server_is(self, toril: TorilProcess) -> None:
        async with agent(toril, "auto") as client:
            assert client.protocol_version == MODERN
            assert client.server_info.name == "toril"
            assert "dry_run" in (client.instructions or "")
        async with agent(toril, "legacy") as client:
            assert client.protocol_version == LEGACY
            assert client.server_info.name == "toril"


class TestTools:
    """What each tool does, on real queues and a real ledger."""

    async def test_a_failed_job_is_found_explained_and_retried_after_a_dry_run(
        self, toril: TorilProcess, queue: str, endpoint: Endpoint
    ) -> None:
        endpoint.behaviour = lambda _: reply_json({"error": "no card"}, 402, "Payment Required")
        gateway = toril.gateway
        assert gateway.http.post("/workers", json=worker(queue, endpoint.url)).status_code == 200
        job_id = gateway.add_one(queue, {"customer": 7}, name="charge")
        eventually(lambda: gateway.counts(queue)["failed"] == 1)
        async with agent(toril) as client:
            (job,) = (await called(client, "find_jobs", queue=queue, states=["failed"]))["jobs"]
            assert (job["id"], job["data"]) == (job_id, {"customer": 7})
            told = await called(client, "explain_job", queue=queue, id=job_id)
            assert told["explanation"].startswith("The job failed. The reason: Payment Required. It said: at POST http")
            assert "no card" in told["explanation"]
            assert (told["job"]["state"], told["attempts"][0]["status"]) == ("failed", 402)
            endpoint.behaviour = lambda _: reply_json({})
            dry = await called(client, "retry_jobs", queue=queue, where='failedReason ~ "required"')
            assert (dry["matched"], dry["done"], dry["dry_run"]) == (1, 1, True)
            assert "dry_run false" in dry["next"]
            assert gateway.counts(queue)["failed"] == 1
            done = await called(client, "retry_jobs", queue=queue, ids=[job_id], dry_run=False)
            assert (done["done"], done["dry_run"]) == (1, False)
        eventually(lambda: gateway.counts(queue)["completed"] == 1)

    async def test_a_queue_is_shown_with_its_worker_and_is_paused_and_resumed(
        self, toril: TorilProcess, queue: str, endpoint: Endpoint
    ) -> None:
        assert toril.gateway.http.post("/workers", json=worker(queue, endpoint.url)).status_code == 200
        async with agent(toril) as client:
            assert await called(client, "set_queue_paused", queue=queue, paused=True) == {
                "queue": queue,
                "paused": True,
            }
            added = await called(client, "add_job", queue=queue, name="work", data=[1], attempts=3, backoff_ms=50)
            job = toril.gateway.job(queue, added["id"])
            assert (job["data"], job["opts"]["attempts"]) == ([1], 3)
            assert job["opts"]["backoff"] == {"type": "exponential", "delay": 50}
            shown = await called(client, "show_queue", queue=queue)
            assert (shown["queue"]["paused"], shown["registered_worker"]["endpoint"]["url"]) == (True, endpoint.url)
            assert queue in {one["name"] for one in (await called(client, "list_queues", match="mcp-*"))["queues"]}
            told = await called(client, "explain_job", queue=queue, id=added["id"])
            assert "paused" in told["explanation"]
            await called(client, "set_queue_paused", queue=queue, paused=False)
        eventually(lambda: toril.gateway.counts(queue)["completed"] == 1)

    async def test_jobs_are_removed_only_after_the_dry_run(self, toril: TorilProcess, queue: str) -> None:
        ids = [toril.gateway.add_one(queue, {"n": n}) for n in range(3)]
        async with agent(toril) as client:
            assert (await called(client, "remove_jobs", queue=queue, where="data.n >= 1"))["done"] == 2
            assert toril.gateway.counts(queue)["waiting"] == 3
            await called(client, "remove_jobs", queue=queue, where="data.n >= 1", dry_run=False)
            left = await called(client, "find_jobs", queue=queue)
            assert [job["id"] for job in left["jobs"]] == ids[:1]

    async def test_a_list_of_jobs_has_pages(self, toril: TorilProcess, queue: str) -> None:
        ids = [toril.gateway.add_one(queue) for _ in range(5)]
        async with agent(toril) as client:
            found, cursor = list[str](), None
            while True:
                page = await called(client, "find_jobs", queue=queue, order="oldest", limit=2, cursor=cursor)
                found += [job["id"] for job in page["jobs"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
        assert found == ids

    async def test_what_needs_attention_names_a_queue_without_a_worker_or_paused(
        self, toril: TorilProcess, queue: str
    ) -> None:
        toril.gateway.add_one(queue)
        assert toril.gateway.http.post(f"/queues/{queue}/pause").status_code == 204
        async with agent(toril) as client:

            async def named() -> bool:
                stats = await called(client, "what_needs_attention")
                return queue in {fact["name"] for fact in [*stats["attention"], *stats["paused"]]}

            while not await named():
                pass
            stats = await called(client, "what_needs_attention", window="24h")
            assert isinstance(stats["doors"]["queues"]["accepted"], int)

    async def test_dead_letters_are_found_explained_and_replayed_after_a_dry_run(self, toril: TorilProcess) -> None:
        door = Door(toril.gateway)
        async with agent(toril) as client:
            sent = await called(client, "send_delivery", target=TARGET, body={"n": 1}, labels={"test": "replay"})
            eventually(lambda: door.job(sent["job_id"])["status"] == "dead_lettered")
            found = await called(
                client, "find_deliveries", target=TARGET, status="dead_lettered", labels={"test": "replay"}
            )
            assert [one["job_id"] for one in found["jobs"]] == [sent["job_id"]]
            told = await called(client, "explain_delivery", job_id=sent["job_id"])
            assert told["explanation"].startswith(f"The delivery to {TARGET} is dead_lettered after 1 of 1 attempts.")
            (target,) = (await called(client, "list_targets"))["targets"]
            assert (target["name"], target["dead_letters"] >= 1) == (TARGET, True)
            dry = await called(client, "replay_dead_letters", target=TARGET, labels={"test": "replay"})
            assert (dry["matched"], dry["replayed"], dry["job_ids"]) == (1, 0, [sent["job_id"]])
            assert len(door.job(sent["job_id"])["attempts"]) == 1
            done = await called(client, "replay_dead_letters", target=TARGET, labels={"test": "replay"}, dry_run=False)
            assert done["replayed"] == 1
        eventually(lambda: len(door.job(sent["job_id"])["attempts"]) == 2)

    async def test_schedulers_are_listed(self, toril: TorilProcess, queue: str) -> None:
        made = toril.gateway.http.put(
            f"/queues/{queue}/schedulers/nightly", json={"pattern": "0 3 * * *", "template": {"name": "x"}}
        )
        assert made.status_code == 200, made.text
        async with agent(toril) as client:
            found = await called(client, "list_schedulers", queue=queue)
        assert [one["id"] for one in found["schedulers"]] == ["nightly"]

    async def test_a_long_answer_is_cut_and_says_so(self, toril: TorilProcess, queue: str) -> None:
        job_id = toril.gateway.add_one(queue, {"large": "x" * 500_000, "many": list(range(5000)), "short": "kept"})
        async with agent(toril) as client:
            result = await client.call_tool("explain_job", {"queue": queue, "id": job_id})
        (content,) = result.content
        assert isinstance(content, mcp_types.TextContent)
        assert len(content.text) < 64 * 1024
        found = result.structured_content
        assert "cut" in found["note"]
        assert found["job"]["data"]["short"] == "kept"
        assert found["job"]["data"]["large"].endswith("more characters)")

    async def test_a_trace_goes_from_the_call_into_the_job(self, toril: TorilProcess, queue: str) -> None:
        parent = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
        body = modern(
            "tools/call", META | {"traceparent": parent}, name="add_job", arguments={"queue": queue, "name": "x"}
        )
        answer = posted(toril, body, **headers_of("tools/call", "add_job"))
        job_id = answer.json()["result"]["structuredContent"]["id"]
        assert parent in toril.gateway.job(queue, job_id)["opts"]["telemetry"]["metadata"]


class TestWrongCalls:
    """An agent reads what was wrong, and nothing is done."""

    @pytest.mark.parametrize(
        ("tool", "arguments", "says"),
        [
            ("show_queue", {}, "`queue`"),
            ("show_queue", {"queue": "mcp-none-such"}, "404"),
            ("show_queue", {"queue": "a:b"}, "must not contain :"),
            ("find_jobs", {"queue": "mcp-x", "where": "data.n ="}, "400"),
            ("find_jobs", {"queue": "mcp-x", "limit": 51}, "$.limit"),
            ("find_jobs", {"queue": "mcp-x", "states": ["lost"]}, "$.states"),
            ("find_jobs", {"queue": "mcp-x", "cursor": "x"}, "400"),
            ("find_jobs", {"queue": "mcp-x", "colour": 1}, "`colour`"),
            ("explain_job", {"queue": "mcp-x", "id": "9"}, "404"),
            ("retry_jobs", {"queue": "mcp-x", "dry_run": False}, "either ids, or where or states"),
            ("replay_dead_letters", {"target": TARGET, "dry_run": False}, "either job_ids, or filters"),
            ("replay_dead_letters", {"target": "nowhere", "all": True}, "404"),
            ("explain_delivery", {"job_id": "x"}, "404"),
            ("send_delivery", {"target": TARGET, "path": "no-slash"}, "path"),
            ("add_job", {"queue": "mcp-x", "name": "x", "job_id": "7"}, "cannot be integers"),
        ],
    )
    async def test_a_wrong_argument_is_named(
        self, toril: TorilProcess, tool: str, arguments: dict[str, Any], says: str
    ) -> None:
        async with agent(toril) as client:
            assert says in await refused(client, tool, **arguments)


class TestRights:
    """A token finds the tools that it may use, and each of their requests is checked as any other."""

    async def test_a_token_that_only_reads_finds_tools_that_only_read(self, toril: TorilProcess) -> None:
        async with agent(toril, secret="reader-secret") as client:
            tools = (await client.list_tools()).tools
            assert {tool.name for tool in tools} == READING
            assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
            assert "needs the rights jobs:manage" in await refused(client, "retry_jobs", queue="mcp-x", ids=["1"])

    async def test_hints_follow_the_rights(self, toril: TorilProcess) -> None:
        async with agent(toril) as client:
            for tool in (await client.list_tools()).tools:
                hints = tool.annotations
                assert hints is not None
                assert hints.read_only_hint == (tool.name in READING)
                assert hints.destructive_hint == (tool.name not in READING | ADDING)

    async def test_rights_on_some_queues_hold_for_no_other(self, toril: TorilProcess, queue: str) -> None:
        toril.gateway.add_one(queue)
        async with agent(toril, secret="some-secret") as client:
            answers = set()
            for other in (queue, "mcp-none-such"):
                for tool in ("find_jobs", "show_queue"):
                    answers.add(await refused(client, tool, queue=other))
                await refused(client, "set_queue_paused", queue=other, paused=True)
                await refused(client, "add_job", queue=other, name="x")
            assert {text.partition(": ")[2] for text in answers} == {
                "Forbidden (it needs the right jobs:read there)",
                "Forbidden (it needs the right queues:read there)",
            }
            assert (await called(client, "list_queues", match=f"{queue}*"))["queues"] == []
            assert (await called(client, "add_job", queue="mcp-mine-1", name="x"))["name"] == "x"
        assert toril.gateway.counts(queue)["waiting"] == 1

    async def test_a_token_without_any_of_the_rights_finds_nothing(self, toril: TorilProcess) -> None:
        async with agent(toril, secret="nothing-here-secret") as client:
            assert (await client.list_tools()).tools == []

    def test_no_token_no_tools(self, toril: TorilProcess) -> None:
        answer = posted(toril, modern("tools/list"), secret="guess", **headers_of("tools/list"))
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")

    def test_calls_count_towards_the_rate_limit(self, toril: TorilProcess) -> None:
        first = posted(
            toril, modern("tools/call", name="list_queues"), "slow-secret", **headers_of("tools/call", "list_queues")
        )
        assert first.json()["result"]["isError"] is False  # the message, and the request that it makes
        second = posted(toril, modern("tools/list"), "slow-secret", **headers_of("tools/list"))
        assert (second.status_code, "retry-after" in second.headers) == (429, True)

    async def test_secrets_are_hidden_even_from_a_token_that_may_do_everything(
        self, toril: TorilProcess, queue: str
    ) -> None:
        data = {"target": "x", "headers": {"authorization": "Bearer hunter2", "x-kept": "1"}}
        job_id = toril.gateway.add_one(queue, data)
        assert toril.gateway.job(queue, job_id)["data"] == data
        async with agent(toril) as client:
            told = await called(client, "explain_job", queue=queue, id=job_id)
            found = await called(client, "find_jobs", queue=queue, where='name = "work"')
        hidden = {"target": "x", "headers": {"authorization": "(hidden)", "x-kept": "1"}}
        assert (told["job"]["data"], found["jobs"][0]["data"]) == (hidden, hidden)

    def test_no_tool_obliterates_purges_or_reads_bodies(self) -> None:
        asked = {action for tool in TOOLS for action in (*tool.routes, *tool.also)}
        assert not [action for action in asked if "obliterate" in action or action.startswith("DELETE")]
        assert not [action for action in asked if action.endswith("/body")]
        assert 12 <= len(TOOLS) <= 15


class TestAudit:
    """Changes are in the audit log once, with the tool; reading is not."""

    async def test_a_change_is_one_line_with_the_token_and_the_tool(self, toril: TorilProcess, queue: str) -> None:
        toril.gateway.add_one(queue)
        async with agent(toril) as client:
            await called(client, "show_queue", queue=queue)
            await called(client, "set_queue_paused", queue=queue, paused=True)
            await called(client, "remove_jobs", queue=queue, states=["waiting"], dry_run=False)
        lines = [line for line in audit(toril) if line.get("queue") == queue]
        assert [(line["action"], line["tool"], line["caller"], line["status"]) for line in lines] == [
            ("POST /queues/{queue}/bulk", "remove_jobs", "AUTH_TOKENS", 200),
            ("POST /queues/{queue}/pause", "set_queue_paused", "AUTH_TOKENS", 204),
        ]
        assert lines[0]["done"] == 1

    async def test_a_refused_change_is_a_line_too(self, toril: TorilProcess, queue: str) -> None:
        async with agent(toril, secret="some-secret") as client:
            await refused(client, "set_queue_paused", queue=queue, paused=True)
            await refused(client, "add_job", queue=queue, name="x")
        lines = [line for line in audit(toril) if line.get("queue") == queue]
        assert [(line["status"], line["caller"], line["tool"]) for line in lines] == [
            (403, "some", "add_job"),
            (403, "some", "set_queue_paused"),
        ]

    def test_a_page_of_another_origin_is_refused_and_in_the_log(self, toril: TorilProcess) -> None:
        asked = modern("tools/list")
        for origin in ("https://evil.example", "null", toril.url):
            answer = posted(toril, asked, origin=origin, **headers_of("tools/list"))
            assert (answer.status_code, "cors.origins" in answer.text) == (403, True)
        assert [line["status"] for line in audit(toril) if line["action"] == "POST /mcp"][:3] == [403] * 3
        assert posted(toril, asked, origin="https://agents.example", **headers_of("tools/list")).status_code == 200


def audit(toril: TorilProcess) -> list[dict[str, Any]]:
    """The lines of the audit log, the newest first."""
    lines: list[dict[str, Any]] = toril.gateway.http.get("/audit").json()["lines"]
    return lines


class TestTheWire:
    """Messages byte by byte: versions, headers, and whatever is wrong with them."""

    @pytest.mark.parametrize(
        ("body", "headers", "status", "code"),
        [
            (b"{", {}, 400, -32700),
            (b"[" * 100_000, {}, 400, -32700),
            (b'"\xff"', {}, 400, -32700),
            ([modern("tools/list")], {}, 400, -32600),
            ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, {}, 400, -32600),
            ({"jsonrpc": "2.0", "id": None, "method": "ping"}, {}, 400, -32600),
            ({"jsonrpc": "2.0", "id": True, "method": "ping"}, {}, 400, -32600),
            ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 400, -32600),
            ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, {}, 400, -32600),
            ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": 1}}, {}, 400, -32602),
            ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, {}, 200, -32601),
            (modern("resources/list"), headers_of("resources/list"), 404, -32601),
            (modern("ping"), headers_of("ping"), 404, -32601),
            (modern("tools/list"), {}, 400, -32020),
            (modern("tools/list"), {"mcp_protocol_version": MODERN}, 400, -32020),
            (modern("tools/list"), headers_of("tools/call"), 400, -32020),
            (modern("tools/list"), headers_of("tools/list") | {"mcp_protocol_version": LEGACY}, 400, -32020),
            (modern("tools/call", name="list_queues"), headers_of("tools/call"), 400, -32020),
            (modern("tools/call", name="list_queues"), headers_of("tools/call", "add_job"), 400, -32020),
            (modern("tools/call", name="list_queues"), headers_of("tools/call", "=?base64?%?="), 400, -32020),
            (modern("tools/call", name="obliterate"), headers_of("tools/call", "obliterate"), 400, -32602),
            (modern("tools/list", cursor="2"), headers_of("tools/list"), 400, -32602),
            (modern("tools/list", {}), headers_of("tools/list"), 400, -32602),
            (
                modern("tools/list", {"io.modelcontextprotocol/protocolVersion": MODERN}),
                headers_of("tools/list"),
                400,
                -32602,
            ),
            (modern("tools/list", {}), {"mcp_protocol_version": "1900-01-01"}, 400, -32022),
        ],
    )
    def test_a_wrong_message_gets_the_protocols_error(
        self, toril: TorilProcess, body: Any, headers: dict[str, str], status: int, code: int
    ) -> None:
        answer = posted(toril, body, **headers)
        found = answer.json()
        assert (answer.status_code, found["error"]["code"]) == (status, code), answer.text
        mcp_types.JSONRPCError.model_validate({"id": None} | found)  # the protocol leaves an unknown id out
        if isinstance(body, dict) and isinstance(body["id"], str):
            assert found["id"] == body["id"]

    def test_an_unsupported_version_is_told_which_ones_there_are(self, toril: TorilProcess) -> None:
        asked = modern("tools/list", META | {"io.modelcontextprotocol/protocolVersion": "2099-01-01"})
        answer = posted(toril, asked, **headers_of("tools/list") | {"mcp_protocol_version": "2099-01-01"})
        assert answer.status_code == 400
        assert answer.json()["error"]["data"] == {
            "supported": [MODERN, LEGACY, "2025-06-18"],
            "requested": "2099-01-01",
        }

    def test_a_name_may_come_in_base64(self, toril: TorilProcess) -> None:
        asked = modern("tools/call", name="list_queues")
        answer = posted(toril, asked, **headers_of("tools/call", "=?base64?bGlzdF9xdWV1ZXM=?="))
        assert answer.json()["result"]["isError"] is False

    def test_every_answer_says_who_gives_it_and_for_how_long(self, toril: TorilProcess) -> None:
        found = posted(toril, modern("tools/list"), **headers_of("tools/list")).json()["result"]
        assert (found["resultType"], found["cacheScope"], found["ttlMs"] > 0) == ("complete", "private", True)
        assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "toril"

    @pytest.mark.parametrize("headers", [{}, {"mcp_protocol_version": MODERN}, {"mcp_protocol_version": LEGACY}])
    def test_a_notification_is_taken_without_an_answer(self, toril: TorilProcess, headers: dict[str, str]) -> None:
        answer = posted(toril, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **headers)
        assert (answer.status_code, answer.content) == (202, b"")

    def test_an_older_client_gets_a_version_that_is_served_and_no_session(self, toril: TorilProcess) -> None:
        for asked, given in (("2025-06-18", "2025-06-18"), (LEGACY, LEGACY), ("2024-11-05", LEGACY)):
            params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            answer = posted(toril, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
            assert answer.json()["result"]["protocolVersion"] == given
            assert "mcp-session-id" not in answer.headers
        assert posted(toril, {"jsonrpc": "2.0", "id": 2, "method": "ping"}).json()["result"] == {}

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_there_is_no_stream_and_no_session(self, toril: TorilProcess, method: str) -> None:
        answer = ask(toril.url, TOKEN, method, "/mcp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")

    def test_a_browser_may_send_the_protocols_headers(self, toril: TorilProcess) -> None:
        headers = {
            "origin": "https://agents.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,mcp-protocol-version,mcp-method,mcp-name",
        }
        with httpx2.Client(trust_env=False, verify=PLAIN) as http:
            assert http.options(f"{toril.url}/mcp", headers=headers).status_code == 200


class TestOtherInstances:
    """Instances that have no deliveries, or no tools at all."""

    async def test_tools_of_doors_that_are_closed_are_not_there(
        self, valkey: ValkeyProcess, start_toril: StartToril
    ) -> None:
        toril = start_toril(valkey)
        async with agent(toril) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {tool.name for tool in TOOLS} - {
            "list_targets", "find_deliveries", "explain_delivery", "send_delivery", "replay_dead_letters",
        }  # fmt: skip
        answer = posted(toril, modern("tools/call", name="list_targets"), **headers_of("tools/call", "list_targets"))
        assert answer.json()["error"]["code"] == -32602

    def test_the_tools_can_be_switched_off(self, valkey: ValkeyProcess, start_toril: StartToril) -> None:
        toril = start_toril(valkey, env={"TORIL_MCP_ENABLED": "false"})
        assert posted(toril, modern("tools/list"), **headers_of("tools/list")).status_code == 404
        assert "/mcp" not in toril.gateway.http.get("/openapi.json").json()["paths"]
