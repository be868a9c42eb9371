"""WebSockets of a toril under test, as a client in any language would speak them."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.gateway import TOKEN

WAIT_S = 10.0


class SocketClient:
    """One WebSocket. Messages are JSON both ways."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._ids = 0

    def send(self, message: Any) -> None:
        """Send one message; text goes out as it is."""
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def receive(self, timeout_s: float = WAIT_S) -> Any:
        """The next message, decoded."""
        return json.loads(self.connection.recv(timeout=timeout_s))

    def command(self, fn: str, *args: Any) -> Any:
        """Send one command and return what its answer holds."""
        self._ids += 1
        self.send({"id": self._ids, "data": {"fn": fn, "args": list(args)}})
        answer = self.receive()
        assert answer["id"] == self._ids
        return answer["err"] if "err" in answer else answer["data"]

    def jobs(self, count: int) -> list[Any]:
        """The next jobs that are sent to this worker."""
        messages = [self.receive() for _ in range(count)]
        assert all(message["data"]["type"] == "process" for message in messages), messages
        return messages

    def finish(self, message: Any, result: Any = "done") -> None:
        """Complete a job that came."""
        self.send({"id": message["id"], "data": {"result": result}})

    def work(self, do: Callable[[Any], Any], until: Callable[[], bool]) -> None:
        """Complete jobs with what `do` makes of their payload, until something holds."""
        while not until():
            try:
                message = self.receive(0.1)
            except TimeoutError:
                continue
            self.finish(message, do(message["data"]["payload"]))

    def closed(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the close; its code. Messages that come before are dropped."""
        try:
            while True:
                self.connection.recv(timeout=timeout_s)
        except ConnectionClosed as exc:
            return exc.rcvd.code if exc.rcvd is not None else 1006

    def is_quiet(self, for_s: float = 0.3) -> bool:
        """Whether nothing comes."""
        try:
            self.connection.recv(timeout=for_s)
        except TimeoutError:
            return True
        return False

    def drop(self) -> None:
        """Cut the connection without a closing handshake."""
        self.connection.socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self


@contextmanager
def socket_to(url: str, path: str, token: str | None = TOKEN, **options: Any) -> Iterator[SocketClient]:
    """Open a WebSocket of a toril for the length of a block."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with connect(
        url.replace("http://", "ws://") + path, additional_headers=headers, proxy=None, max_size=None, **options
    ) as connection:
        yield SocketClient(connection)
