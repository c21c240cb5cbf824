"""The roles of PostgreSQL that own the store's tables, and that write to them.

MIGRATION_DATABASE_URL names the owner, who migrates; DATABASE_URL names the role that reads and writes rows.
Without the former, one role does both.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import Connection, Row, text

from app.database.engine import Database
from app.errors import ConfigError, StoreUnavailable
from app.store.schema import VERSION_TABLE, metadata

_ROW_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
_LOCK = text("SELECT pg_advisory_xact_lock(:key), current_schema() AS schema")
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key) AS is_free, current_schema() AS schema")
_TARGET = text(
    """
    SELECT current_schema() AS schema, quote_ident(current_user) AS role,
      EXISTS (SELECT FROM pg_namespace WHERE nspname = :schema) AS exists,
      has_database_privilege(current_database(), 'CREATE') AS may_create_schema
    """
)
# The catalog needs no right on the tables or their schema.
_TABLES = text(
    """
    SELECT quote_ident(relname) AS name, quote_ident(nspname) AS schema, quote_ident(rolname) AS owner,
      quote_ident(current_user) AS role, pg_has_role(current_user, relowner, 'USAGE') AS is_owner,
      has_schema_privilege(relnamespace, 'USAGE') AS may_use_schema,
      has_table_privilege(c.oid, 'SELECT') AND (relname = :version_table OR (
        has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
        AND has_table_privilege(c.oid, 'DELETE'))) AS is_usable,
      (SELECT count(DISTINCT granted.privilege_type)
        FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS granted
        WHERE d.defaclrole = relowner AND d.defaclnamespace IN (0, relnamespace) AND d.defaclobjtype = 'r'
          AND granted.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
          AND (granted.grantee = 0 OR pg_has_role(current_user, granted.grantee, 'USAGE'))) = 4
        AS has_defaults
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace JOIN pg_roles AS r ON r.oid = relowner
    WHERE nspname = coalesce(:schema, current_schema(), 'public') AND relkind IN ('r', 'p')
      AND relname = ANY(:names)
    ORDER BY relname
    """
)


@dataclass(frozen=True, slots=True)
class MissingRights:
    """Statements for the owner of the tables to run.

    of_tables: for the tables that exist. of_future_tables: for those of later releases.
    """

    of_tables: Sequence[str] = ()
    of_future_tables: Sequence[str] = ()

    @property
    def statements(self) -> Sequence[str]:
        """All statements."""
        return (*self.of_tables, *self.of_future_tables)


def check_same_database(owner: Database, application: Database) -> str:
    """Return the schema of the tables; "" if there is none yet.

    Raises ConfigError unless two connections lead to the same schema of the same database. Their URLs may
    differ, for example by a pooler. An advisory lock shows it: it needs no right, and is valid for one
    database of one server.
    """
    key = secrets.randbits(63)
    with owner.transaction() as holding, application.transaction() as trying:
        held = holding.execute(_LOCK, {"key": key}).one()
        tried = trying.execute(_TRY_LOCK, {"key": key}).one()
    if tried.is_free:
        problem = (
            "MIGRATION_DATABASE_URL: leads to another database than DATABASE_URL, or DATABASE_URL leads to a "
            "standby. Set both to the same database of the primary server; role and pooler may differ."
        )
        raise ConfigError([problem])
    # Without USAGE on its schema, a role has none; see find_missing_rights.
    if not owner.schema and held.schema and tried.schema not in (held.schema, None):
        problem = (
            f"MIGRATION_DATABASE_URL: its tables would be in the schema {held.schema}, and those of "
            f"DATABASE_URL in {tried.schema}. Set DATABASE_SCHEMA to one of them."
        )
        raise ConfigError([problem])
    return owner.schema or held.schema or ""


def find_missing_rights(database: Database, *, schema: str = "") -> MissingRights:
    """Return the rights on the store's tables that the role of a database lacks; raises StoreUnavailable.

    schema: of the tables; "" for the one that the role would use.
    """
    if database.dialect.name != "postgresql":
        return MissingRights()
    with database.read_transaction() as connection:
        tables = _list_tables(connection, schema or database.schema)
    if not tables or all(table.is_owner for table in tables):
        return MissingRights()
    first = tables[0]
    lacking = [f"{table.schema}.{table.name}" for table in tables if not table.is_usable]
    names = f"ALL TABLES IN SCHEMA {first.schema}" if len(lacking) == len(tables) else ", ".join(lacking)
    of_tables = [] if first.may_use_schema else [f"GRANT USAGE ON SCHEMA {first.schema} TO {first.role};"]
    of_tables += [f"GRANT {_ROW_RIGHTS} ON {names} TO {first.role};"] if lacking else []
    owners = sorted({table.owner for table in tables if not table.is_owner and not table.has_defaults})
    of_future_tables = [
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {first.schema} GRANT {_ROW_RIGHTS} ON TABLES "
        f"TO {first.role};"
        for owner in owners
    ]
    return MissingRights(of_tables, of_future_tables)


def check_schema(connection: Connection, database: Database) -> None:
    """Raise StoreUnavailable if the schema of a database is missing and its role may not create it."""
    target = connection.execute(_TARGET, {"schema": database.schema}).one()
    if database.schema and not target.exists and not target.may_create_schema:
        problem = f"there is no schema {database.schema}, and the role may not create it;"
        _refuse(database, problem, f'CREATE SCHEMA "{database.schema}" AUTHORIZATION {target.role};')
    if not database.schema and target.schema is None:
        problem = "the role may not use any schema of its search path;"
        _refuse(database, problem, f"GRANT USAGE, CREATE ON SCHEMA public TO {target.role};")


def check_owner(connection: Connection, database: Database) -> None:
    """Raise StoreUnavailable if the store has tables of another owner: only an owner can update them."""
    others = [table for table in _list_tables(connection, database.schema) if not table.is_owner]
    if not others:
        return
    statements = " ".join(
        f"ALTER TABLE {table.schema}.{table.name} OWNER TO {table.role};" for table in others
    )
    problem = (
        f"the tables belong to the role {others[0].owner}, and only their owner can change them; set "
        "MIGRATION_DATABASE_URL to a URL with that role, or"
    )
    _refuse(database, problem, statements)


def _list_tables(connection: Connection, schema: str) -> Sequence[Row[Any]]:
    names = [*metadata.tables, VERSION_TABLE]
    parameters = {"schema": schema or None, "names": names, "version_table": VERSION_TABLE}
    return connection.execute(_TABLES, parameters).all()


def _refuse(database: Database, problem: str, statement: str) -> NoReturn:
    raise StoreUnavailable(
        f"the database in {database.setting} failed: {problem} run as a superuser: {statement}"
    )
