"""Settings: checked all together, and secrets never shown."""

import pytest

from app.config.settings import WebhookSecret, read_environment, read_settings
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
    assert (settings.port, settings.web_concurrency, settings.worker_concurrency) == (8000, 2, 1)
    assert settings.max_body_bytes == 32 * 1024 * 1024


def test_a_secret_may_be_pinned_to_a_webhook() -> None:
    settings = read_settings({"TRUTO_WEBHOOK_SECRET": " a , w1=b ,, c"})

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
        "TRUTO_API_TOKEN": "t",
    }

    assert read_settings({**GOOD, **others}).port == 8000


def test_a_sqlite_inbox_that_processes_cannot_share_is_reported() -> None:
    for variables in ({"DYNO": "web.1"}, {"DYNO": "web.1", "DATABASE_URL": "sqlite:////tmp/x.db"}):
        [problem] = find_problems(variables)
        assert problem.startswith("DATABASE_URL: ")


def test_the_environment_overrides_a_dotenv_file(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open(".env", "w", encoding="utf-8") as file:  # noqa: PTH123  # in the folder just entered
        file.write("PORT=1111\nWEB_CONCURRENCY=3\nREDIS_URL=\n")
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.setenv("DATABASE_URL", "  ")

    variables = read_environment()

    assert (variables["PORT"], variables["WEB_CONCURRENCY"]) == ("2222", "3")
    assert "REDIS_URL" not in variables
    assert "DATABASE_URL" not in variables
