"""Settings: checked all together, and secrets never shown."""

from pathlib import Path

import pytest

from app.config.setting_values import DEFAULT_MAINTENANCE
from app.config.settings import (
    Settings,
    WebhookSecret,
    is_color_refused,
    list_setting_names,
    read_environment,
    read_settings,
)
from app.errors import ConfigError

GOOD = {
    "TRUTO_WEBHOOK_SECRET": "s3cr3t",
    "REDIS_URL": "redis://:pass@h:1/0",
    "DATABASE_URL": "postgres://u:pass@h/d",
}


def find_problems(variables: dict[str, str], *required: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_settings(variables, required=required)
    return caught.value.problems


def test_defaults_work_without_any_setting() -> None:
    settings = read_settings({})

    assert settings.database_url == "sqlite:///var/rapidbridge.db"
    assert settings.port == 8000
    assert settings.max_body_bytes == 32 * 1024 * 1024


def test_a_secret_may_be_pinned_to_a_webhook() -> None:
    settings = read_settings({"TRUTO_WEBHOOK_SECRET": " a , w1=b , c,"})

    assert settings.webhook_secrets == (WebhookSecret("a"), WebhookSecret("b", "w1"), WebhookSecret("c"))
    assert settings.may_sign("a", "any")
    assert settings.may_sign("b", "w1")
    assert settings.may_sign("b", "")
    assert not settings.may_sign("d", "")
    assert not settings.may_sign("b", "w2")
    assert not settings.may_sign("d", "w1")


def test_the_repr_of_settings_shows_no_secret() -> None:
    settings = read_settings(GOOD)

    assert "s3cr3t" not in repr(settings)
    assert "pass" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "70000"),
        ("WEB_CONCURRENCY", "0"),
        ("WORKER_CONCURRENCY", "many"),
        ("MAX_BODY_BYTES", "-1"),
        ("REPLAY_WINDOW_S", "soon"),
        ("RETENTION_DAYS", "-1"),
        ("DATABASE_URL", "mysql://u:pass@h/d"),
        ("DATABASE_URL", "pass"),
        ("REDIS_URL", "http://:pass@h"),
        ("REDIS_TLS_VERIFY", "perhaps"),
        ("TRUTO_WEBHOOK_SECRET", "=pass"),
        ("TRUTO_WEBHOOK_SECRET", "w1="),
        ("ROUTES_FILE", "there/is/none.toml"),
    ],
)
def test_an_invalid_value_is_reported_and_no_secret_is_quoted(name: str, value: str) -> None:
    [problem] = find_problems({**GOOD, name: value})

    assert problem.startswith(f"{name}: ")
    assert "pass" not in problem.replace("there/is/none.toml", "")


def test_an_invalid_value_is_quoted_with_the_default() -> None:
    assert find_problems({"PORT": "http"}) == (
        'PORT: "http" is not a whole number. Correct it, or unset PORT for its default, 8000.',
    )


def test_all_problems_are_reported_together() -> None:
    problems = find_problems({"PORT": "x", "MAX_BODY_BYTES": "x"}, "TRUTO_WEBHOOK_SECRET", "REDIS_URL")

    assert [problem.partition(":")[0] for problem in problems] == [
        "TRUTO_WEBHOOK_SECRET",
        "REDIS_URL",
        "PORT",
        "MAX_BODY_BYTES",
    ]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("TRUTO_WEBHOOK_SECRETS", "TRUTO_WEBHOOK_SECRET"),
        ("MAX_BODY_BYTE", "MAX_BODY_BYTES"),
        ("DATABASE_URI", "DATABASE_URL"),
    ],
)
def test_a_misspelled_setting_is_reported_with_a_suggestion(name: str, suggestion: str) -> None:
    [problem] = find_problems({name: "1"})

    assert f"Did you mean {suggestion}?" in problem


def test_an_unknown_setting_with_our_prefix_is_reported() -> None:
    [problem] = find_problems({"TRUTO_SOMETHING": "1"})

    assert "unknown setting" in problem


def test_variables_of_other_programs_are_ignored() -> None:
    others = {
        "PATH": "/bin",
        "DATABASE_URL_FOLLOWER": "x",
        "HEROKU_POSTGRESQL_RED_URL": "x",
        "REDIS_TLS_URL": "x",
        "DATABASE_CONNECTION_POOL_URL": "x",
        "DYNO": "web.1",
        "DYNO_RAM": "512",
        "RENDER": "true",
        "RENDER_EXTERNAL_URL": "x",
        "RENDER_SERVICE_NAME": "x",
        "TRUTO_API_TOKEN": "t",
    }

    assert read_settings({**GOOD, **others}).port == 8000


