"""A WebSocket client that costs next to nothing: blocking, frames packed ahead, a mask of zeros."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Iterator

_ZERO_MASK = b"\0\0\0\0"
_CHUNK_BYTES = 1 << 18


def frame(payload: bytes) -> bytes:
    """One text frame as a client sends it. Masked with zeros, which leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, 0x80 | size) + _ZERO_MASK + payload
    if size < 65536:
        return struct.pack("!BBH", 0x81, 0x80 | 126, size) + _ZERO_MASK + payload
    return struct.pack("!BBQ", 0x81, 0x80 | 127, size) + _ZERO_MASK + payload


class FrameClient:
    """One WebSocket on loopback."""

    def __init__(self, port: int, path: str, token: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\nauthorization: Bearer {token}\r\n\r\n".encode()
        )
        self._buffer = b""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            status = head.partition(b"\r\n")[0].decode()
            raise ConnectionError(f"no WebSocket at {path}: {status}")

    def send(self, frames: bytes) -> None:
        """Send what `frame` has packed."""
        self.socket.sendall(frames)

    def receive(self) -> Iterator[bytes]:
        """The payloads of the frames that are there, at least one; pings are answered."""
        found: list[bytes] = []
        while not found:
            found = list(self._frames())
            if not found:
                self._buffer += self._more()
        yield from found

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _more(self) -> bytes:
        data = self.socket.recv(_CHUNK_BYTES)
        if not data:
            raise ConnectionError("the server has closed the WebSocket")
        return data

    def _frames(self) -> Iterator[bytes]:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size == 126:
                if len(buffer) < at + 4:
                    break
                size, start = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
            elif size == 127:
                if len(buffer) < at + 10:
                    break
                size, start = int.from_bytes(buffer[at + 2 : at + 10]), at + 10
            if len(buffer) < start + size:
                break
            payload = buffer[start : start + size]
            if buffer[at] == 0x89:  # a ping
                self.socket.sendall(b"\x8a" + bytes((0x80 | size,)) + _ZERO_MASK + payload)
            else:
                yield payload
            at = start + size
        self._buffer = buffer[at:]
