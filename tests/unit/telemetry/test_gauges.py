from toril.core.metrics import BREAKER_OPEN
from toril.telemetry.gauges import Gauges
from toril.testing import FakeMeter


def test_a_gauge_has_the_value_that_it_was_set_to_last() -> None:
    meter = FakeMeter()
    gauges = Gauges(meter)
    billing, email = ("deliver-billing",), ("deliver-email",)
    for value in (0.0, 3.0, 1.0, 1.0):
        gauges.set(BREAKER_OPEN, billing, value)
        gauges.set(BREAKER_OPEN, email, 2 * value)
        assert meter.counts == {(BREAKER_OPEN, billing): value, (BREAKER_OPEN, email): 2 * value}
