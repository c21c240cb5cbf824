"""The SQL sink's reaction to errors of PostgreSQL and MySQL."""

import psycopg
import pymysql
import pytest
from sqlalchemy.exc import DBAPIError

from app.sinks.sql.mysql import MySQL
from app.sinks.sql.postgresql import PostgreSQL


def classify(state: str) -> str:
    return PostgreSQL().classify_error(DBAPIError(None, None, psycopg.errors.lookup(state)()))


@pytest.mark.parametrize(
    "state",
    [
        # Prepared statements behind a pooler.
        *("42P05", "26000", "08P01"),
        # A failover, a restart, a lost connection.
        *("25006", "57P01", "57P02", "57P03", "57P05", "08000", "08003", "08006"),
        # Resources, locks, collisions, timeouts.
        *("53100", "53200", "53300", "55P03", "40001", "40P01", "57014", "25P03"),
        # Objects that another worker created at the same time.
        *("42P06", "42P07", "42701", "3F000"),
    ],
)
def test_a_state_that_passes_is_retried(state: str) -> None:
    assert classify(state) == "retry"


@pytest.mark.parametrize(
    "state",
    [
        # Columns, keys, views and types that do not fit.
        *("42703", "42804", "42P10", "42809", "42710", "0A000", "428C9", "55000", "54011"),
        # A right that is missing, and functions of triggers.
        *("42501", "42883"),
    ],
)
def test_a_table_of_another_shape_waits_for_a_correction(state: str) -> None:
    assert classify(state) == "refuse"


@pytest.mark.parametrize("state", ["22003", "22P05", "23502", "23514", "P0001", "44000", "54000"])
def test_a_faulty_record_is_searched_for(state: str) -> None:
    assert classify(state) == "split"


def classify_number(number: int) -> str:
    return MySQL().classify_error(DBAPIError(None, None, pymysql.OperationalError(number, "words")))


@pytest.mark.parametrize(
    "number",
    [
        # A deadlock, a lock, a time limit, an end by a person.
        *(1213, 1205, 1969, 3024, 1317),
        # A failover, a restart, a lost connection, a full server.
        *(1290, 1836, 1053, 2003, 2006, 2013, 1040, 1203, 1114),
        # Objects that another worker created at the same time.
        *(1050, 1060, 1061),
    ],
)
def test_a_number_of_mysql_that_passes_is_retried(number: int) -> None:
    assert classify_number(number) == "retry"


@pytest.mark.parametrize("number", [1054, 1142, 1288, 1118, 1665])
def test_a_table_of_mysql_of_another_shape_waits_for_a_correction(number: int) -> None:
    assert classify_number(number) == "refuse"


@pytest.mark.parametrize("number", [1406, 1264, 1292, 1366, 1062, 1452, 3819, 4025, 1644, 1048, 1364, 1153])
def test_a_faulty_record_is_searched_for_in_mysql(number: int) -> None:
    assert classify_number(number) == "split"
