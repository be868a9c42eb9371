"""HTTP requests as bytes, for what a decent client refuses to send."""

import socket
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class RawAnswer:
    """The answer to a raw request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def request(
    port: int,
    method: str,
    target: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes | None = None,
    timeout_s: float = 10.0,
) -> RawAnswer:
    """Send the target exactly as given. ``content-length`` is added when there is a body."""
    lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return exchange(port, "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""), timeout_s)


def exchange(port: int, sent: bytes, timeout_s: float = 10.0, *, may_hang_up: bool = False) -> RawAnswer:
    """Send these bytes and read one answer, even if the server stops reading half-way.

    A server that may hang up without a word gets the status 0 for it.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            # When it has answered and hung up before reading all, the answer is still there to read.
            connection.sendall(sent)
        received = b""
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                received += chunk
    if may_hang_up and not received:
        return RawAnswer(0, {}, b"")
    return _parse(received)


def _parse(received: bytes) -> RawAnswer:
    head, found, body = received.partition(b"\r\n\r\n")
    assert found, f"no HTTP answer: {received[:200]!r}"
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return RawAnswer(int(status_line.split(" ")[1]), headers, body)
