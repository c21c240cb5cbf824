"""Models of the sinks in the routes file. Pure."""

import re
from keyword import iskeyword
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from app.config.database_url import check_database_url, check_schema_name
from app.config.notify import check_http_url
from app.config.strict_model import StrictModel
from app.standard_webhooks import check_signing_secret

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,8000}[!-~])?")
# Those of the sink itself, and those that decide how a body is framed.
_OWN_HEADERS = {"content-type", "idempotency-key", "accept-encoding", "host", "content-length"}
_OWN_HEADERS |= {"transfer-encoding", "connection", "content-encoding", "expect", "upgrade", "te", "trailer"}


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


class FilesSinkConfig(StrictModel):
    """A folder with one file for each delivery."""

    type: Literal["files"]
    url: str = Field(pattern=r"^file:///")
    format: Literal["jsonl"] = "jsonl"

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


SinkConfig = Annotated[
    SqlSinkConfig | FilesSinkConfig | HttpSinkConfig | PythonSinkConfig, Field(discriminator="type")
]
