"""Settings and routes that weaken the receiver, each with what it gives up. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.config.load import Config
from app.config.routes import Route
from app.config.server_verification import (
    is_plain_http,
    is_plain_redis,
    is_this_machine,
    is_unverified_database,
    is_unverified_redis,
    is_unverified_warehouse,
)
from app.config.settings import Settings
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    PythonSinkConfig,
    SqlSinkConfig,
    WarehouseSinkConfig,
)

# Truto's retries take seconds, but its clock and a proxy's queue may differ by minutes.
_MIN_REPLAY_WINDOW_S = 900
_MAX_BODY_BYTES: int = Settings.model_fields["max_body_bytes"].default
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_READABLE = "somebody on the network can read the data and the password, and answer in place of the server"


@dataclass(frozen=True, slots=True)
class DangerousSetting:
    """A setting that weakens the receiver.

    kind: its row in docs/security.md. place: the setting as its user writes it, without secrets.
    gives_up: the consequence. advice: the next step.
    """

    kind: str
    place: str
    gives_up: str
    advice: str


def find_dangerous_settings(config: Config, variables: Mapping[str, str]) -> Iterator[DangerousSetting]:
    """Yield every setting that weakens the receiver. variables: see `read_driver_variables`."""
    yield from _find_in_settings(config.settings)
    yield from _find_unverified_servers(config, variables)
    for name, sink in config.routes.sinks.items():
        yield from _find_in_sink(name, sink, variables)
    for number, route in enumerate(config.routes.routes, start=1):
        yield from _find_in_route(config.find_route_place(number) or f"route {number}", route)
    for subscriber in config.routes.notify:
        place = f"[[notify]] {subscriber.name}"
        if is_plain_http(subscriber.url):
            yield _plain_http(place, "notifications")
        if subscriber.allow_private:
            yield _private_endpoint(place)


def _find_in_settings(settings: Settings) -> Iterator[DangerousSetting]:
    if settings.maintenance:
        yield DangerousSetting(
            "maintenance",
            "MAINTENANCE",
            "every new run is refused",
            "To accept runs again, restart the web process without it: unset MAINTENANCE",
        )
    if settings.attribute_to_open_run:
        yield DangerousSetting(
            "account_guess",
            "ATTRIBUTE_TO_OPEN_RUN=1",
            "the account of a batch that names none is guessed: records of one customer may get the rows of "
            "another",
            'Unset it, and name the account: `account = "PATH"` in the route, or a [[webhooks]] table',
        )
    if 0 < settings.replay_window_s < _MIN_REPLAY_WINDOW_S:
        yield DangerousSetting(
            "replay_window",
            f"REPLAY_WINDOW_S={settings.replay_window_s}",
            "pages that arrive late are refused and lost",
            f"Unset it, because a repeated event changes nothing; or set at least {_MIN_REPLAY_WINDOW_S}",
        )
    if settings.max_body_bytes > _MAX_BODY_BYTES:
        yield DangerousSetting(
            "large_bodies",
            f"MAX_BODY_BYTES={settings.max_body_bytes}",
            "clients without the secret may take the memory and the time for bodies of this size",
            f"Unset it for its default, {_MAX_BODY_BYTES}, unless Truto sends larger pages",
        )
    if settings.encryption_keys.ids and settings.encryption_keys.current is None:
        yield DangerousSetting(
            "encryption_off",
            "ENCRYPTION_KEYS=off,…",
            "new bodies, dead records and record errors are stored unencrypted",
            "Remove `off`, unless you want to decrypt all stored data with: rapidbridge keys rotate",
        )
    for name, url, content in (
        ("TRUTO_API_URL", settings.truto_api_url, "the API token"),
        ("PUBLIC_URL", settings.public_url, "the password of the dashboard"),
    ):
        if is_plain_http(url):
            yield _plain_http(name, content)


def _plain_http(place: str, content: str) -> DangerousSetting:
    gives_up = f"somebody on the network can read and change {content}"
    return DangerousSetting("plain_http", f"{place}: http://", gives_up, "Use an https:// URL")


def _private_endpoint(place: str) -> DangerousSetting:
    return DangerousSetting(
        "private_endpoint",
        f"{place} allow_private",
        "whoever controls the name of the endpoint can direct requests into your private network",
        f"Remove allow_private from {place}, unless the endpoint is in this network",
    )


def _find_unverified_servers(config: Config, variables: Mapping[str, str]) -> Iterator[DangerousSetting]:
    settings = config.settings
    urls = {
        "DATABASE_URL": settings.database_url,
        "MIGRATION_DATABASE_URL": settings.migration_database_url,
    } | {
        f"[sinks.{name}]": sink.url
        for name, sink in config.routes.sinks.items()
        if isinstance(sink, SqlSinkConfig) and sink.url != settings.database_url
    }
    for place, url in urls.items():
        if is_unverified_database(url, variables):
            is_mysql = url.startswith(("mysql", "mariadb"))
            parameters = (
                "ssl_mode=VERIFY_IDENTITY&ssl_ca=FILE" if is_mysql else "sslmode=verify-full&sslrootcert=FILE"
            )
            yield DangerousSetting(
                "database_tls",
                f"{place} without verified TLS",
                _READABLE,
                f"Add to the URL, with the certificate of its authority: ?{parameters}",
            )
    if is_plain_redis(settings.redis_url):
        yield DangerousSetting(
            "redis_plain",
            "REDIS_URL: redis://",
            _READABLE,
            "Use the server's port for TLS, with rediss:// in REDIS_URL",
        )
    if is_unverified_redis(settings.redis_url, tls_verify=settings.redis_tls_verify):
        place = "REDIS_URL without verification" if settings.redis_tls_verify else "REDIS_TLS_VERIFY=0"
        yield DangerousSetting(
            "redis_tls",
            place,
            "the server's certificate is not verified: somebody on the network can answer in its place",
            "Remove it, and name the authority of the certificate in REDIS_URL: ?ssl_ca_certs=FILE. Heroku's "
            "certificate is self-signed: keep the setting there",
        )


def _find_in_sink(name: str, sink: object, variables: Mapping[str, str]) -> Iterator[DangerousSetting]:
    place = f"[sinks.{name}]"
    if isinstance(sink, PythonSinkConfig):
        yield DangerousSetting(
            "python_code",
            f"{place} {sink.target}",
            "this function runs in the workers, with their rights and all secrets of their environment",
            "Check who may write its file and the routes file, or use a sink of the type http",
        )
    if isinstance(sink, HttpSinkConfig):
        if is_plain_http(sink.url):
            yield _plain_http(place, "the records")
        if sink.allow_private:
            yield _private_endpoint(place)
    if isinstance(sink, KafkaSinkConfig) and not sink.security_protocol.endswith("SSL"):
        brokers = [broker.rpartition(":")[0] for broker in sink.brokers.split(",")]
        if not all(map(is_this_machine, brokers)):
            yield DangerousSetting(
                "kafka_plain",
                f"{place} {sink.security_protocol}",
                _READABLE,
                f'Set security_protocol = "{"SASL_SSL" if sink.has_login else "SSL"}" in {place}',
            )
    if isinstance(sink, WarehouseSinkConfig) and is_unverified_warehouse(sink.credentials):
        parameter = "secure=1" if sink.destination == "clickhouse" else "sslmode=verify-full"
        yield DangerousSetting(
            "warehouse_tls",
            f"{place} without verified TLS",
            _READABLE,
            f"Add to its credentials: ?{parameter}",
        )
    if isinstance(sink, FilesSinkConfig) and sink.url.startswith("s3:"):
        for variable in _ENDPOINT_VARIABLES:
            if is_plain_http(variables.get(variable, "")):
                yield _plain_http(f"{place} {variable}", "the files")


def _find_in_route(place: str, route: Route) -> Iterator[DangerousSetting]:
    if route.account == "":
        yield DangerousSetting(
            "no_account",
            f'account = "" ({place})',
            "records of two customers with the same id are one row",
            "Remove it, unless you have a single customer",
        )
    if route.track_deletes and route.max_deleted_share == 1:
        yield DangerousSetting(
            "all_deletes",
            f"max_deleted_share = 1 ({place})",
            "a full sync that brings nothing marks every row deleted, and nobody is asked",
            "Set a smaller share, such as 0.2",
        )
