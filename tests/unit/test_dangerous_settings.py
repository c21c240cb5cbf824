"""Every setting that weakens the receiver: `doctor` warns, the start logs it, the page lists it."""

import re
from collections.abc import Mapping

import pytest

from app.checks.settings import evaluate_dangerous_settings
from app.config.load import Config
from app.config.routes import build_default_routes
from app.config.routes_file import read_routes
from app.config.settings import read_settings
from app.config.summary import log_dangerous_settings
from tests.support.documentation import read_section
from tests.support.log_output import configured_logging

HIDDEN = "hunter2-never-shown"
DATABASE_URL = f"postgres://app:{HIDDEN}@db.example/app?sslmode=verify-full&sslrootcert=/ca.pem"
SAFE = {"DATABASE_URL": DATABASE_URL, "REDIS_URL": f"rediss://:{HIDDEN}@redis.example/0"}
MAIN = '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n[[routes]]\nsinks = ["main"]\n'
SINK = '[[routes]]\nsinks = ["other"]\n[sinks.other]\n'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "A" * 43 + "="
HTTP = f'{SINK}type = "http"\nsecret = "{SECRET}"\n'
KAFKA = f'{SINK}type = "kafka"\n'
WAREHOUSE = f'{SINK}type = "warehouse"\n'
# The row of the page, settings, a routes file, and variables of libraries.
Dangerous = tuple[str, Mapping[str, str], str, Mapping[str, str]]
DANGEROUS: list[Dangerous] = [
    ("maintenance", {"MAINTENANCE": "we move"}, "", {}),
    ("account_guess", {"ATTRIBUTE_TO_OPEN_RUN": "1"}, "", {}),
    ("replay_window", {"REPLAY_WINDOW_S": "60"}, "", {}),
    ("large_bodies", {"MAX_BODY_BYTES": str(64 * 1024 * 1024)}, "", {}),
    ("encryption_off", {"ENCRYPTION_KEYS": f"off,{KEY}"}, "", {}),
    ("plain_http", {"TRUTO_API_URL": "http://api.example"}, "", {}),
    ("plain_http", {"PUBLIC_URL": "http://sync.example"}, "", {}),
    ("plain_http", {}, f'{HTTP}url = "http://hook.example/{HIDDEN}"', {}),
    ("plain_http", {}, f'{MAIN}[[notify]]\nurl = "http://hook.example/{HIDDEN}"\nsecret = "{SECRET}"', {}),
    ("plain_http", {}, f'{SINK}type = "files"\nurl = "s3://lake"', {"AWS_ENDPOINT_URL": "http://s3.example"}),
    ("database_tls", {"DATABASE_URL": f"postgres://app:{HIDDEN}@db.example/app"}, "", {}),
    ("database_tls", {"DATABASE_URL": f"postgres://app:{HIDDEN}@db.example/app?sslmode=require"}, "", {}),
    ("database_tls", {"MIGRATION_DATABASE_URL": f"postgres://owner:{HIDDEN}@db.example/app"}, "", {}),
    ("database_tls", {}, f'{SINK}type = "sql"\nurl = "postgres://u:{HIDDEN}@other.example/d"', {}),
    ("database_tls", {}, f'{SINK}type = "sql"\nurl = "mysql://u:{HIDDEN}@other.example/d"', {}),
    ("database_tls", {}, f'{SINK}type = "sql"\nurl = "mysql://u:{HIDDEN}@other.example/d?ssl_mode=REQUIRED"', {}),
    ("redis_plain", {"REDIS_URL": f"redis://:{HIDDEN}@redis.example/0"}, "", {}),
    ("redis_tls", {"REDIS_TLS_VERIFY": "0"}, "", {}),
    ("redis_tls", {"REDIS_URL": f"rediss://:{HIDDEN}@redis.example/0?ssl_cert_reqs=none"}, "", {}),
    ("redis_tls", {"REDIS_URL": f"rediss://:{HIDDEN}@redis.example/0?ssl_check_hostname=False"}, "", {}),
    ("python_code", {}, f'{SINK}type = "python"\ntarget = "mine:write"', {}),
    ("private_endpoint", {}, f'{HTTP}url = "https://hook.example/{HIDDEN}"\nallow_private = true', {}),
    (
        "private_endpoint",
        {},
        f'{MAIN}[[notify]]\nurl = "https://hook.example/{HIDDEN}"\nsecret = "{SECRET}"\nallow_private = true',
        {},
    ),
    ("kafka_plain", {}, f'{KAFKA}brokers = "kafka.example:9092"', {}),
    (
        "kafka_plain",
        {},
        f'{KAFKA}brokers = "kafka.example:9092"\nsecurity_protocol = "SASL_PLAINTEXT"\nusername = "u"\n'
        f'password = "{HIDDEN}"',
        {},
    ),
    (
        "warehouse_tls",
        {},
        f'{WAREHOUSE}destination = "clickhouse"\ncredentials = "clickhouse://u:{HIDDEN}@ch.example/d?secure=0"',
        {},
    ),
    (
        "warehouse_tls",
        {},
        f'{WAREHOUSE}destination = "redshift"\ncredentials = "redshift://u:{HIDDEN}@rs.example/d"',
        {},
    ),
    ("no_account", {}, f'{MAIN}account = ""', {}),
    ("all_deletes", {}, f"{MAIN}track_deletes = true\nmax_deleted_share = 1", {}),
]  # fmt: skip