def test_a_sqlite_inbox_that_processes_cannot_share_is_reported() -> None:
    for variables in (
        {"DYNO": "web.1"},
        {"DYNO": "web.1", "DATABASE_URL": "sqlite:////tmp/x.db"},
        {"RENDER": "true"},
        {"RENDER": "true", "DATABASE_URL": "sqlite:///var/x.db"},
    ):
        [problem] = find_problems(variables)
        assert problem.startswith("DATABASE_URL: on this platform, each process has a disk of its own")


def test_a_database_server_or_an_attached_disk_is_accepted_on_these_platforms() -> None:
    for variables in (
        {"DYNO": "web.1", "DATABASE_URL": "postgres://u:pass@h/d"},
        {"RENDER": "true", "DATABASE_URL": "postgresql://u:pass@h/d"},
        {"RENDER": "true", "DATABASE_URL": "sqlite:////var/data/x.db"},
    ):
        assert read_settings(variables).database_url == variables["DATABASE_URL"]


def test_the_environment_overrides_a_dotenv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("PORT=1111\nWEB_CONCURRENCY=3\nREDIS_URL=\n")
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.setenv("DATABASE_URL", "  ")

    variables = read_environment()

    assert (variables["PORT"], variables["WEB_CONCURRENCY"]) == ("2222", "3")
    assert "REDIS_URL" not in variables
    assert "DATABASE_URL" not in variables


@pytest.mark.parametrize(
    "name",
    [
        "RAPIDBRIDGE", "RAPIDBRIDGE_RECEIVER", "TRUTO", "TRUTO_API", "TRUTO_WEBHOOK", "REDIS", "REDIS_URL_1",
        "DATABASE", "DATABASE_URI", "WEB", "MAX_BODY_BYTE",
    ],
)  # fmt: skip
def test_the_variables_of_a_kubernetes_service_are_no_settings(name: str) -> None:
    address = "tcp://10.96.0.12:8000"
    service = {
        f"{name}_SERVICE_HOST": "10.96.0.12",
        f"{name}_SERVICE_PORT": "8000",
        f"{name}_SERVICE_PORT_HTTP": "8000",
        f"{name}_PORT": address,
        f"{name}_PORT_8000_TCP": address,
        f"{name}_PORT_8000_TCP_PROTO": "tcp",
        f"{name}_PORT_8000_TCP_PORT": "8000",
        f"{name}_PORT_8000_TCP_ADDR": "10.96.0.12",
        f"{name}_PORT_53_UDP": "udp://10.96.0.12:53",
    }

    assert read_settings(service) == read_settings({})


def test_a_port_with_our_prefix_that_is_no_address_is_reported() -> None:
    [problem] = find_problems({"RAPIDBRIDGE_PORT": "8000"})

    assert problem.startswith("RAPIDBRIDGE_PORT: unknown setting")


@pytest.mark.parametrize(
    "word", ["0", "false", "False", " OFF ", "no", "n", "none", "NULL", "disabled", '"false"']
)
def test_a_word_for_no_switches_maintenance_off(word: str) -> None:
    assert read_settings({"MAINTENANCE": word}).maintenance == ""


@pytest.mark.parametrize("word", ["1", "true", "TRUE\n", "on", "Yes", "y", "enabled"])
def test_a_word_for_yes_refuses_runs_with_a_reason(word: str) -> None:
    assert read_settings({"MAINTENANCE": word}).maintenance == DEFAULT_MAINTENANCE


def test_the_reason_of_maintenance_may_be_any_text() -> None:
    for reason in ("we move", "Wartung bis 12\xa0Uhr: „bald“", "no runs before noon"):
        assert read_settings({"MAINTENANCE": reason}).maintenance == reason


@pytest.mark.parametrize("flag", ["REDIS_TLS_VERIFY", "ATTRIBUTE_TO_OPEN_RUN", "REACTIVATE_WEBHOOK"])
def test_a_flag_has_every_usual_spelling(flag: str) -> None:
    field = next(name for name, field in Settings.model_fields.items() if field.alias == flag)

    def read(word: str) -> object:
        return getattr(read_settings({"TRUTO_API_TOKEN": "t", flag: word}), field)

    assert {read(word) for word in ("1", "true", "TRUE ", "on\n", " Yes", "'y'", "t")} == {True}
    assert {read(word) for word in ("0", "false", "False ", "OFF", "no", "n", "f")} == {False}


