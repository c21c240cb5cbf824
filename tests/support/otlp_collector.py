"""Collector of traces over OTLP/HTTP, as OpenTelemetry's own."""

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One span. process: web or worker. links: the ids of linked spans."""

    name: str
    process: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class OtlpCollector:
    """Keeps the spans that it receives; a context manager. is_stalled: it accepts requests and never answers."""

    def __init__(self, *, is_stalled: bool = False) -> None:
        self.spans: list[CollectedSpan] = []
        self.requests = 0
        self._closed = Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests += 1
                if is_stalled:
                    collector._closed.wait(60)
                    self.close_connection = True
                    return
                assert self.path == "/v1/traces"
                collector.spans += _read_spans(body)
                response = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "OtlpCollector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def find(self, name: str) -> list[CollectedSpan]:
        """Return the spans with a name, in the order of their arrival."""
        return [span for span in self.spans if span.name == name]


def _read_spans(body: bytes) -> list[CollectedSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        CollectedSpan(
            span.name,
            str(_read_attributes(resource_spans.resource.attributes)["rapidbridge.process"]),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            [link.span_id.hex() for link in span.links],
            _read_attributes(span.attributes),
            span.status.message,
        )
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _read_attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
