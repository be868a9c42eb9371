"""What is measured of every request, whichever door it comes in by: its labels, which nobody outside can add to.

REST routes are observed by `toril.gateway.app`. What the async proxy answers is sent from many places, so there `send`
itself is measured.
"""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter

from starlette.types import Message, Send

from toril.core.metrics import OTHER, REQUEST_SECONDS
from toril.core.ports.shared import Meter
from toril.gateway.sourced import is_own

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods that are told apart; any other one is `other`."""
NO_ROUTE = "none"
NO_ANSWER = "none"
# Made once: a text for each answer would cost as much as counting it.
CLASSES = {status: f"{status // 100}xx" for status in range(100, 600)}
"""The class of a status that is toril's own."""
_UPSTREAM_CLASSES = {status: f"upstream_{status // 100}xx" for status in range(100, 1000)}
_METHODS = {method: method for method in METHODS}


def method_label(method: str) -> str:
    """A method as a label."""
    return _METHODS.get(method, OTHER)


class Measured:
    """`send` of one request to the async proxy, measured from now to the head of its answer.

    What comes behind the head takes as long as client and upstream like, a stream of events for days, so it is not
    measured. An answer that is an upstream's, replayed or passed through, is told from toril's own, since whatever its
    status, it is no fault of toril's. `route` is where the request goes, as soon as that is known; `began` is when it
    came (as `perf_counter` has it), and `begun` says whether the head of its answer is out.
    """

    __slots__ = ("_meter", "_method", "_send", "began", "begun", "route")

    def __init__(self, meter: Meter, method: str, send: Send) -> None:
        self.route = NO_ROUTE
        self.begun = False
        self._meter = meter
        self._method = method
        self._send = send
        self.began = perf_counter()

    def __call__(self, message: Message) -> Awaitable[None]:
        """Part of ASGI."""
        if not self.begun and "status" in message:
            self.begun = True
            classes = CLASSES if is_own(message["headers"]) else _UPSTREAM_CLASSES
            self._observe(classes.get(message["status"], OTHER))
        return self._send(message)

    def own(self, status: int) -> Send:
        """What sends an answer of toril's own with this status: half the cost, since nothing is to be found out."""
        self.begun = True
        self._observe(CLASSES[status])
        return self._send

    def end(self) -> None:
        """The request is over. One that has got no answer, because its client hung up, is counted all the same."""
        if not self.begun:
            self._observe(NO_ANSWER)

    def _observe(self, status: str) -> None:
        labels = (_METHODS.get(self._method, OTHER), self.route, status)
        self._meter.observe(REQUEST_SECONDS, labels, perf_counter() - self.began)