SURROUNDINGS = [
    "{}\n",
    "\r\n{}",
    " {} ",
    "\t{}",
    "\xa0{}",
    "\ufeff{}",
    "{}\u200b",
    "'{}'",
    '"{}"\n',
    '" {} "',
]
VALID = GOOD | {
    "TRUTO_API_TOKEN": "t0ken",
    "TRUTO_API_URL": "https://api.example",
    "DATABASE_SCHEMA": "tenant",
    "REDIS_TLS_VERIFY": "0",
    "REDIS_NAMESPACE": "crm",
    "ROUTES_FILE": __file__,
    "PORT": "9000",
    "WEB_CONCURRENCY": "3",
    "WORKER_CONCURRENCY": "3",
    "MAX_BODY_BYTES": "4096",
    "LATE_RECORDS": "keep",
    "ATTRIBUTE_TO_OPEN_RUN": "1",
    "STALLED_AFTER_MINUTES": "20",
    "REACTIVATE_WEBHOOK": "1",
    "REPLAY_WINDOW_S": "60",
    "RETENTION_DAYS": "30",
    "MAINTENANCE": "we move",
    "DASHBOARD_PASSWORD": "correct horse",
    "DASHBOARD_READ_PASSWORD": "battery staple",
    "METRICS_TOKEN": "metrics-token",
    "PUBLIC_URL": "https://rapidbridge.example.com",
    "LOG_FORMAT": "json",
}


@pytest.mark.parametrize("surrounding", SURROUNDINGS, ids=ascii)
def test_spaces_line_breaks_and_quotation_marks_around_a_value_are_removed(
    surrounding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = {name: surrounding.format(value) for name, value in VALID.items()}
    for name, value in padded.items():
        monkeypatch.setenv(name, value)

    assert read_settings(padded) == read_settings(VALID)
    assert VALID.items() <= read_environment().items()


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x00", "\u200b", "\ufeff", "\udcff"], ids=ascii)
@pytest.mark.parametrize("name", VALID)
def test_an_unprintable_character_in_a_value_is_refused_by_name(name: str, character: str) -> None:
    value = VALID[name]
    [problem] = find_problems(VALID | {name: f"{value[:1]}{character}{value[1:]}x"})

    assert problem.startswith(f"{name}: ")
    assert "at character 2. Remove it." in problem
    assert problem.isprintable()
    assert not any(secret in problem for secret in ("3cr3t", "pass", "ass", "0ken"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRUTO_WEBHOOK_SECRET", "a,,b", "entry 2 is empty"),
        ("TRUTO_WEBHOOK_SECRET", ",b", "entry 1 is empty"),
        ("TRUTO_WEBHOOK_SECRET", "a, ,b", "entry 2 is empty"),
        ("TRUTO_WEBHOOK_SECRET", "a,schlüssel", "entry 2 contains a character"),
        ("TRUTO_WEBHOOK_SECRET", '"a","b"', "entry 1 contains a character"),
        ("TRUTO_API_TOKEN", "a b", "contains characters that no token has"),
        ("TRUTO_API_URL", "api.truto.one", 'Present value: "api.truto.one".'),
        ("TRUTO_API_URL", "https://", 'Present value: "https://".'),
        ("TRUTO_API_URL", "https://h:port", 'Present value: "https://h:port".'),
        ("TRUTO_API_URL", "https://[::1", 'Present value: "https://[::1".'),
        ("REACTIVATE_WEBHOOK", "1", "needs TRUTO_API_TOKEN"),
        ("STALLED_AFTER_MINUTES", "inf", '"inf" is not a finite number'),
        ("STALLED_AFTER_MINUTES", "1e300", '"1e300" is greater than the maximum, 52560000'),
        ("STALLED_AFTER_MINUTES", "soon", '"soon" is not a number'),
        ("REPLAY_WINDOW_S", "9" * 30, "is greater than the maximum"),
        ("REPLAY_WINDOW_S", "9" * 5000, "has too many digits"),
        ("PORT", "0", '"0" is less than the minimum, 1'),
        ("PORT", "8000.5", '"8000.5" is not a whole number'),
        ("LATE_RECORDS", "drop", "\"drop\" is not 'deliver' or 'keep'"),
        ("REDIS_TLS_VERIFY", "maybe", '"maybe" is not true or false'),
        ("REDIS_NAMESPACE", "a b", 'Present value: "a b".'),
        ("DATABASE_SCHEMA", "pg_x", 'Present value: "pg_x".'),
    ],
)
def test_a_problem_says_why_in_plain_words_and_shows_the_value(name: str, value: str, words: str) -> None:
    [problem] = find_problems({"DATABASE_URL": "postgres://u@h/d", name: value})

    assert problem.startswith(f"{name}: ")
    assert words in problem


def test_a_late_records_setting_may_be_in_capitals() -> None:
    assert read_settings({"LATE_RECORDS": "Keep"}).late_records == "keep"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xef\xbb\xbfPORT=1111\r\nMAINTENANCE=off\r\n", None),
        ("PORT=1111".encode("utf-16"), "it is not UTF-8 text"),
    ],
)
def test_a_dotenv_file_of_an_editor_on_windows_is_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str | None
) -> None:
    for name in list_setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(content)

    if reason is None:
        assert read_environment()["PORT"] == "1111"
    else:
        with pytest.raises(ConfigError, match=reason):
            read_environment()


def test_colors_are_refused_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for no_color, term, expected in (("", "xterm", False), ("1", "xterm", True), ("", "dumb", True)):
        monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setenv("TERM", term)
        assert is_color_refused() is expected
