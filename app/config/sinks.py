"""Models of the sinks in the routes file. Pure."""

import json
import re
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from app.config.database_url import check_database_url, check_schema_name
from app.config.notify import check_http_url
from app.config.strict_model import StrictModel
from app.standard_webhooks import check_signing_secret

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,8000}[!-~])?")
# Those of the sink itself, and those that decide how a body is framed.
_OWN_HEADERS = {"content-type", "idempotency-key", "accept-encoding", "host", "content-length"}
_OWN_HEADERS |= {"transfer-encoding", "connection", "content-encoding", "expect", "upgrade", "te", "trailer"}

_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,100}")


def _check_function_path(path: str) -> str:
    module, _, function = path.partition(":")
    names = [*module.split("."), function]
    if not all(name.isidentifier() and not iskeyword(name) for name in names):
        raise ValueError('no place of a function; write "package.module:function"')
    return path


FunctionPath = Annotated[str, AfterValidator(_check_function_path)]


class SqlSinkConfig(StrictModel):
    """A PostgreSQL, SQLite, MySQL or MariaDB database with one table for each resource.

    database_schema: of the tables, in PostgreSQL; "" for the first one of the search_path.
    """

    type: Literal["sql"]
    url: Annotated[str, AfterValidator(check_database_url)] = Field(
        repr=False,
        pattern=r"^(postgres|postgresql|postgresql\+psycopg|sqlite|mysql|mysql\+pymysql|mariadb)://",
    )
    # pydantic's models have a method `schema`.
    database_schema: Annotated[str, AfterValidator(check_schema_name)] = Field(default="", alias="schema")

    @field_validator("database_schema")
    @classmethod
    def _check_schema(cls, schema: str, info: ValidationInfo) -> str:
        if info.data.get("url", "").startswith("sqlite:///"):
            raise ValueError("SQLite has no schemas; remove it, or use a PostgreSQL database")
        if info.data.get("url", "").startswith(("mysql", "mariadb")):
            raise ValueError("MySQL has no schemas beside databases; remove it: `url` names the database")
        return schema


class LoadSinkConfig(StrictModel):
    """A sink that writes many deliveries together, in loads.

    A load begins if the bodies that wait for it reach max_file_mb, uncompressed, or if one waits for
    max_file_age_s. The body that reaches the limit belongs to the load.
    """

    max_file_mb: int = Field(default=64, ge=1, le=256, strict=True)
    max_file_age_s: int = Field(default=300, ge=1, le=86400, strict=True)
    # A sink that fails must not turn its whole backlog into loads.
    max_open_loads: ClassVar[int] = 4
    # Whether a load may take minutes.
    has_long_loads: ClassVar[bool] = False


class FilesSinkConfig(LoadSinkConfig):
    """A folder, or a bucket of an object store, with one file for each partition of a load."""

    type: Literal["files"]
    url: str = Field(pattern=r"^(file:///|s3://[^/]|gs://[^/]|az://[^/])")
    format: Literal["jsonl", "parquet"] = "jsonl"
    compression: Literal["none", "gzip", "zstd"] = "gzip"

    @property
    def is_local(self) -> bool:
        """Whether the files are on a disk of this machine."""
        return self.url.startswith("file:")

    @property
    def local_folder(self) -> Path:
        """The folder on a disk of this machine."""
        return Path(unquote(urlsplit(self.url).path))

    @property
    def place(self) -> str:
        """The folder's URL."""
        return self.url


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("a name has characters that no header may have; use letters, digits and -")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
            raise ValueError(f"{name} is set by the sink itself; remove it")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the value of {name} is empty, or has characters other than printable ASCII")
    return headers


