from collections.abc import AsyncIterator

import pytest_asyncio

from toril.testing import FakeClock


@pytest_asyncio.fixture
async def clock() -> AsyncIterator[FakeClock]:
    """Virtual time for the whole test: sleeping takes none."""
    fake = FakeClock()
    with fake.driving():
        yield fake
