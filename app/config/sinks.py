"""Models of the sinks in the routes file. Pure."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from app.config.database_url import check_database_url, check_schema_name
from app.config.strict_model import StrictModel


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


SinkConfig = Annotated[SqlSinkConfig | FilesSinkConfig, Field(discriminator="type")]
