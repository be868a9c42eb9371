"""The endpoint misbehaves as told; otherwise the tests built on it prove nothing."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support import endpoint as answers
from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint
from tests.support.waiting import eventually


def test_a_call_is_recorded_as_it_arrived(endpoint: Endpoint) -> None:
    httpx.put(endpoint.at("/a%20b?c=%2F"), content=b'{"n": 1}', headers={"X-Mixed-Case": "v"})
    (call,) = endpoint.calls
    assert (call.method, call.target, call.json) == ("PUT", "/a%20b?c=%2F", {"n": 1})
    assert ("X-Mixed-Case", "v") in call.headers
    assert abs(call.at - time.time()) < 5


def test_a_request_body_may_come_in_chunks_and_on_a_kept_connection(endpoint: Endpoint) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            client.post(endpoint.url, content=iter([b"ab", b"c" * 100_000]))
    assert [len(call.body) for call in endpoint.calls] == [100_002] * 3


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (answers.reply_json({"a": 1}), 200, '{"a": 1}'),
        (answers.no_content(), 204, ""),
        (answers.in_chunks([b"ab", b"cd"]), 200, "abcd"),
        (answers.huge(200_000), 200, "x" * 200_000),
        (answers.no_reason(503, space=False), 503, ""),
    ],
)
def test_an_answer_arrives_as_written(start_endpoint: StartEndpoint, answer: Answer, status: int, text: str) -> None:
    got = httpx.post(start_endpoint(lambda _: answer).url)
    assert (got.status_code, got.text) == (status, text)


@pytest.mark.parametrize("answer", [answers.drop(), answers.cut(), answers.garbage()])
def test_a_broken_answer_breaks_the_client(start_endpoint: StartEndpoint, answer: Answer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(start_endpoint(lambda _: answer).url)


@pytest.mark.parametrize("answer", [answers.hang(), answers.hang_in_body()])
def test_a_hung_call_is_gone_when_the_client_hangs_up(start_endpoint: StartEndpoint, answer: Answer) -> None:
    endpoint = start_endpoint(lambda _: answer)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(endpoint.url, timeout=0.2)
    eventually(lambda: endpoint.gone(endpoint.calls[0]))
    assert endpoint.open_calls == 0


def test_concurrent_calls_are_counted_and_held_at_a_gate(start_endpoint: StartEndpoint) -> None:
    endpoint = start_endpoint()
    gate = endpoint.gate()

    async def behave(_: Call) -> Answer:
        await gate.passed()
        return answers.no_content()

    endpoint.behaviour = behave
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(httpx.post, endpoint.url) for _ in range(5)]
        endpoint.wait_for_calls(5)
        assert endpoint.open_calls == 5
        gate.open()
        assert [done.result().status_code for done in waiting] == [204] * 5
    assert endpoint.max_concurrent == 5
    assert endpoint.open_calls == 0
