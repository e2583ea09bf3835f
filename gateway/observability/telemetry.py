"""OpenTelemetry traces: spans of requests and replays, sampled, sent by OTLP over HTTP from a thread of their own.

Importing this module needs the OpenTelemetry packages (the extra ``otel``); nothing else in the product imports them.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.observability.logs import event, mask

logger = logging.getLogger(__name__)
# Of a collector that is away they say so at every batch; the exporter here says it once.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

BATCH_MILLIS: Final = 1000
EXPORT_SECONDS: Final = 3.0
CLOSE_SECONDS: Final = 3.0
QUEUE_SPANS: Final = 4096
TEXT_CHARACTERS: Final = 200

FIELDS: Final = ("stream", "transport", "tenant", "plan", "client_id", "issuer", "session")
"""What a span takes over from the request's access line. A list of what may go, so that nothing else does."""

NOTES: Final = {"status": "http.response.status_code", "records": "gateway.records", "bytes": "gateway.bytes"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Telemetry:
    """Makes spans, and sends those of sampled traces. Implements the middleware's ``Tracer``."""

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str],
        sample_ratio: float,
        service_name: str,
        version: str,
        trusted_callers: Sequence[str] = (),
    ) -> None:
        """``endpoint`` is the collector's base address, before ``/v1/traces``. ``trusted_callers``: addresses and
        networks whose ``traceparent`` counts, and with it their decision to sample."""
        exporter = OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces",
            headers=dict(headers),
            timeout=EXPORT_SECONDS,
            compression=Compression.Gzip,
        )
        self._exporter = _Exporter(exporter)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": service_name, "service.version": version}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=BATCH_MILLIS)
        )
        self._tracer = self._provider.get_tracer("gateway", version)
        self._propagator = TraceContextTextMapPropagator()
        self._trusted: tuple[Network, ...] = tuple(ipaddress.ip_network(one, strict=False) for one in trusted_callers)

    def begin(self, scope: Mapping[str, Any], fields: Mapping[str, object], /) -> RequestSpan | None:
        """See ``gateway.transport.middleware.Tracer``."""
        span = self._tracer.start_span("request", context=self._caller(scope), kind=trace.SpanKind.SERVER)
        return RequestSpan(self._tracer, span, scope, fields) if span.is_recording() else None

    def counts(self) -> Mapping[str, int]:
        """Spans sent, and spans that the collector did not take."""
        return {"exported": self._exporter.exported, "dropped": self._exporter.dropped}

    def reaches_collector(self) -> bool:
        """Whether the collector takes an empty batch now. Blocks for ``EXPORT_SECONDS`` at most."""
        return self._exporter.inner.export(()) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Send what is left. Blocks for ``CLOSE_SECONDS`` at most; what a collector that is away missed is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="telemetry-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            self._exporter.shutdown()

    def _caller(self, scope: Mapping[str, Any]) -> Context:
        """The trace this request belongs to, where a caller we trust says so; else the root of a new one."""
        nobody = Context()
        sent = [bytes(value).decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"]
        client = scope.get("client")
        if len(sent) != 1 or not self._trusted or client is None:
            return nobody
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            # A Unix socket's peer has no address.
            return nobody
        address = getattr(address, "ipv4_mapped", None) or address
        if not any(address in network for network in self._trusted):
            return nobody
        return self._propagator.extract({"traceparent": sent[0]}, context=nobody)


class _Span:
    """One recorded span, of a request or of a part of one."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span, fields: Mapping[str, object]) -> None:
        self._tracer = tracer
        self._span = span
        self._fields = fields

    def child(self, name: str) -> _Span:
        context = trace.set_span_in_context(self._span, Context())
        return _Span(self._tracer, self._tracer.start_span(name, context=context), self._fields)

    def note(self, name: str, value: str | int | float, /) -> None:
        if name in NOTES:
            self._span.set_attribute(NOTES[name], _bounded(value))

    def end(self, code: str = "") -> None:
        if not self._span.is_recording():
            return
        for name in FIELDS:
            value = self._fields.get(name)
            if isinstance(value, str):
                self._span.set_attribute(f"gateway.{name}", _bounded(value))
        if code:
            self._span.set_attribute("gateway.code", code)
        if code == "internal":
            self._span.set_status(trace.Status(trace.StatusCode.ERROR))
        self._span.end()


class RequestSpan(_Span):
    """The span of a whole request: ``connect`` for a stream until it flows, ``pull`` for a page, else by its route."""

    def __init__(
        self, tracer: trace.Tracer, span: trace.Span, scope: Mapping[str, Any], fields: Mapping[str, object]
    ) -> None:
        super().__init__(tracer, span, fields)
        self._scope = scope

    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def end(self, code: str = "") -> None:
        if not self._span.is_recording():
            return
        # The pattern, never the path: that is the client's word.
        route = str(getattr(self._scope.get("route"), "path", "unmatched"))
        transport = self._fields.get("transport")
        self._span.update_name(route if transport is None else "pull" if transport == "pull" else "connect")
        self._span.set_attribute("http.route", route)
        correlation_id = self._scope.get("state", {}).get("correlation_id")
        if correlation_id is not None:
            self._span.set_attribute("gateway.correlation_id", _bounded(correlation_id))
        super().end(code)


class _Exporter(SpanExporter):
    """Counts what the collector takes, and says when it is away and when it is back: once each."""

    def __init__(self, inner: SpanExporter) -> None:
        self.inner = inner
        self._away = False
        self._closed = False
        self.exported = 0
        self.dropped = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self.inner.export(spans)
        taken = result is SpanExportResult.SUCCESS
        if taken:
            self.exported += len(spans)
        else:
            self.dropped += len(spans)
        if self._away and taken:
            event(logger, logging.INFO, "telemetry_back", dropped=self.dropped)
        elif not taken and not self._away:
            event(logger, logging.WARNING, "telemetry_away", dropped=self.dropped)
        self._away = not taken
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self.inner.shutdown()


def _bounded(value: str | int | float) -> str | int | float:
    """A value as a collector may keep it: short, and without what looks like a credential."""
    return mask(value[:TEXT_CHARACTERS]) if isinstance(value, str) else value
