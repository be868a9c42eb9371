"""Unit tests open no socket: a test that does fails. Tests on real servers stand in conformance and journeys."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings

from toril.testing import FakeClock

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/unit/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(90))


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every new socket and name look-up. An event loop's own pair of sockets is no network and stays allowed."""
    init = socket.socket.__init__

    def only_wrap(self: socket.socket, *args: Any, **options: Any) -> None:
        if len(args) < 4 and options.get("fileno") is None:  # the fourth is the descriptor of a socket that exists
            raise AssertionError("a unit test opened a socket: use a fake, or move it to tests/conformance")
        init(self, *args, **options)

    def refuse(*names: Any, **options: Any) -> None:
        raise AssertionError(f"a unit test looked up {names[0]!r}: use a fake, or move it to tests/conformance")

    monkeypatch.setattr(socket.socket, "__init__", only_wrap)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest_asyncio.fixture
async def clock() -> AsyncIterator[FakeClock]:
    """Virtual time for the whole test: sleeping takes none."""
    fake = FakeClock()
    with fake.driving():
        yield fake
