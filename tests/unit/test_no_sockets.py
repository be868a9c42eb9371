"""The fixture that keeps unit tests off the network."""

import asyncio
import socket

import pytest


def test_a_unit_test_that_opens_a_socket_fails() -> None:
    with pytest.raises(AssertionError, match="opened a socket"):
        socket.create_server(("127.0.0.1", 0))
    with pytest.raises(AssertionError, match="opened a socket"):
        socket.socket(socket.AF_UNIX)


def test_a_unit_test_that_looks_up_a_name_fails() -> None:
    with pytest.raises(AssertionError, match="looked up 'localhost'"):
        socket.create_connection(("localhost", 1))


async def test_a_unit_test_that_connects_by_the_event_loop_fails() -> None:
    with pytest.raises(AssertionError, match="opened a socket"):
        await asyncio.open_connection("127.0.0.1", 1)
