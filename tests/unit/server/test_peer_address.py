from toril.server.peer_address import unmapped


def test_an_ipv4_client_of_a_dual_stack_socket_has_its_ipv4_address() -> None:
    assert unmapped(("::ffff:10.1.2.3", 80)) == ("10.1.2.3", 80)
    assert unmapped(("::1", 80)) == ("::1", 80)
    assert unmapped(("10.1.2.3", 80)) == ("10.1.2.3", 80)
    assert unmapped(None) is None