class HttpSinkConfig(StrictModel):
    """An endpoint of the user that receives records as JSON.

    secret: signs each request by the rules of Standard Webhooks. headers: added to each request.
    allow_private: the endpoint may have an address outside of the public internet. timeout_s: for one
    request. max_records, max_bytes: of one request; a larger record is sent alone.
    """

    type: Literal["http"]
    url: Annotated[str, AfterValidator(check_http_url)] = Field(repr=False)
    secret: Annotated[str, AfterValidator(check_signing_secret)] = Field(repr=False)
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)] = Field(
        default_factory=dict, repr=False
    )
    allow_private: bool = Field(default=False, strict=True)
    timeout_s: float = Field(default=10.0, ge=0.1, le=15, allow_inf_nan=False, strict=True)
    max_records: int = Field(default=500, ge=1, le=10_000, strict=True)
    max_bytes: int = Field(default=1_000_000, ge=1_000, le=100_000_000, strict=True)

    @property
    def place(self) -> str:
        """The server of the endpoint; the rest of its URL may be a secret."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


class PythonSinkConfig(StrictModel):
    """A function of the user that receives batches.

    target: "package.module:function". erase: of a function that erases an integrated account; "" for none.
    """

    type: Literal["python"]
    target: FunctionPath
    erase: Annotated[str, AfterValidator(lambda path: path and _check_function_path(path))] = ""

    @property
    def place(self) -> str:
        """The path of the function."""
        return self.target


def _check_brokers(brokers: str) -> str:
    if not all(_BROKER.fullmatch(broker) for broker in brokers.split(",")):
        raise ValueError('not host:port, separated by commas; write "kafka-1:9092,kafka-2:9092"')
    return brokers


def _check_topic(topic: str) -> str:
    name = topic.replace("{resource}", "x")
    if not _TOPIC.fullmatch(name) or set(name) == {"."} or topic.count("{resource}") > 1:
        raise ValueError(
            "not a topic; use letters, digits, _, - and ., 100 characters at most, and {resource} once for "
            "the name of the resource"
        )
    return topic


class KafkaSinkConfig(StrictModel):
    """Topics of a Kafka cluster with a message for each record.

    brokers: "host:port", separated by commas. topic: its name; {resource} stands for the resource. ca_file:
    of the authority that signed the brokers' certificates; "" for those of the system. max_message_bytes:
    larger records are rejected.
    """

    type: Literal["kafka"]
    brokers: Annotated[str, AfterValidator(_check_brokers)] = Field(max_length=1000)
    topic: Annotated[str, AfterValidator(_check_topic)] = "{resource}"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = Field(default="", repr=False)
    password: str = Field(default="", repr=False)
    ca_file: str = ""
    max_message_bytes: int = Field(default=1_000_000, ge=1_000, le=100_000_000, strict=True)

    @property
    def place(self) -> str:
        """The brokers and the topic."""
        return f"kafka://{self.brokers}/{self.topic}"

    @property
    def has_login(self) -> bool:
        """Whether the brokers verify a user."""
        return self.security_protocol.startswith("SASL_")

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        if self.has_login and not (self.username and self.password):
            raise ValueError('`username` or `password` is missing; add both, such as password = "$NAME"')
        if not self.has_login and (self.username or self.password):
            raise ValueError('the login is not used; add security_protocol = "SASL_SSL"')
        if self.ca_file and not self.security_protocol.endswith("SSL"):
            raise ValueError('`ca_file` is not used; use the security_protocol "SSL" or "SASL_SSL"')
        return self


_DATASET = re.compile("[a-z][a-z0-9_]{0,62}")
_DESTINATION_SCHEMES = {
    "clickhouse": "clickhouse://",
    "snowflake": "snowflake://",
    "redshift": "redshift://",
}


def _check_dataset(dataset: str) -> str:
    if not _DATASET.fullmatch(dataset):
        raise ValueError(
            "not a dataset; use lower-case letters, digits and _, a letter first, 63 characters at most"
        )
    return dataset


class WarehouseSinkConfig(LoadSinkConfig):
    """A dataset of an analytical database, with a table and a view for each resource.

    destination: its name in dlt. credentials: a URL, a JSON object with dlt's fields, or for duckdb the
    absolute path of a file; "" for dlt's own variables.
    """

    type: Literal["warehouse"]
    # Two at once would lock each other out of a DuckDB file, and compete for the schema of others.
    max_open_loads: ClassVar[int] = 1
    has_long_loads: ClassVar[bool] = True
    destination: Literal["bigquery", "clickhouse", "databricks", "duckdb", "redshift", "snowflake"]
    dataset: Annotated[str, AfterValidator(_check_dataset)] = "truto"
    credentials: str = Field(default="", repr=False, validate_default=True)

    @property
    def local_file(self) -> Path | None:
        """The file of a DuckDB database; None for other destinations."""
        return Path(self.credentials) if self.destination == "duckdb" else None

    @property
    def place(self) -> str:
        """The destination and the dataset."""
        # Not the database and the user of a URL: a password that is not encoded may be read as one of them.
        host = urlsplit(self.credentials).hostname if "://" in self.credentials else ""
        return f"{self.destination}://{self.local_file or host or ''}/{self.dataset}"

    @field_validator("credentials")
    @classmethod
    def _check_credentials(cls, credentials: str, info: ValidationInfo) -> str:
        destination = info.data.get("destination", "")
        if destination == "duckdb":
            if not credentials.startswith("/"):
                raise ValueError('no path of a file; write credentials = "/var/lib/warehouse.duckdb"')
        elif credentials.startswith("{"):
            if not _is_json_object(credentials):
                raise ValueError("not a JSON object; correct its syntax")
        elif credentials and not credentials.startswith(_DESTINATION_SCHEMES.get(destination, "{")):
            scheme = _DESTINATION_SCHEMES.get(destination)
            form = f"a URL that begins with {scheme}" if scheme else "a JSON object with dlt's fields"
            raise ValueError(f"not the credentials of {destination}; write {form}")
        return credentials


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


SinkConfig = Annotated[
    SqlSinkConfig
    | FilesSinkConfig
    | HttpSinkConfig
    | PythonSinkConfig
    | KafkaSinkConfig
    | WarehouseSinkConfig,
    Field(discriminator="type"),
]
