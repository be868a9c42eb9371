from typing import Any

import msgspec
import pytest

from toril.core.destination import OutboundRequest
from toril.core.errors import InvalidRequest
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.delivery.listening.messages import (
    ListenedAnswer,
    deliver_message,
    failure_of,
    outcome_of,
    read_listened_reply,
    reply_message,
)

HEAD = b"POST */orders?a=b HTTP/1.1\r\nhost: listener\r\nx-name: gr\xfcn\r\nx-empty: \r\ncontent-length: 3\r\n"


def payload(head: bytes, body: bytes = b"") -> dict[str, Any]:
    message = msgspec.json.decode(deliver_message(7, OutboundRequest(head, body, 1.5, b"job", framed=True), body))
    assert (message["id"], message["data"]["type"]) == (7, "deliver")
    found: dict[str, Any] = message["data"]["payload"]
    return found


def test_a_request_has_its_parts_without_host_and_framing() -> None:
    assert payload(HEAD, b"\x00\xff!") == {
        "job_id": "job",
        "method": "POST",
        "path": "/orders?a=b",
        "headers": [["x-name", "grün"], ["x-empty", ""]],
        "body": "AP8h",
        "timeout_ms": 1500,
    }


def test_no_path_and_no_body_are_null_and_an_empty_body_is_empty() -> None:
    bare = payload(b"GET * HTTP/1.1\r\nhost: listener\r\n")
    assert (bare["path"], bare["body"]) == (None, None)
    assert payload(b"POST */ HTTP/1.1\r\ncontent-length: 0\r\n")["body"] == ""


def test_an_answer_arrives_as_it_was() -> None:
    answer = ListenedAnswer(201, "Made", [("x-a", "grün")], b"\x00\xff", False)
    outcome = outcome_of(read_listened_reply(reply_message(1, answer)), 0.5, 100)
    assert outcome == Answered(201, "Made", [(b"x-a", "grün".encode("latin-1"))], b"\x00\xff", 0.5)
    cut = outcome_of(read_listened_reply(reply_message(1, answer)), 0.5, 1)
    assert isinstance(cut, Answered)
    assert (cut.body, cut.truncated) == (b"\x00", True)


@pytest.mark.parametrize(
    "outcome",
    [ConnectFailed("ENOTFOUND", "no such name", 0.5), CutOff("ECONNRESET", "it broke", 0.5), TimedOut("answer", 0.5)],
)
def test_a_failure_arrives_as_it_was(outcome: Outcome) -> None:
    assert outcome_of(read_listened_reply(reply_message(1, failure_of(outcome))), 0.5, 100) == outcome


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"null",
        b'{"id":1}',
        b'{"id":1,"data":{"status":200},"err":{"kind":"cut"}}',
        b'{"id":1,"data":{"status":199}}',
        b'{"id":1,"data":{"status":600}}',
        b'{"id":1,"data":{"status":"200"}}',
        b'{"id":1,"data":{"status":200,"body":"not base64!"}}',
        b'{"id":1,"data":{"status":200,"reason":"OK\\r\\nx: y"}}',
        b'{"id":1,"data":{"status":200,"headers":[["x","a\\r\\ny: z"]]}}',
        b'{"id":1,"data":{"status":200,"headers":[["a b","c"]]}}',
        '{"id":1,"data":{"status":200,"headers":[["x","\u20ac"]]}}'.encode(),
        b'{"id":1,"err":{"kind":"other"}}',
        b"[" * 100_000,
    ],
)
def test_what_no_answer_could_be_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_listened_reply(message)
