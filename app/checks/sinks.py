"""Check of a sink's reachability and permissions; writes nothing."""

from collections.abc import Iterator

from app.checks.check_result import CheckResult, fail, ok
from app.checks.disk import evaluate_free_space, read_free_bytes
from app.config.routes import FilesSinkConfig, SinkConfig
from app.database.engine import redact_url
from app.errors import SinkUnavailable
from app.sinks.probe import probe_sink


def check_sink(name: str, sink_config: SinkConfig) -> Iterator[CheckResult]:
    """Check whether a sink could be written to now."""
    component = f"sink {name}"
    shown_url = sink_config.url if isinstance(sink_config, FilesSinkConfig) else redact_url(sink_config.url)
    try:
        folder = probe_sink(sink_config)
    except SinkUnavailable as error:
        advice = (
            f"Repair the sink, or correct [sinks.{name}] in the routes file. "
            "Its deliveries are retried for about a day."
        )
        yield fail(component, "writable", f"{shown_url}: {error}", advice)
        return
    yield ok(component, "writable", shown_url)
    if folder is not None:
        yield evaluate_free_space(component, read_free_bytes(folder))
