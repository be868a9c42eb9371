"""When spans are made: what the standard variables say."""

import importlib.util

import pytest
from structlog.testing import capture_logs

from toril.telemetry.tracing.open_telemetry import tracer_of

ASKED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "x"},
        ASKED | {"OTEL_SDK_DISABLED": " TRUE"},
        ASKED | {"OTEL_TRACES_EXPORTER": "none"},
        ASKED | {"OTEL_TRACES_EXPORTER": "console"},
        ASKED | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        ASKED | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ],
)
def test_no_spans_are_made_unless_they_are_asked_for(env: dict[str, str]) -> None:
    assert tracer_of(env, "1") is None


@pytest.mark.parametrize(
    "env",
    [
        ASKED,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        ASKED | {"OTEL_SDK_DISABLED": "false"},
    ],
)
def test_an_endpoint_asks_for_spans(env: dict[str, str]) -> None:
    tracer = tracer_of(env, "1")
    assert tracer is not None
    tracer.close()


def test_it_is_said_where_the_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with capture_logs() as logs:
        assert tracer_of(ASKED, "1") is None
    assert [(line["event"], line["reason"]) for line in logs] == [("traces.off", "not installed")]
