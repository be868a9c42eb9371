"""Access tokens: kept until they end, one fetch at a time, and what is said where there is none."""

import asyncio

import msgspec
import pytest

from toril.core.destination import OutboundRequest
from toril.core.http.outbound_policy import ClientCredentials
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.http_client.access_tokens import AccessTokens

CLIENT = ClientCredentials(
    token_url="https://login.example/token?a=1",
    client_id="to:ril",
    secret_file="/s",
    secret="s&cret",
    scopes=("a", "b"),
)

INVALID = b'{"error": "invalid_client", "error_description": "s&cret"}'


class Server:
    """An OAuth server that answers with numbered tokens; while `busy` is set it waits."""

    def __init__(self, **answer: object) -> None:
        self.answer = {"token_type": "bearer", "expires_in": 3600} | answer
        self.outcome: Outcome | None = None
        self.requests: list[OutboundRequest] = []
        self.busy: asyncio.Event | None = None
        self.under_way = self.most = 0

    async def __call__(self, request: OutboundRequest) -> Outcome:
        self.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.busy is not None:
                await self.busy.wait()
        finally:
            self.under_way -= 1
        if self.outcome is not None:
            return self.outcome
        body = msgspec.json.encode({"access_token": f"t{len(self.requests)}"} | self.answer)
        return Answered(200, "OK", [], body, 0.1)


async def words(server: Server) -> str:
    found = await AccessTokens(CLIENT, server).token(1.0)
    assert isinstance(found, ConnectFailed)
    assert found.code == "ERR_AUTH"
    assert "s&cret" not in found.detail
    return found.detail.removeprefix("No access token: the OAuth server https://login.example/token ")


async def test_the_token_request_follows_the_oauth_specification() -> None:
    server = Server()
    assert await AccessTokens(CLIENT, server).token(1.0) == b"t1"
    (request,) = server.requests
    assert request.head == (
        b"POST /token?a=1 HTTP/1.1\r\nhost: login.example\r\n"
        b"authorization: Basic dG8lM0FyaWw6cyUyNmNyZXQ=\r\n"  # to%3Aril:s%26cret
        b"accept: application/json\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    )
    assert request.body == b"grant_type=client_credentials&scope=a+b"


async def test_concurrent_callers_share_one_token_fetch() -> None:
    server = Server()
    server.busy = asyncio.Event()
    tokens = AccessTokens(CLIENT, server)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(tokens.token(5.0)) for _ in range(20)]
        await asyncio.sleep(0)
        server.busy.set()
    assert {task.result() for task in waiting} == {b"t1"}
    assert await tokens.token(1.0) == b"t1"
    assert len(server.requests) == 1


async def test_concurrent_callers_share_one_failure_and_the_next_caller_fetches_again() -> None:
    server = Server()
    server.busy, server.outcome = asyncio.Event(), Answered(503, "No", [], b"", 0.1)
    tokens = AccessTokens(CLIENT, server)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(tokens.token(5.0)) for _ in range(20)]
        await asyncio.sleep(0)
        server.busy.set()
    assert all(isinstance(task.result(), ConnectFailed) for task in waiting)
    assert len(server.requests) == 1
    server.outcome = None
    assert await tokens.token(1.0) == b"t2"
    assert server.most == 1


async def test_a_caller_that_times_out_ends_its_fetch_and_the_next_caller_starts_another() -> None:
    server = Server()
    server.busy = asyncio.Event()
    tokens = AccessTokens(CLIENT, server)
    async with asyncio.TaskGroup() as tasks:
        impatient = tasks.create_task(tokens.token(0.01))
        await asyncio.sleep(0)
        patient = tasks.create_task(tokens.token(5.0))
        assert isinstance(await impatient, ConnectFailed)
        server.busy.set()
    assert patient.result() == b"t2"
    assert server.most == 1


async def test_a_token_that_has_ended_or_was_refused_is_fetched_again() -> None:
    server = Server(expires_in="0")
    tokens = AccessTokens(CLIENT, server)
    assert [await tokens.token(1.0), await tokens.token(1.0)] == [b"t1", b"t2"]
    server.answer["expires_in"] = 3600
    assert [await tokens.token(1.0), await tokens.token(1.0)] == [b"t3", b"t3"]
    tokens.refused(b"t1")
    assert await tokens.token(1.0) == b"t3", "an older one was refused"
    tokens.refused(b"t3")
    assert await tokens.token(1.0) == b"t4"


async def test_a_token_without_an_expiry_is_kept_until_it_is_refused() -> None:
    server = Server(expires_in=None)
    tokens = AccessTokens(CLIENT, server)
    assert [await tokens.token(1.0), await tokens.token(1.0)] == [b"t1", b"t1"]


async def test_a_new_secret_drops_the_token() -> None:
    server = Server()
    tokens = AccessTokens(CLIENT, server)
    assert await tokens.token(1.0) == b"t1"
    tokens.renew(msgspec.structs.replace(CLIENT, secret="other"))
    assert await tokens.token(1.0) == b"t2"
    assert server.requests[0].head != server.requests[1].head


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (
            Answered(401, "", [], INVALID, 0.1),
            "answered 401 invalid_client",
        ),
        (Answered(500, "", [], b"<html>s&cret", 0.1), "answered 500"),
        (Answered(400, "", [], b'{"error": "s&cret"}', 0.1), "answered 400"),
        (Answered(302, "", [(b"location", b"/login")], b"", 0.1), "answered 302"),
        (Answered(200, "", [], b"[1]", 0.1), "answered 200 with something that is no JSON object"),
        (Answered(200, "", [], b"\xff", 0.1), "answered 200 with something that is no JSON object"),
        (Answered(200, "", [], b"[" * 100_000, 0.1), "answered 200 with something that is no JSON object"),
        (TimedOut("answer", 10.0), "did not answer within 10 s (waiting for: answer)"),
        (ConnectFailed("ECONNREFUSED", "Nothing", 0.1), "cannot be asked: ECONNREFUSED: Nothing"),
        (CutOff("ERR_HTTP", "No HTTP", 0.1), "cannot be asked: ERR_HTTP: No HTTP"),
    ],
)
async def test_an_answer_without_a_token_is_reported_with_its_reason(outcome: Outcome, expected: str) -> None:
    server = Server()
    server.outcome = outcome
    assert await words(server) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"access_token": None}, "answered 200 without a usable access_token"),
        ({"access_token": "a\r\nx: y"}, "answered 200 without a usable access_token"),
        ({"access_token": ""}, "answered 200 without a usable access_token"),
        ({"token_type": "mac"}, "answered 200 with a token_type other than Bearer"),
        ({"token_type": None}, "answered 200 with a token_type other than Bearer"),
        ({"expires_in": "soon"}, "answered 200 with an expires_in that is no number of seconds"),
        ({"expires_in": -1}, "answered 200 with an expires_in that is no number of seconds"),
        ({"expires_in": True}, "answered 200 with an expires_in that is no number of seconds"),
        ({"expires_in": "Infinity"}, "answered 200 with an expires_in that is no number of seconds"),
        ({"expires_in": []}, "answered 200 with an expires_in that is no number of seconds"),
    ],
)
async def test_an_invalid_token_answer_is_reported_with_its_reason(answer: dict[str, object], expected: str) -> None:
    assert await words(Server(**answer)) == expected
