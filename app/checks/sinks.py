"""The sinks: each reachable and writable, and nothing written."""

from collections.abc import Iterator

from app.checks.check_result import CheckResult, evaluate_free_space, fail, ok
from app.checks.disk import read_free_bytes
from app.config.routes import FilesSinkConfig, SinkConfig
from app.database.engine import redact_url
from app.errors import SinkUnavailable
from app.sinks.probe import probe_sink


def check_sink(name: str, sink_config: SinkConfig) -> Iterator[CheckResult]:
    """Look at one sink."""
    component = f"sink {name}"
    where = sink_config.url if isinstance(sink_config, FilesSinkConfig) else redact_url(sink_config.url)
    try:
        folder = probe_sink(sink_config)
    except SinkUnavailable as error:
        advice = (
            f"Mend it, or correct [sinks.{name}] in the routes file: deliveries wait for it, for about a day."
        )
        yield fail(component, "writable", f"{where}: {error}", advice)
        return
    yield ok(component, "writable", where)
    if folder is not None:
        yield evaluate_free_space(component, read_free_bytes(folder))