def make_config(settings: Mapping[str, str], routes: str) -> Config:
    values = {**SAFE, **settings}
    read = read_settings(values)
    if not routes:
        return Config(read, build_default_routes(read.database_url))
    return Config(read, read_routes(routes, source="routes.toml", variables=values), "routes.toml", routes)


@pytest.mark.parametrize("dangerous", DANGEROUS, ids=lambda dangerous: dangerous[0])
def test_doctor_warns_and_the_start_logs_one_line(
    dangerous: Dangerous, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, settings, routes, variables = dangerous
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = make_config(settings, routes)

    [result] = evaluate_dangerous_settings(config, variables)
    with configured_logging("json"):
        log_dangerous_settings(config)

    [line] = capsys.readouterr().err.splitlines()
    assert (result.component, result.check, result.level) == ("settings", kind, "warn")
    assert result.advice.endswith(".")
    assert '"settings.dangerous"' in line
    assert HIDDEN not in line + result.message + result.advice
    assert SECRET not in line + result.message + result.advice


@pytest.mark.parametrize(
    ("settings", "routes", "variables"),
    [
        ({}, "", {}),
        ({"DATABASE_URL": "sqlite:///x.db", "REDIS_URL": "unix:///valkey.sock"}, "", {}),
        ({"DATABASE_URL": "postgres://127.0.0.1/x", "REDIS_URL": "redis://localhost:6379"}, "", {}),
        ({"DATABASE_URL": "postgres://u@[::1]:5432/x", "PUBLIC_URL": "http://localhost:8000"}, "", {}),
        ({"DATABASE_URL": "postgresql://u@/x?host=/cloudsql/a:b"}, "", {}),
        ({"DATABASE_URL": "postgres://u@db.example/x?sslmode=require&channel_binding=require"}, "", {}),
        ({"DATABASE_URL": "postgres://u@db.example/x"}, "", {"PGSSLMODE": "verify-full"}),
        ({"REPLAY_WINDOW_S": "86400"}, "", {}),
        ({"ENCRYPTION_KEYS": KEY}, "", {}),
        ({}, f'{KAFKA}brokers = "kafka.example:9092"\nsecurity_protocol = "SSL"', {}),
        ({}, f'{HTTP}url = "https://hook.example"', {}),
        ({}, f'{WAREHOUSE}destination = "clickhouse"\ncredentials = "clickhouse://u:p@ch.example/d"', {}),
        ({}, f'{SINK}type = "sql"\nurl = "mysql://u@h/d?ssl_mode=VERIFY_IDENTITY&ssl_ca=/ca.pem"', {}),
        ({}, f"{MAIN}track_deletes = true", {}),
    ],
)  # fmt: skip
def test_safe_settings_cause_no_warning(
    settings: Mapping[str, str], routes: str, variables: Mapping[str, str]
) -> None:
    assert list(evaluate_dangerous_settings(make_config(settings, routes), variables)) == []


def test_the_page_lists_every_dangerous_setting() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \|", read_section("docs/security.md", "Settings that weaken"), re.MULTILINE
    )

    assert sorted(listed) == sorted({kind for kind, *_ in DANGEROUS})
