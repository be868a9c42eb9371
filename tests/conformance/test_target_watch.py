"""What instances tell of one breaker, also late, is told once each: in a real Valkey."""

import asyncio
import time

from tests.conformance.bullmq.links import address_of, up
from tests.support.valkey import ValkeyProcess
from toril.core.operator_event import OperatorEvent
from toril.delivery.events.target_watch import TargetWatch
from toril.delivery.redis_breakers import RedisBreakers
from toril.delivery.rules.breaker import BreakerState, FailedAttempt
from toril.delivery.rules.target import BreakerPolicy
from toril.telemetry.redis_conditions import RedisConditions

POLICY = BreakerPolicy(failures=1, open_for_s=0.02)


async def test_what_an_instance_is_late_to_tell_of_a_breaker_is_no_new_fact(valkey: ValkeyProcess, queue: str) -> None:
    told: set[tuple[str, float]] = set()

    def tell(event: OperatorEvent) -> None:
        told.add((event.type, event.at_s))

    async with up(address_of(valkey)) as link:
        breakers, conditions = RedisBreakers(link, queue), RedisConditions(link, queue)
        prompt, late = (TargetWatch(lambda: (), breakers, conditions, tell, time.time, lambda: None) for _ in range(2))

        async def closes() -> None:
            await asyncio.sleep(0.03)
            await breakers.admit("billing", POLICY, "probe", 5.0)
            late.breaker_changed("billing", await breakers.passed("billing", POLICY, "probe"))

        opened = await breakers.failed("billing", POLICY, FailedAttempt("one"))
        assert opened.state is BreakerState.OPEN
        prompt.breaker_changed("billing", opened)
        await prompt.look()
        await closes()
        await late.look()
        assert sorted(kind for kind, _ in told) == ["breaker.closed", "breaker.opened"]
        late.breaker_changed("billing", opened)
        await late.look()
        assert len(told) == 2, "it has closed since"

        prompt.breaker_changed("billing", await breakers.failed("billing", POLICY, FailedAttempt("two")))
        await prompt.look()
        await closes()
        prompt.breaker_changed("billing", await breakers.failed("billing", POLICY, FailedAttempt("three")))
        await prompt.look()
        await late.look()
        await prompt.look()
        assert sorted(kind for kind, _ in told) == ["breaker.closed", "breaker.opened", "breaker.opened"]
