"""Fuzz target: the routes file."""

from app.config.routes import RoutedEvent
from app.config.routes_file import read_routes
from app.errors import ConfigError

_PASSWORD = "hunter2hunter2"
_VARIABLES = {
    "DATABASE_URL": f"postgresql://user:{_PASSWORD}@db.example.test/name",
    "TOKEN": _PASSWORD,
    "BUCKET": "s3://bucket/path",
}
_EVENT = RoutedEvent("sync_job_run:record", "crm/contacts", "list", "account", "environment", "webhook")
_MAX_MESSAGE_CHARS = 10_000


def check(content: bytes) -> None:
    """Check that a routes file gives routes, or readable problems.

    content: the file. A message is one printable line that names the file, without the value of a variable.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Reported before the file is parsed.
        return
    try:
        routes = read_routes(text, source="routes.toml", variables=_VARIABLES)
    except ConfigError as error:
        for problem in error.problems:
            assert problem.startswith("routes.toml"), problem
            assert problem.isprintable(), repr(problem)
            assert len(problem) < _MAX_MESSAGE_CHARS, "the message is too long"
            assert _PASSWORD not in problem or _PASSWORD in text, "the message shows a secret"
        return
    routes.find_route(_EVENT)
    routes.find_webhook_account("webhook")
    routes.find_refusal_reason(sync_job_id="j", integrated_account_id="a", environment_id="e")
