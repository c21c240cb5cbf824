"""A server of the S3 protocol on loopback, in this process."""

from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

KEY = "test"


class S3Server:
    """moto's server, on a free port. It keeps its objects in memory, also while it is stopped."""

    def __init__(self) -> None:
        self._port = 0
        self._server: ThreadedMotoServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process reaches the server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start on the port of the first start."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        host_and_port = self._server.get_host_and_port()
        self._port = host_and_port[1]

    def stop(self) -> None:
        """Refuse connections until the next start."""
        if self._server:
            self._server.stop()
            # moto leaves the socket open: connections would wait.
            self._server._server.server_close()  # type: ignore[union-attr]
            self._server = None

    def clear(self) -> None:
        """Remove all buckets. The servers of one process share them."""
        httpx.post(f"{self.url}/moto-api/reset").raise_for_status()

    def client(self) -> Any:
        """Return a client that is not the receiver's."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=KEY,
            region_name="us-east-1",
        )
