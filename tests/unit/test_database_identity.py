"""URLs of one database have one namespace, and URLs of two databases have two."""

import re
from pathlib import Path

import pytest

from app.config.database_identity import derive_namespace, identify_database
from app.config.settings import read_settings
from app.errors import ConfigError

PASSWORD = "h0rse-staple"


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("postgres://u:p@db/app", "postgresql://u:p@db/app"),
        ("postgres://u:p@db/app", "postgresql+psycopg://u:p@db/app"),
        ("postgres://u:p@db/app", "postgres://u:p@db:5432/app"),
        ("postgres://u:p@db/app", "postgres://u:p@DB./app"),
        ("postgres://u:p@db/app", "postgres://rotated:p%40ss@db/app"),
        ("postgres://u:p@db/app", "postgres://u@db/app?password=rotated&sslmode=require"),
        ("postgres://u:p@db/app", "postgres://u:p@/app?host=db&port=5432"),
        ("postgres://u@b,a:5433/app", "postgres://u@a:5433,b/app"),
        ("postgres://u@[::1]/app", "postgres://u@[::1]:5432/app"),
        ("postgres://app@db", "postgres://app:rotated@db/app"),
        ("postgres://u:p/q?r@db/app", "postgres://u:rotated@db/app"),
        ("postgres://u@db/app?application_name=a@b", "postgres://u@db/app"),
        ("postgres://u@/app?host=/run/pg", "postgres://u@/app?host=/run/pg/"),
        ("mysql://u:p@db/app", "mariadb://rotated:q@DB:3306/app?ssl_mode=REQUIRED"),
        ("mysql+pymysql://u:p@/app?unix_socket=%2Frun%2Fm", "mysql://u@/app?unix_socket=/run/m"),
        ("sqlite:///var/store.db", f"sqlite:///{Path('var/store.db').absolute()}"),
        ("sqlite:///var/store.db", "sqlite:///var/../var/store.db?timeout=5"),
    ],
)
def test_urls_of_one_database_have_one_namespace(one: str, same: str) -> None:
    assert derive_namespace(one) == derive_namespace(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgres://u@prod/app", "postgres://u@staging/app"),
        ("postgres://u@db:5432/app", "postgres://u@db:5433/app"),
        ("postgres://u@db/app", "postgres://u@db/App"),
        ("postgres://u@db/app", "postgres://u@db/app?options=-csearch_path%3Dstaging"),
        ("postgres://production@db", "postgres://staging@db"),
        ("postgres://u@one/app?application_name=a@b", "postgres://u@two/app?application_name=a@b"),
        ("postgres://u@/app?service=one", "postgres://u@/app?service=two"),
        ("postgres://u@/app?host=/run/a", "postgres://u@/app?host=/run/b"),
        ("mysql://u@db/app", "mysql://u@db/App"),
        ("mysql://u@db/app", "mysql://u@db:3307/app"),
        ("mysql://u@db/app", "postgres://u@db/app"),
        ("mysql://u@/app?unix_socket=/run/a", "mysql://u@/app?unix_socket=/run/b"),
        ("sqlite:////srv/production/store.db", "sqlite:////srv/staging/store.db"),
    ],
)
def test_urls_of_two_databases_have_two_namespaces(one: str, other: str) -> None:
    assert derive_namespace(one) != derive_namespace(other)


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://u:{PASSWORD}@db/app",
        f"postgres://u@db/app?password={PASSWORD}&sslpassword={PASSWORD}",
        f"postgres://u:{PASSWORD}@with@sign@db:port/app",
        f"mysql://u:{PASSWORD}@db/app?ssl_mode=REQUIRED",
        f"mysql://u:{PASSWORD}@with@sign@db/app",
        "postgres://u@db/" + "x" * 300,
        "postgres://u@db/täglich%20neu",
        "sqlite://",
    ],
)
def test_a_namespace_is_a_short_name_without_a_password(url: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{12,40}", derive_namespace(url))
    assert PASSWORD not in identify_database(url)


def test_the_setting_replaces_the_derived_namespace() -> None:
    url = "postgres://u@db/app"

    assert read_settings({"DATABASE_URL": url}).namespace == derive_namespace(url)
    assert read_settings({"DATABASE_URL": url, "REDIS_NAMESPACE": "prod_1"}).namespace == "prod_1"


def test_tenants_in_schemas_of_one_database_have_different_namespaces() -> None:
    url = "postgres://u@db/app"

    first, second = (
        read_settings({"DATABASE_URL": url, "DATABASE_SCHEMA": schema}).namespace for schema in ("one", "two")
    )

    assert len({first, second, derive_namespace(url)}) == 3
    assert first == derive_namespace(f"{url}?options=-csearch_path%3Done")


@pytest.mark.parametrize("name", ["a:b", "a b", "unnamed", "x" * 65, "*"])
def test_an_invalid_namespace_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"REDIS_NAMESPACE: .*unset REDIS_NAMESPACE\."):
        read_settings({"REDIS_NAMESPACE": name})
