"""What becomes of lines of the audit log while Redis is away. That they are kept is tested on a real one."""

import asyncio
from contextlib import suppress
from typing import Any

from structlog.testing import capture_logs

from tests.unit.proxy.test_description import BOTH, made
from toril.config.settings import Settings
from toril.core.errors import StoreUnavailable
from toril.delivery.ledger.policy import LedgerPolicy
from toril.delivery.rules.target import TargetSpec
from toril.testing import FakeClock
from toril.web.audit import is_change
from toril.web.audit_trail import KEPT, AuditTrail, RedisLines
from toril.web.routing import Route
from toril.web.shapes import AuditLine


def line(action: str) -> dict[str, Any]:
    return {"caller": "shop", "action": action, "status": 200}


class AwayLinks:
    """Links to a Redis that is away, until it is there."""

    def __init__(self) -> None:
        self.is_away = True
        self.written: list[bytes] = []

    def of(self, key: bytes) -> Any:
        return self

    async def pipeline(self, commands: list[bytes]) -> None:
        if self.is_away:
            raise StoreUnavailable
        self.written += commands


async def test_lines_are_lost_while_redis_is_away_and_that_is_said_once(monkeypatch: Any) -> None:
    links: Any = AwayLinks()
    trail = AuditTrail(RedisLines(links, "bull"), FakeClock())
    monkeypatch.setattr("toril.web.audit_trail._FLUSH_S", 0.001)
    with capture_logs() as logs:
        running = asyncio.create_task(trail.run())
        for number in range(5):
            trail.note(line(f"lost {number}"))
            while trail._new:
                await asyncio.sleep(0.001)
        links.is_away = False
        trail.note(line("kept"))
        while not links.written:
            await asyncio.sleep(0.001)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert [entry["event"] for entry in logs] == ["audit.not_kept"]
    assert b"kept" in links.written[0]
    assert b"lost" not in links.written[0]


def test_a_flood_of_lines_is_bounded() -> None:
    links: Any = AwayLinks()
    trail = AuditTrail(RedisLines(links, "bull"), FakeClock())
    for _ in range(KEPT + 5):
        trail.note(line("x"))
    assert len(trail._new) == KEPT


def test_a_line_has_a_field_for_each_name_in_the_path_of_a_change() -> None:
    target = TargetSpec(name="billing", url="http://inside.example")
    everything = made(Settings(proxy=BOTH, targets=(target,), ledger=LedgerPolicy(url="none")))
    routes = [one for one in everything.router.routes[0].app.routes if isinstance(one, Route) and is_change(one)]
    names = {name for one in routes for name in one.template.names}
    assert {"queue", "id"} <= names <= set(AuditLine.__struct_fields__)
