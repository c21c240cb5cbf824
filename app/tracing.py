"""Traces of OpenTelemetry, if the OTEL_* variables request them.

The only module that imports opentelemetry, and only when tracing starts: without it, a span costs a function
call. Attributes are ids, counts and codes, never parts of records.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import structlog

from app.logs import locate_error

if TYPE_CHECKING:
    from opentelemetry import context, trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

Kind = Literal["server", "consumer", "client", "internal"]
Attribute = str | int | float | bool

_SERVICE = "rapidbridge-receiver"
_PREFIX = "rapidbridge."
_FLUSH_TIMEOUT_S = 2.0
# Encoding blocks the process: 512 spans, the default, would stop all requests for 8 ms.
_MAX_BATCH = 64
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"

log = structlog.get_logger()


class Span(AbstractContextManager["Span"]):
    """A span that nobody records.

    traceparent: of the span, in the format of the W3C; "" without tracing.
    """

    traceparent = ""

    def set(self, **attributes: Attribute) -> None:
        """Add attributes; their names get the prefix `rapidbridge.`."""

    def fail(self, reason: str) -> None:
        """Mark the span as failed. reason: a code or the name of a class, never a message."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _RecordedSpan(Span):
    """A span of OpenTelemetry, current inside its block."""

    def __init__(self, span: "trace.Span", current: AbstractContextManager[Any]) -> None:
        self._span = span
        self._current = current
        self.traceparent = _format_traceparent(span)

    def set(self, **attributes: Attribute) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(_PREFIX + name, value)

    def fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415  # loaded by `start`

        self._span.set_status(Status(StatusCode.ERROR, reason))

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The message and the traceback may quote a record.
        if kind is not None:
            self.fail(kind.__name__)
        self._current.__exit__(None, None, None)


_NO_SPAN = Span()


class _Tracing:
    """The tracer of this process."""

    def __init__(self) -> None:
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer | None = None

    def start(self, process: str, variables: Mapping[str, str], *, version: str) -> None:
        """Start tracing if the variables request it. Call this after the fork.

        process: web or worker. variables: of the environment; the SDK reads the same ones by itself. A fault
        is logged: these variables are often set for all programs of a platform, and deliveries matter more.
        """
        if not is_requested(variables):
            return
        if problem := _find_problem(variables):
            log.error("traces.off", error=problem[0], hint=problem[1])
            return
        try:
            self._provider = _open_provider(process, variables, version)
        except ImportError:
            hint = "in the checkout, run: pip install -e '.[otel]', or unset the OTEL_* variables"
            log.error("traces.off", error="OpenTelemetry is not installed", hint=hint)
        except Exception as error:  # noqa: BLE001  # a variable that the SDK rejects must not stop deliveries
            # The message may quote a header with a token.
            fault = f"{type(error).__name__} at {locate_error(error)}"
            log.error("traces.off", error=fault, hint="correct the OTEL_* variables")
        else:
            self._tracer = self._provider.get_tracer(_SERVICE, version)
            log.info("traces.on", process=process)

    def stop(self) -> None:
        """Send the spans that wait, for 2 s at most."""
        provider, self._provider, self._tracer = self._provider, None, None
        if provider is not None:
            # A thread of its own: the SDK's own timeouts do not hold while it sends.
            flush = threading.Thread(target=provider.shutdown, name="flush of traces", daemon=True)
            flush.start()
            flush.join(_FLUSH_TIMEOUT_S)

    def start_span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        links: Sequence[str] = (),
        began_at: datetime | None = None,
        **attributes: Attribute,
    ) -> Span:
        """Return a new span, a context manager.

        parent, links: traceparents; invalid ones are ignored. parent: None for the current span, "" for none.
        began_at: None for now.
        """
        if self._tracer is None:
            return _NO_SPAN
        from opentelemetry import trace  # noqa: PLC0415  # loaded by `start`

        span = self._tracer.start_span(
            name,
            None if parent is None else _build_parent(parent),
            trace.SpanKind[kind.upper()],
            {_PREFIX + key: value for key, value in attributes.items()},
            [trace.Link(linked) for linked in map(_parse_traceparent, links) if linked],
            None if began_at is None else int(began_at.timestamp() * 1e6) * 1000,
        )
        current = trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        )
        return _RecordedSpan(span, current)

    def find_traceparent(self) -> str:
        """Return the traceparent of the current span; "" if there is none."""
        if self._tracer is None:
            return ""
        from opentelemetry import trace  # noqa: PLC0415  # loaded by `start`

        return _format_traceparent(trace.get_current_span())


tracing = _Tracing()


def is_requested(variables: Mapping[str, str]) -> bool:
    """Whether the OTEL_* variables request traces: by an exporter or an endpoint."""
    exporter = variables.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    is_disabled = variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return (
        not is_disabled
        and exporter != "none"
        and (exporter != "" or any(variables.get(name) for name in _ENDPOINTS))
    )


def _find_problem(variables: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the problem of the variables and its remedy."""
    exporter = variables.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in ("", "otlp", "console"):
        return "OTEL_TRACES_EXPORTER: not supported", "set it to otlp, console or none"
    protocol = next(filter(None, map(variables.get, _PROTOCOLS)), _HTTP)
    if exporter != "console" and protocol != _HTTP:
        return (
            f"{_PROTOCOLS[1]}: only {_HTTP} is supported",
            f"set {_PROTOCOLS[0]}={_HTTP}, and {_ENDPOINTS[0]} to a URL such as "
            "http://collector:4318/v1/traces",
        )
    return None


def _open_provider(process: str, variables: Mapping[str, str], version: str) -> "TracerProvider":
    """Return a provider that exports in the background; raises ImportError without the packages."""
    from opentelemetry import trace  # noqa: PLC0415  # all of these: only if tracing is on
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    attributes = {"service.version": version, _PREFIX + "process": process}
    named = variables.get("OTEL_SERVICE_NAME") or "service.name=" in variables.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    if not named:
        attributes["service.name"] = _SERVICE
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    batch = None if "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in variables else _MAX_BATCH
    provider.add_span_processor(BatchSpanProcessor(_open_exporter(variables), max_export_batch_size=batch))
    # For instrumentations of libraries, such as those that `opentelemetry-instrument` installs.
    trace.set_tracer_provider(provider)
    return provider


def _open_exporter(variables: Mapping[str, str]) -> "SpanExporter":
    if variables.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


def _build_parent(traceparent: str) -> "context.Context":
    """Return the context of a parent in another process; an empty one for a new trace."""
    from opentelemetry import context, trace  # noqa: PLC0415  # loaded by `start`

    root = context.Context()
    remote = _parse_traceparent(traceparent)
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), root) if remote else root


def _format_traceparent(span: "trace.Span") -> str:
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _parse_traceparent(text: str) -> "trace.SpanContext | None":
    """Return the span that a traceparent names; None if it is not valid."""
    from opentelemetry import trace  # noqa: PLC0415  # loaded by `start`

    if not (match := _TRACEPARENT.fullmatch(text)):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    parsed = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
    return parsed if parsed.is_valid else None
