"""Checks of the rights of the store's roles."""

from collections.abc import Iterator

from app.checks.check_result import CheckResult, fail, ok, warn
from app.config.settings import Settings
from app.database.engine import Database, diagnose_for, open_database, redact_url
from app.errors import ConfigError, StoreUnavailable
from app.store.roles import check_same_database, find_missing_rights

_COMPONENT = "store"


def check_rights(database: Database, settings: Settings) -> Iterator[CheckResult]:
    """Check the rights of the role in DATABASE_URL, and the role in MIGRATION_DATABASE_URL if it is set.

    Raises StoreUnavailable for DATABASE_URL.
    """
    schema = ""
    if settings.migration_database_url:
        owner = open_database(
            settings.migration_database_url,
            schema=settings.database_schema,
            setting="MIGRATION_DATABASE_URL",
        )
        try:
            schema = check_same_database(owner, database)
            yield ok(_COMPONENT, "migration", redact_url(settings.migration_database_url))
        except ConfigError as error:
            message, _, advice = str(error.problems[0]).partition(". ")
            yield fail(_COMPONENT, "migration", message, advice)
        except StoreUnavailable as error:
            yield _report_owner(owner, error)
        finally:
            owner.close()
    missing = find_missing_rights(database, schema=schema)
    if missing.of_tables:
        message = "the role in DATABASE_URL lacks rights on the tables"
        advice = f"Run as the owner of the tables: {' '.join(missing.statements)}"
        yield fail(_COMPONENT, "rights", message, advice)
    elif missing.of_future_tables:
        message = "the role in DATABASE_URL will lack rights on tables that a later release adds"
        advice = f"Run as the owner of the tables: {' '.join(missing.of_future_tables)}"
        yield warn(_COMPONENT, "rights", message, advice)
    elif settings.migration_database_url:
        yield ok(_COMPONENT, "rights", "the role in DATABASE_URL has its rights on the tables")


def _report_owner(owner: Database, error: StoreUnavailable) -> CheckResult:
    diagnosis = diagnose_for(error.__cause__, owner.engine, schema=owner.schema)
    message = f"MIGRATION_DATABASE_URL: {diagnosis.problem}{f' ({diagnosis.code})' if diagnosis.code else ''}"
    return fail(_COMPONENT, "migration", message, f"{diagnosis.advice[0].upper()}{diagnosis.advice[1:]}")
