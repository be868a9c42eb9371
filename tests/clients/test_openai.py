"""The official `openai` package through toril's async proxy, and through what knows no more than proxq does."""

import asyncio
import gzip
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.clients.toolchains import COMPILING_S, PACKAGE, GoTool, run
from tests.support.endpoint import Answer, Call, Endpoint, hang, in_chunks, reply_json, respond
from tests.support.proxied import READY, Proxied, running
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril_client.proxq import AsyncProxqTransport, ProxqTransport, async_openai_client, openai_client

SPEECH = bytes(range(256)) * 40


def completion(text: str) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def piece(text: str) -> bytes:
    """An event of a streamed completion."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    document = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def answer(call: Call) -> Answer:
    """What OpenAI would say, as far as these tests ask."""
    if call.header("authorization") != "Bearer sk-1":
        return reply_json({"error": {"message": "who?", "code": "invalid_api_key"}}, 401, "Unauthorized")
    if call.target == "/v1/audio/speech":
        return respond(200, "OK", [("content-type", "audio/mpeg")], SPEECH)
    if call.target == "/v1/files":
        assert "multipart/form-data; boundary=" in str(call.header("content-type"))
        size = call.body.count(b"\xfe")
        return reply_json(
            {"id": "f1", "object": "file", "bytes": size, "created_at": 1, "filename": "a", "purpose": "x"}
        )
    body = call.json
    asked = body["messages"][-1]["content"]
    if body.get("stream"):
        assert call.header("transfer-encoding") == "chunked", "it went past the queue"
        return in_chunks([piece("a"), piece("b"), b"data: [DONE]\n\n"], "text/event-stream")
    if asked in {"429", "500"}:
        error = {"error": {"message": f"no: {asked}", "type": "t", "param": None, "code": "c"}}
        return respond(int(asked), "No", [("x-request-id", "req_42"), ("retry-after", "0")], json.dumps(error).encode())
    if asked == "gzip":
        packed = gzip.compress(json.dumps(completion("unpacked")).encode())
        return respond(200, "OK", [("content-type", "application/json"), ("content-encoding", "gzip")], packed)
    return reply_json(completion(f"you said {asked}"))


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    """One chat completion."""
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="m", messages=messages, **options)


@dataclass
class Original:
    """Answers as proxq does: it holds no question, and knows of no `wait`."""

    statuses: list[dict[str, Any]]
    asked: list[Call] = field(default_factory=list)
    content: Answer = field(default_factory=lambda: reply_json(completion("late")))

    def __call__(self, call: Call) -> Answer:
        self.asked.append(call)
        source = [("x-proxq-source", "proxq"), ("content-type", "application/json")]
        if call.method == "POST":
            return respond(202, "Accepted", source, b'{"jobId":"j-1"}')
        if call.target == "/__jobs/j-1/content":
            return self.content
        if call.method == "DELETE":
            return respond(200, "OK", source, b'{"status":"cancelled"}')
        assert call.target.startswith("/__jobs/j-1?wait=")
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status["status"] == "gone":
            return respond(404, "Not Found", source, b'{"code":"NOT_FOUND","message":"Not found"}')
        return respond(status.get("http", 200), "OK", source, json.dumps(status).encode())

    def count(self, method: str) -> int:
        """How many requests there were with this method."""
        return sum(call.method == method for call in self.asked)


def test_a_job_is_waited_for_and_its_answer_returned(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original(
        [{"status": "queued"}, {"status": "running"}, {"status": "x", "http": 503}, {"status": "completed"}]
    )
    server = start_endpoint(original)
    with openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client:
        assert ask(client, "hello").choices[0].message.content == "late"
    assert [call.method for call in original.asked] == ["POST", "GET", "GET", "GET", "GET", "GET"]
    assert {call.header("authorization") for call in original.asked} == {"Bearer sk-1"}
    assert original.asked[0].json["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("status", ["failed", "gone"])
def test_a_job_without_an_answer_is_a_connection_error(status: str, start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": status, "error": "refused"}])
    server = start_endpoint(original)
    with (
        openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError) as raised,
    ):
        ask(client, "hello")
    assert "the job" in str(raised.value.__cause__)
    assert original.count("DELETE") == 0


def test_a_timeout_cancels_the_job(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": "running"}])
    server = start_endpoint(original)
    with (
        openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        ask(client, "hello", timeout=0.5)
    assert [call.target for call in original.asked if call.method == "DELETE"] == ["/__jobs/j-1"]


async def test_cancelling_the_call_cancels_the_job(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": "running"}])
    server = start_endpoint(original)
    async with async_openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        asking = asyncio.create_task(client.chat.completions.create(model="m", messages=messages))
        while original.count("GET") < 1:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert original.count("DELETE") == 1


def test_an_answer_without_the_proxq_source_header_is_returned_directly(
    start_endpoint: Callable[..., Endpoint],
) -> None:
    """Also a 202 of the upstream's own."""
    server = start_endpoint(lambda _: reply_json(completion("direct"), 202, "Accepted"))
    with openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client:
        assert ask(client, "hello").choices[0].message.content == "direct"
    assert len(server.calls) == 1


