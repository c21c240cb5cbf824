"""Tracing is off and not even imported unless OTEL_* variables request it; a fault does not stop a process."""

import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from app.tracing import Span, is_requested, tracing
from tests.support.processes import ROOT

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "false", **ENDPOINT}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_tracing_is_on_only_if_the_variables_request_it(variables: dict[str, str], *, expected: bool) -> None:
    assert is_requested(variables) is expected


@pytest.mark.parametrize(
    ("variables", "error", "hint"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: not supported", "otlp, console or none"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **ENDPOINT},
            "OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is supported",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf",
        ),
    ],
)
def test_an_unsupported_variable_is_logged_with_its_remedy(
    variables: dict[str, str], error: str, hint: str
) -> None:
    with capture_logs() as logs:
        tracing.start("web", variables, version="1")

    [line] = logs
    assert (line["event"], line["error"]) == ("traces.off", error)
    assert hint in line["hint"]
    assert isinstance(tracing.start_span("x"), Span)


def test_missing_packages_are_logged_with_the_command_that_installs_them() -> None:
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from app.tracing import tracing\n"
        f"tracing.start('web', {ENDPOINT!r}, version='1')\n"
        "assert tracing.start_span('x').traceparent == ''"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "OpenTelemetry is not installed" in ran.stdout + ran.stderr
    assert "pip install -e '.[otel]'" in ran.stdout + ran.stderr


def test_a_span_without_tracing_records_nothing() -> None:
    with tracing.start_span("accept", kind="server", parent="", delivery="d") as span:
        span.set(records=1)
        span.fail("x")

    assert span.traceparent == tracing.find_traceparent() == ""
    tracing.stop()
