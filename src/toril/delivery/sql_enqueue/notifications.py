"""Hears of new rows and jobs by `LISTEN`, over a connection of PostgreSQL that it opens again when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog

from toril.core.errors import StoreError
from toril.delivery.ledger.postgres_errors import translated

log = structlog.get_logger(__name__)

_CONNECT_S = 5.0
_CHECK_S = 10.0
_AGAIN_S = 1.0


class PostgresNotifications:
    """Listens to one channel of a database.

    Args:
        url: the database; not through a pooler, where a connection is not one session.
        channel: its name.
        heard: called with the text of each notification.
        missed: called when the connection is there, or there again: notifications may have been missed.
        name: the connection's name in `pg_stat_activity`.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        heard: Callable[[str], None],
        missed: Callable[[], None],
        name: str = "toril:listening",
    ) -> None:
        self._url = url
        self._channel = channel
        self._heard = heard
        self._missed = missed
        self._name = name

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                with translated():
                    await self._listen()
            except StoreError as exc:
                log.debug("postgres.not_listening", channel=self._channel, error=exc.message)
            await asyncio.sleep(_AGAIN_S)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(
            self._url,
            timeout=_CONNECT_S,
            statement_cache_size=0,
            server_settings={"application_name": self._name},
        )
        broken = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: broken.set())
            await connection.add_listener(self._channel, lambda *told: self._heard(told[-1]))
            self._missed()
            while not broken.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK_S):
                        await broken.wait()
                        return
                await connection.execute("SELECT 1", timeout=_CONNECT_S)  # a connection may break without a word
        finally:
            connection.terminate()
