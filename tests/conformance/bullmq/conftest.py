from collections.abc import AsyncIterator

import pytest

from tests.conformance.holding import held
from tests.conformance.worlds import RealWorld, real_world
from tests.support.valkey import ValkeyProcess


@pytest.fixture
async def world(valkey: ValkeyProcess, queue: str) -> AsyncIterator[RealWorld]:
    """A queue on the shared Valkey, and what works on it."""
    async for made in held(real_world(valkey, queue)):
        yield made