def test_a_refusal_by_the_proxy_raises_an_api_status_error(start_endpoint: Callable[..., Endpoint]) -> None:
    body = b'{"code":"PAYLOAD_TOO_LARGE","message":"Payload Too Large"}'
    server = start_endpoint(lambda _: respond(413, "No", [("x-proxq-source", "proxq")], body))
    with (
        openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        ask(client, "hello")
    assert raised.value.status_code == 413


def test_the_transport_works_with_a_plain_httpx_client(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": "completed"}], content=respond(418, "Teapot", [("x-a", "b")], b"short"))
    server = start_endpoint(original)
    with httpx.Client(transport=ProxqTransport(server.at("/__jobs"))) as client:
        answered = client.post(server.at("/any"), json={"stream": False})
    assert (answered.status_code, answered.content, answered.headers["x-a"]) == (418, b"short", "b")


async def test_the_transport_works_with_a_plain_async_httpx_client(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": "completed"}], content=respond(418, "Teapot", [("x-a", "b")], b"short"))
    server = start_endpoint(original)
    async with httpx.AsyncClient(transport=AsyncProxqTransport()) as client:
        answered = await client.post(server.at("/any"), json={})
    assert (answered.status_code, answered.content) == (418, b"short")


@pytest.fixture(scope="module")
def backend() -> Iterator[Endpoint]:
    """What stands behind toril."""
    with Endpoint(answer) as server:
        yield server
    for error in server.errors:
        raise error


@pytest.fixture(scope="module")
def proxied(
    valkey: ValkeyProcess, backend: Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorilProcess]:
    """A toril in front of it."""
    folder = tmp_path_factory.mktemp("openai")
    upstreams = [{"prefix": "/v1", "url": backend.at("/v1")}]
    with running(valkey.url, folder, Proxied(folder, upstreams, queue=f"q-{folder.name}")) as toril:
        yield toril


@pytest.fixture
def client(proxied: TorilProcess) -> Iterator[openai.OpenAI]:
    """The SDK behind toril."""
    with openai_client(proxied.url + "/v1", api_key="sk-1", max_retries=0) as made:
        yield made


def test_a_completion_through_toril(client: openai.OpenAI, backend: Endpoint) -> None:
    seen = len(backend.calls)
    raw = client.chat.completions.with_raw_response.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert raw.parse().choices[0].message.content == "you said hello"
    assert "x-proxq-source" not in raw.headers
    assert len(backend.calls) == seen + 1


def test_a_packed_answer_is_unpacked_by_the_sdk(client: openai.OpenAI) -> None:
    assert ask(client, "gzip").choices[0].message.content == "unpacked"


@pytest.mark.parametrize(("status", "kind"), [("429", openai.RateLimitError), ("500", openai.InternalServerError)])
def test_upstream_errors_reach_the_sdk_unchanged(
    client: openai.OpenAI, status: str, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind) as raised:
        ask(client, status)
    assert raised.value.request_id == "req_42"
    assert raised.value.body == {"message": f"no: {status}", "type": "t", "param": None, "code": "c"}


def test_the_sdk_retries_upstream_errors_as_usual(proxied: TorilProcess, backend: Endpoint) -> None:
    seen = len(backend.calls)
    with (
        openai_client(proxied.url + "/v1", api_key="sk-1", max_retries=1) as client,
        pytest.raises(openai.RateLimitError),
    ):
        ask(client, "429")
    assert len(backend.calls) == seen + 2


def test_a_wrong_api_key_is_refused_by_the_upstream(proxied: TorilProcess) -> None:
    with openai_client(proxied.url + "/v1", api_key="sk-2") as client, pytest.raises(openai.AuthenticationError):
        ask(client, "hello")


def test_binary_answers_and_multipart_requests(client: openai.OpenAI) -> None:
    assert client.audio.speech.create(model="m", voice="alloy", input="x").read() == SPEECH
    assert client.files.create(file=("a.bin", b"\xfe" * 1234), purpose="batch").bytes == 1234


def test_a_stream_comes_piece_by_piece(client: openai.OpenAI) -> None:
    assert [part.choices[0].delta.content for part in ask(client, "hello", stream=True)] == ["a", "b"]


async def test_the_async_client_completes_many_requests_at_once(proxied: TorilProcess) -> None:
    async with async_openai_client(proxied.url + "/v1", api_key="sk-1", max_retries=0) as client:

        async def say(text: str) -> str | None:
            made = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
            return made.choices[0].message.content

        texts = [f"text {number}" for number in range(30)]
        assert await asyncio.gather(*map(say, texts)) == [f"you said {text}" for text in texts]
        messages: Any = [{"role": "user", "content": "hello"}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        assert [part.choices[0].delta.content async for part in stream] == ["a", "b"]


def test_a_timeout_cancels_the_job_in_toril(
    start_toril: Callable[..., TorilProcess],
    valkey: ValkeyProcess,
    start_endpoint: Callable[..., Endpoint],
    tmp_path: Path,
) -> None:
    """The upstream sees its connection closed."""
    server = start_endpoint(lambda _: hang())
    config = Proxied(tmp_path, [{"prefix": "/v1", "url": server.url}], queue=f"q-{tmp_path.name}")
    toril = start_toril(valkey, READY, **config.arguments)
    with (
        openai_client(toril.url + "/v1", api_key="sk-1", max_retries=0) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        ask(client, "hello", timeout=1)
    (call,) = server.wait_for_calls(1)
    eventually(lambda: server.gone(call), what="the upstream call to be given up")


@pytest.mark.node
def test_the_typescript_client_through_toril(package: Path, proxied: TorilProcess) -> None:
    program = PACKAGE / "build/test/openai.journey.js"
    for runtime in (["node"], ["node_modules/.bin/bun", "run"]):
        printed = run(*runtime, str(program), env={"PROXQ": proxied.url})
        assert json.loads(printed) == {
            "said": "you said hello",
            "many": [f"you said {number}" for number in range(20)],
            "pieces": ["a", "b"],
            "error": [429, "req_42", "c"],
            "speech": len(SPEECH),
            "file": 1234,
        }


@pytest.mark.timeout(COMPILING_S)
def test_requests_of_proxqs_own_go_client_work(go: GoTool, proxied: TorilProcess, tmp_path: Path) -> None:
    """Its RoundTripper, rebuilt on net/http: it branches on nothing but the source header."""
    program = tmp_path / "roundtrip"
    go.run("go", "build", *go.flags, "-o", str(program), str(Path(__file__).with_name("roundtrip.go")))
    done = subprocess.run([program, proxied.url], check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == {
        "hello": [200, "you said hello", "application/json"],
        "gzip": [200, "unpacked", "application/json"],
        "429": [429, "no: 429", "req_42"],
        "stream": [200, "ab", "text/event-stream"],
    }
