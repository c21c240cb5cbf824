"""The schema and the encoding of a PostgreSQL database."""

from sqlalchemy import Connection, text
from sqlalchemy.schema import CreateSchema

# The locale "C" fits every encoding of the server.
CREATE_UTF8_DATABASE = (
    "CREATE DATABASE rapidbridge ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;"
)
_EXISTS = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :schema)")


def create_schema(connection: Connection, schema: str) -> None:
    """Create a schema unless it exists. Callers take turns."""
    # CREATE SCHEMA IF NOT EXISTS needs a right on the database even if the schema exists.
    if not connection.execute(_EXISTS, {"schema": schema}).scalar_one():
        connection.execute(CreateSchema(schema))


def read_encoding(connection: Connection) -> str:
    """Return the encoding in which a database stores text, such as UTF8."""
    return str(connection.execute(text("SELECT current_setting('server_encoding')")).scalar_one())
