"""The official `openai` package through toril's async proxy, and through what knows no more than proxq does."""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest

from tests.support.endpoint import Answer, Call, Endpoint, in_chunks, reply_json, respond
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


async def test_giving_up_cancels_the_job(start_endpoint: Callable[..., Endpoint]) -> None:
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


def test_an_answer_without_the_source_is_the_answer(start_endpoint: Callable[..., Endpoint]) -> None:
    """Also a 202 of the upstream's own."""
    server = start_endpoint(lambda _: reply_json(completion("direct"), 202, "Accepted"))
    with openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client:
        assert ask(client, "hello").choices[0].message.content == "direct"
    assert len(server.calls) == 1


def test_a_refusal_of_the_proxys_own_is_the_answer(start_endpoint: Callable[..., Endpoint]) -> None:
    body = b'{"code":"PAYLOAD_TOO_LARGE","message":"Payload Too Large"}'
    server = start_endpoint(lambda _: respond(413, "No", [("x-proxq-source", "proxq")], body))
    with (
        openai_client(server.at("/v1"), api_key="sk-1", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        ask(client, "hello")
    assert raised.value.status_code == 413


def test_it_works_with_plain_httpx_too(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": "completed"}], content=respond(418, "Teapot", [("x-a", "b")], b"short"))
    server = start_endpoint(original)
    with httpx.Client(transport=ProxqTransport(server.at("/__jobs"))) as client:
        answered = client.post(server.at("/any"), json={"stream": False})
    assert (answered.status_code, answered.content, answered.headers["x-a"]) == (418, b"short", "b")


async def test_it_works_with_plain_httpx_in_async_code_too(start_endpoint: Callable[..., Endpoint]) -> None:
    original = Original([{"status": "completed"}], content=respond(418, "Teapot", [("x-a", "b")], b"short"))
    server = start_endpoint(original)
    async with httpx.AsyncClient(transport=AsyncProxqTransport()) as client:
        answered = await client.post(server.at("/any"), json={})
    assert (answered.status_code, answered.content) == (418, b"short")
