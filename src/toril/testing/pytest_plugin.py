"""Fixtures for pytest: a gateway for all tests of a session, and a queue for each test. toril brings them along."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from toril.testing.running_gateway import FreshQueue, RunningGateway


@pytest.fixture(scope="session")
def toril_config() -> str:
    """Return the configuration of `toril_gateway` in YAML: none. Override it to have your targets and upstreams.

    `$TORIL_URL` in it stands for the gateway's own address: `$TORIL_URL/inspect/warehouse` is a target to look into.
    """
    return ""


@pytest.fixture(scope="session")
def toril_gateway(tmp_path_factory: pytest.TempPathFactory, toril_config: str) -> Iterator[RunningGateway]:
    """Start a toril with an embedded store, once a session. It has `url`, `token`, and an inspector."""
    with RunningGateway(tmp_path_factory.mktemp("toril"), toril_config) as gateway:
        yield gateway


@pytest.fixture
def toril_queue(toril_gateway: RunningGateway) -> Iterator[FreshQueue]:
    """Return a queue that no other test uses; it goes with the test. It has `name`, `add`, `register` and `drain`."""
    queue = toril_gateway.queue(f"test-{uuid.uuid4().hex[:12]}")
    yield queue
    queue.remove()
