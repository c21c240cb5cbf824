"""A real Valkey of the tests' own, on a unix socket."""

from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.cli.local.valkey import build_valkey_command
from tests.support.server import Server


class ValkeyServer(Server):
    """Started in a private folder, as `up` and `demo` start theirs, but for its log; `stop` it at the end."""

    def __init__(self, folder: Path, *options: str) -> None:
        command, self.url = build_valkey_command(folder)
        super().__init__(folder, [*command, "--loglevel", "notice", *options])
        self.start()

    def answers(self) -> bool:
        client = Redis.from_url(self.url)
        try:
            # Whoever answers must be the server that was started here.
            return bool(client.info("server")["process_id"] == self.pid)
        except RedisConnectionError:
            return False
        finally:
            client.close()
