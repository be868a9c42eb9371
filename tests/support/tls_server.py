"""A TLS server on blocking sockets: unlike asyncio's, it sends an alert to clients whose certificate it refuses."""

import socket
import ssl
import threading
from contextlib import suppress
from typing import Self


class TlsServer:
    """Answers 204 to each request of those that it accepts. `heads` are their requests, `refused` the others' faults.

    It waits for clients that it does not accept to go, as servers do that want their alert to arrive.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="tls-server", daemon=True)]
        self.heads: list[bytes] = []
        self.refused: list[str] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://localhost:{self._listener.getsockname()[1]}/"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,), name="tls-connection", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        secured = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._connections.append(secured)
        try:
            secured.do_handshake()
        except OSError as exc:
            self.refused.append(getattr(exc, "reason", None) or str(exc))
            with socket.socket(fileno=secured.detach()) as plain, suppress(OSError):
                while plain.recv(4096):
                    pass
            return
        with secured, suppress(OSError):
            received = b""
            while data := secured.recv(65_536):
                received += data
                head, found, _ = received.partition(b"\r\n\r\n")
                if found:
                    self.heads.append(head)
                    received = b""
                    secured.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
