"""OpenTelemetry's SDK, imported here and nowhere else: what reads the `OTEL_*` variables and sends OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from toril.core.http.headers import Header
from toril.telemetry.tracing.spans import Attributes, Kind, SpanOrigin

_FLUSH_MS = 3000
_KINDS: dict[Kind, trace.SpanKind] = {
    "server": trace.SpanKind.SERVER,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
    "client": trace.SpanKind.CLIENT,
}


class _Ids(RandomIdGenerator):
    """Makes the ids of spans: random ones, or those of the origin that is set."""

    def __init__(self) -> None:
        self.origin: SpanOrigin | None = None

    def generate_span_id(self) -> int:
        """Part of the SDK's generators."""
        return super().generate_span_id() if self.origin is None else self.origin.span_id

    def generate_trace_id(self) -> int:
        """Part of the SDK's generators."""
        return super().generate_trace_id() if self.origin is None else self.origin.trace_id


class Sdk:
    """A provider of spans, which sends them in batches from a thread. Nothing global is changed."""

    def __init__(self, version: str) -> None:
        resource = Resource.create({"service.version": version})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):  # the environment names none
            resource = resource.merge(Resource({"service.name": "toril"}))
        self._ids = _Ids()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.empty = context.Context()
        self.propagator = TraceContextTextMapPropagator()
        self._tracer = self._provider.get_tracer("toril", version)

    def close(self) -> None:
        """Send what is left, within seconds."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def start(
        self,
        kind: Kind,
        name: str,
        attributes: Attributes,
        parent: Iterable[Header],
        *,
        linked: bool,
        origin: SpanOrigin | None,
    ) -> _OpenSpan:
        """As `Tracer.start`."""
        carrier = {key.decode(): value.decode("latin-1") for key, value in parent}
        before = self.propagator.extract(carrier, context=self.empty)
        links = []
        if linked:
            found = trace.get_current_span(before).get_span_context()
            links = [trace.Link(found)] if found.is_valid else []
            before = self.empty
        began_ns = origin.began_ms * 1_000_000 if origin is not None and origin.began_ms else None
        self._ids.origin = origin
        span = self._tracer.start_span(name, before, _KINDS[kind], dict(attributes), links, began_ns)
        self._ids.origin = None
        return _OpenSpan(self, span, carrier.get("baggage", ""))


class _OpenSpan:
    """A span of the SDK, and the baggage that goes on with it."""

    __slots__ = ("_baggage", "_sdk", "_span")

    def __init__(self, sdk: Sdk, span: trace.Span, baggage: str) -> None:
        self._sdk = sdk
        self._span = span
        self._baggage = baggage

    def context(self) -> list[Header]:
        """As `Span.context`."""
        carrier: dict[str, str] = {}
        self._sdk.propagator.inject(carrier, trace.set_span_in_context(self._span, self._sdk.empty))
        if self._baggage:
            carrier["baggage"] = self._baggage
        return [(name.encode(), value.encode("latin-1")) for name, value in carrier.items()]

    def rename(self, name: str, attributes: Attributes) -> None:
        """As `Span.rename`."""
        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))

    def end(self, attributes: Attributes | None = None, error: str | None = None) -> None:
        """As `Span.end`."""
        if attributes:
            self._span.set_attributes(dict(attributes))
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR))
        self._span.end()
