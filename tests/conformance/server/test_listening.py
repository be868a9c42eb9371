"""The sockets that a server listens on: IPv4 and IPv6 by one, or either."""

import errno
import socket
from typing import Any

import pytest

from toril.server.server import bind, bind_spread, keep_port, url_of


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_the_wildcard_address_listens_on_ipv4_and_ipv6() -> None:
    with bind("::", 0) as listening:
        port = listening.getsockname()[1]
        assert (connects("127.0.0.1", port), connects("::1", port)) == (True, True)
        assert url_of(listening) == f"http://[::1]:{port}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_a_specific_address_listens_on_that_address_only() -> None:
    with bind("::1", 0) as listening:
        port = listening.getsockname()[1]
        assert (connects("127.0.0.1", port), connects("::1", port)) == (False, True)


@pytest.mark.parametrize(
    "fault",
    [ValueError("dualstack_ipv6 not supported on this platform"), OSError(errno.EAFNOSUPPORT, ""),
     OSError(errno.EADDRNOTAVAIL, "")],
)  # fmt: skip
def test_without_ipv6_the_wildcard_address_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    create = socket.create_server

    def without_ipv6(*given: Any, **options: Any) -> socket.socket:
        if options["family"] == socket.AF_INET6:
            raise fault
        return create(*given, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with bind("::", 0) as listening:
        assert connects("127.0.0.1", listening.getsockname()[1])


def test_without_ipv6_addresses_the_processes_of_a_wildcard_address_spread_over_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """IPv6 is in the kernel and switched off: a socket for it can be made, and `::` cannot be bound."""
    create, bind_to = socket.create_server, socket.socket.bind

    class WithoutIpv6(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "")
            bind_to(self, address)

    def without_ipv6(*given: Any, **options: Any) -> socket.socket:
        if options["family"] == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "")
        return create(*given, **options)

    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with keep_port("::", 0) as kept:
        port = kept.getsockname()[1]
        with bind_spread("::", port) as one, bind_spread("::", port) as other:
            one.listen()
            other.listen()
            assert connects("127.0.0.1", port)


def test_a_port_in_use_in_one_family_is_refused_for_both() -> None:
    with bind("::", 0) as listening, pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        bind("::", listening.getsockname()[1])
