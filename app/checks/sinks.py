"""Check of a sink's reachability, permissions and tables; writes no record."""

from collections.abc import Iterator

from app.checks.check_result import CheckResult, fail, ok, warn
from app.checks.disk import evaluate_free_space, read_free_bytes
from app.config.routes import Routes
from app.config.sinks import SqlSinkConfig
from app.database.engine import redact_url
from app.errors import SinkUnavailable
from app.sinks.probe import find_set_up_problems, probe_sink
from app.sinks.sql.probe import SetUpProblem


def check_sink(name: str, routes: Routes) -> Iterator[CheckResult]:
    """Check whether a sink could be written to now, and whether its tables fit the routes."""
    sink_config = routes.sinks[name]
    component = f"sink {name}"
    place = redact_url(sink_config.url) if isinstance(sink_config, SqlSinkConfig) else sink_config.place
    try:
        folder = probe_sink(sink_config)
    except SinkUnavailable as error:
        advice = (
            f"Repair the sink, or correct [sinks.{name}] in the routes file. "
            "Its deliveries are held until then."
        )
        yield fail(component, "writable", f"{place}: {error}", advice)
        return
    yield ok(component, "writable", place)
    if folder is not None:
        yield evaluate_free_space(component, read_free_bytes(folder))
    for problem in find_set_up_problems(name, routes):
        yield evaluate_set_up_problem(component, problem)


def evaluate_set_up_problem(component: str, problem: SetUpProblem) -> CheckResult:
    """Return the result for a table that does not fit its route."""
    advice = f"{problem.correction[:1].upper()}{problem.correction[1:]}"
    if problem.is_blocking:
        return fail(component, "table", f"{problem.problem}: its deliveries wait", advice)
    return warn(component, "table", f"{problem.problem}: {problem.consequence}", advice)
