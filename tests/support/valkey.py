"""A private Valkey on a unix socket."""

from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.cli.local.valkey import build_valkey_command
from tests.support.server import Server


class ValkeyServer(Server):
    """A Valkey as `up` and `demo` start it, but with a fuller log; call `stop` at the end."""

    def __init__(self, folder: Path, *options: str) -> None:
        command, self.url = build_valkey_command(folder)
        super().__init__(folder, [*command, "--loglevel", "notice", *options])
        self.start()

    def answers(self) -> bool:
        client = Redis.from_url(self.url)
        try:
            # Another server may answer at the same place.
            return bool(client.info("server")["process_id"] == self.pid)
        except RedisConnectionError:
            return False
        finally:
            client.close()
