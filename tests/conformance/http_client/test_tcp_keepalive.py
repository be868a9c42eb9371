"""TCP keepalive, on sockets that need not be connected."""

import asyncio
import socket

from toril.http_client.tcp_keepalive import detect_dead_peer


class Transport(asyncio.Transport):
    """Has this socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})


def test_tcp_keepalive_probes_are_enabled() -> None:
    with socket.socket() as sock:
        detect_dead_peer(Transport(sock))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


def test_a_socket_that_is_closed_already_raises_nothing() -> None:
    sock = socket.socket()
    sock.close()
    detect_dead_peer(Transport(sock))


def test_a_socket_of_another_family_is_left_alone() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        detect_dead_peer(Transport(sock))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
