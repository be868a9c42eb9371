"""`/metrics`."""

from collections.abc import Callable

from tests.unit.web.asgi import request
from toril.core.access import Caller, Right
from toril.web.operations.metrics import MetricsRoutes


async def test_metrics_are_shown_as_far_as_the_caller_may_see_queues() -> None:
    class Shown:
        async def text(self, sees: Callable[[str], bool], accept: str = "") -> tuple[bytes, bytes]:
            return b"text/plain; version=0.0.4", f"ours {sees('ours')} theirs {sees('theirs')}{accept}".encode()

    asked = request("/metrics", caller=Caller("prometheus", frozenset({Right.METRICS_READ}), ("ours",)))
    answer = await MetricsRoutes(Shown()).metrics(asked)
    assert (answer.status_code, answer.headers["content-type"].encode()) == (200, b"text/plain; version=0.0.4")
    assert answer.body == b"ours True theirs False"
    asked = request("/metrics", headers=[(b"accept", b" and more")], caller=asked.caller)
    assert (await MetricsRoutes(Shown()).metrics(asked)).body.endswith(b"False and more")
