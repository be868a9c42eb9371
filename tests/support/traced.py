"""A caller with a trace, and what makes a toril traced."""

from tests.support.endpoint import Call
from tests.support.otlp import OtlpReceiver

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CALLERS_TRACE, CALLERS_SPAN = CALLER.split("-")[1:3]


def traced(receiver: OtlpReceiver) -> dict[str, str]:
    """The environment of a toril that is traced."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


def parent_of(call: Call) -> tuple[str, str]:
    """The trace and the span that a call brought."""
    header = call.header("traceparent")
    assert header is not None
    return (header.split("-")[1], header.split("-")[2])
