"""Spans by OpenTelemetry's SDK, sent with OTLP over HTTP as the `OTEL_*` variables say. Needs the extra `toril[otel]`.

The SDK is imported only where these variables ask for traces, and nothing global is changed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import structlog

from toril.core.http.headers import Header
from toril.telemetry.tracing.spans import Attributes, Kind, Span, SpanOrigin, Tracer

if TYPE_CHECKING:
    from toril.telemetry.tracing.sdk import Sdk

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def tracer_of(env: Mapping[str, str], version: str) -> Tracer | None:
    """Return the tracer that the standard variables of the environment ask for; None without one."""
    if not any(env.get(name) for name in _ENDPOINTS) or env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if env.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return None
    protocol = next((env[name] for name in _PROTOCOLS if env.get(name)), _HTTP)
    if protocol != _HTTP:
        log.warning("traces.off", reason=f"OTLP by {protocol}", hint=f"only {_HTTP} is there")
        return None
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        log.warning("traces.off", reason="not installed", hint="OTEL_* ask for traces, which toril[otel] brings")
        return None
    return OpenTelemetryTracer(version)


class OpenTelemetryTracer:
    """Makes spans with a separate provider, which sends them in batches from a thread.

    It begins with the first span, since an application may be made and never run.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._sdk: Sdk | None = None

    def start(
        self,
        kind: Kind,
        name: str,
        attributes: Attributes,
        parent: Iterable[Header],
        *,
        linked: bool = False,
        origin: SpanOrigin | None = None,
    ) -> Span:
        """As `Tracer.start`."""
        if self._sdk is None:
            from toril.telemetry.tracing.sdk import Sdk  # noqa: PLC0415 - it is not installed everywhere

            self._sdk = Sdk(self._version)
        return self._sdk.start(kind, name, attributes, parent, linked=linked, origin=origin)

    def close(self) -> None:
        """As `Tracer.close`."""
        if self._sdk is not None:
            self._sdk.close()
            self._sdk = None
