"""The sinks: each reachable and writable, and nothing written."""

from collections.abc import Iterator

from app.cli.doctor.disks import free_bytes
from app.cli.doctor.finding import Finding, green, judge_room, red
from app.config.routes import FilesSink, SinkSpec
from app.database.engine import describe
from app.errors import SinkUnavailable
from app.sinks.probe import probe


def check_sink(name: str, spec: SinkSpec) -> Iterator[Finding]:
    """Look at one sink."""
    room = f"sink {name}"
    where = spec.url if isinstance(spec, FilesSink) else describe(spec.url)
    try:
        folder = probe(spec)
    except SinkUnavailable as error:
        advice = (
            f"Mend it, or correct [sinks.{name}] in the routes file: deliveries wait for it, for about a day."
        )
        yield red(room, "writable", f"{where}: {error}", advice)
        return
    yield green(room, "writable", where)
    if folder is not None:
        yield judge_room(room, free_bytes(folder))
