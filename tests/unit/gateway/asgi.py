"""ASGI without a server: scopes, bodies in pieces, and the answer."""

from collections.abc import Sequence
from typing import Any

from toril.gateway.app import Gateway
from toril.gateway.routing import Request

Messages = list[dict[str, Any]]
DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}


class Body:
    """`receive` of a request whose body comes in these pieces. `unread` is what nobody asked for."""

    def __init__(self, *pieces: bytes | dict[str, Any]) -> None:
        whole = pieces or (b"",)
        self.unread: Messages = [
            piece
            if isinstance(piece, dict)
            else {"type": "http.request", "body": piece, "more_body": number < len(whole)}
            for number, piece in enumerate(whole, 1)
        ]

    async def __call__(self) -> dict[str, Any]:
        assert self.unread, "asked for more than the client sent, which would wait for ever"
        return self.unread.pop(0)


def scope(
    method: str, path: str | bytes, query: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
) -> dict[str, Any]:
    """An HTTP scope as uvicorn makes it."""
    raw = path.encode() if isinstance(path, str) else path
    return {
        "type": "http",
        "method": method,
        "raw_path": raw,
        "path": raw.decode("latin-1"),
        "query_string": query,
        "headers": list(headers),
    }


def request(
    path: str | bytes = "/",
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Body | None = None,
) -> Request:
    """A request as a handler gets it."""
    asked = scope("POST", path, query, headers)
    return Request(asked, body or Body(), asked["raw_path"].split(b"/"))


class Answered:
    """What an application sent."""

    def __init__(self, sent: Messages) -> None:
        start, end = sent
        assert (start["type"], end["type"]) == ("http.response.start", "http.response.body")
        self.status: int = start["status"]
        self.headers: dict[bytes, bytes] = dict(start["headers"])
        self.body: bytes = end["body"]
        assert len(self.headers) == len(start["headers"]), "a header was sent twice"
        assert self.headers[b"content-length"] == b"%d" % len(self.body)


async def ask(app: Gateway, asked: dict[str, Any], body: Body | None = None) -> Answered:
    """Ask an application and read its whole answer."""
    sent: Messages = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(asked, body or Body(), send)
    return Answered(sent)
