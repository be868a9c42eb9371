import errno
import socket
from typing import Any

import pytest

from toril.peer_address import unmapped
from toril.server import bind, url_of


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_the_address_of_all_is_that_of_both_families() -> None:
    with bind("::", 0) as listening:
        port = listening.getsockname()[1]
        assert (connects("127.0.0.1", port), connects("::1", port)) == (True, True)
        assert url_of(listening) == f"http://[::1]:{port}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_any_other_address_is_that_address() -> None:
    with bind("::1", 0) as listening:
        port = listening.getsockname()[1]
        assert (connects("127.0.0.1", port), connects("::1", port)) == (False, True)


@pytest.mark.parametrize(
    "fault",
    [ValueError("dualstack_ipv6 not supported on this platform"), OSError(errno.EAFNOSUPPORT, ""),
     OSError(errno.EADDRNOTAVAIL, "")],
)  # fmt: skip
def test_without_ipv6_the_address_of_all_is_every_ipv4_address(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    create = socket.create_server

    def without_ipv6(*given: Any, **options: Any) -> socket.socket:
        if options["family"] == socket.AF_INET6:
            raise fault
        return create(*given, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with bind("::", 0) as listening:
        assert connects("127.0.0.1", listening.getsockname()[1])


def test_a_port_that_is_taken_is_taken_for_both_families() -> None:
    with bind("::", 0) as listening, pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        bind("::", listening.getsockname()[1])


def test_an_ipv4_client_of_a_socket_for_both_families_has_its_own_address() -> None:
    assert unmapped(("::ffff:10.1.2.3", 80)) == ("10.1.2.3", 80)
    assert unmapped(("::1", 80)) == ("::1", 80)
    assert unmapped(("10.1.2.3", 80)) == ("10.1.2.3", 80)
    assert unmapped(None) is None
