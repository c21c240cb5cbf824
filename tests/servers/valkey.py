"""A real Valkey of the tests' own, on a unix socket."""

import subprocess
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.valkey import valkey_command
from tests.waiting import wait_until


class ValkeyServer:
    """Started in a private folder; `stop` it at the end."""

    def __init__(self, folder: Path) -> None:
        command, self.url = valkey_command(folder)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, what="Valkey to answer")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Valkey ended"
        client = Redis.from_url(self.url)
        try:
            # Whoever answers must be the server that was started here.
            return bool(client.info("server")["process_id"] == self._process.pid)
        except RedisConnectionError:
            return False
        finally:
            client.close()
