"""Fuzz target: names from an event that become paths, tables and SQL texts."""

import re
from datetime import date
from urllib.parse import unquote

from app.config.routes import Route
from app.sinks.files.names import encode_part, format_partition
from app.sinks.sql.live_views import live_view_name
from app.sinks.sql.merge import quote, quote_text
from app.sinks.sql.tables import table_name
from app.truto.coerce import as_text

_ROUTE = Route(sinks=("main",))
_DAY = date(2026, 11, 27)
_PATH = re.compile(r"resource=[A-Za-z0-9_%~-]{0,217}/account=[A-Za-z0-9_%~-]{1,217}/dt=2026-11-27")
_TABLE = re.compile(r"[a-z0-9_]{1,63}")
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_QUOTED_TEXT = re.compile(r"'(?:[^'%]|''|%%)*'", re.DOTALL)


def check(content: bytes) -> None:
    """Check that a name stays one part of a path, one table and one quoted text.

    content: the name, as text of any encoding. A short part of a path can be decoded again.
    """
    name = as_text(content.decode(errors="surrogatepass")) if _is_text(content) else content.decode("latin-1")
    path = format_partition(name, name, _DAY)
    assert _PATH.fullmatch(path), "the name leaves its part of the path"
    part = encode_part(name)
    assert len(part) > 200 or unquote(part) == name, "the part does not decode to the name"
    table = table_name(name, _ROUTE)
    assert _TABLE.fullmatch(table), "the name of the table has other characters"
    assert not table.startswith(("rapidbridge_", "sqlite_", "pg_")), "the table has a reserved name"
    assert len(live_view_name(table)) <= 63
    assert _QUOTED.fullmatch(quote(name)), "the identifier is not quoted"
    assert _QUOTED_TEXT.fullmatch(quote_text(name)), "the text is not quoted"


def _is_text(content: bytes) -> bool:
    try:
        content.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
