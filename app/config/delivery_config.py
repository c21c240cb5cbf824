"""The release, routes and sinks of a process, as workers publish them. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from app.config.database_identity import identify_database
from app.config.routes import Routes
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    PythonSinkConfig,
    SinkConfig,
    SqlSinkConfig,
    WarehouseSinkConfig,
)
from app.config.version import VERSION

_DIGEST_CHARS = 16


@dataclass(frozen=True, slots=True)
class DeliveryConfig:
    """The release, the sinks and the routes of a process.

    routes: a digest of all routes, of the accounts of webhooks and of the settings of workers. sinks: a
    digest of each sink's place, by name. No digest covers a user or a password.
    """

    version: str
    routes: str
    sinks: Mapping[str, str]

    @classmethod
    def build(cls, routes: Routes, *, late_records: str, to_open_run: bool) -> Self:
        """Return the configuration of a process with these routes, LATE_RECORDS and ATTRIBUTE_TO_OPEN_RUN."""
        # Without defaults, so that a key of a newer release changes no digest until it is used.
        rules = [
            rule.model_dump(mode="json", exclude_defaults=True) for rule in (*routes.routes, *routes.webhooks)
        ]
        sinks = {name: _digest(_describe_sink(sink)) for name, sink in sorted(routes.sinks.items())}
        return cls(VERSION, _digest([rules, late_records, to_open_run]), sinks)

    @property
    def digest(self) -> str:
        """A digest of the routes and the sinks, equal in every release."""
        return _digest([self.routes, dict(self.sinks)])

    def to_json(self) -> str:
        """Return the text that workers publish."""
        return json.dumps(asdict(self), sort_keys=True)

    def find_differences(self, published: str) -> list[str]:
        """Return how a worker differs, as phrases without a subject: "does not know sink lake".

        published: the text of `to_json`; a text of another release may have other members.
        """
        try:
            other = json.loads(published)
            version, routes, sinks = other["version"], other["routes"], dict(other["sinks"])
        except (ValueError, TypeError, KeyError):
            return ["is of an unknown release"]
        differences = [f"is of release {version}, not {self.version}"] if version != self.version else []
        differences += [f"does not know sink {name}" for name in self.sinks if name not in sinks]
        differences += [f"has a further sink {name}" for name in sinks if name not in self.sinks]
        differences += [
            f"has another place for sink {name}"
            for name, digest in self.sinks.items()
            if sinks.get(name, digest) != digest
        ]
        return differences + (["has other routes or settings"] if routes != self.routes else [])


def _describe_sink(sink: SinkConfig) -> list[str]:
    match sink:
        case SqlSinkConfig():
            return [sink.type, identify_database(sink.url, sink.database_schema)]
        case FilesSinkConfig():
            return [sink.type, sink.url, sink.format, sink.compression]
        case HttpSinkConfig():
            # Not its path: it may be a secret, and it may rotate.
            return [sink.type, sink.place]
        case PythonSinkConfig():
            return [sink.type, sink.target]
        case KafkaSinkConfig() | WarehouseSinkConfig():
            return [sink.type, sink.place]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
