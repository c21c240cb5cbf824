"""An agent: the SDK's own client of a `rapidbridge mcp` that it starts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters, Tool, stdio_client
from mcp.types import CallToolResult

from tests.support.processes import ROOT
from tests.support.web_process import make_environment


class Agent:
    """A client whose methods may be called from any thread. log: the server's standard error."""

    def __init__(self, portal: BlockingPortal, client: Client, log: Path) -> None:
        self._portal = portal
        self._client = client
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def instructions(self) -> str:
        return self._client.instructions or ""

    def list_tools(self) -> dict[str, Tool]:
        """Return all tools by name."""
        return {tool.name: tool for tool in self._portal.call(self._client.list_tools).tools}

    def call(self, tool: str, **arguments: Any) -> Any:
        """Return a tool's result, which must not be an error."""
        result = self._call(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    def call_wrongly(self, tool: str, **arguments: Any) -> str:
        """Return the message of a call that must fail."""
        result = self._call(tool, arguments)
        assert result.is_error, result.content
        return "\n".join(str(getattr(part, "text", "")) for part in result.content)

    def _call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        result = self._portal.call(self._client.call_tool, tool, arguments)
        assert isinstance(result, CallToolResult)
        return result


@contextmanager
def running_agent(folder: Path, *options: str, **settings: str) -> Iterator[Agent]:
    """Start `rapidbridge mcp` as an agent's program does; stop it at the end."""
    log = folder / "mcp.log"
    environment = make_environment(**settings) | {"PYTHONPATH": str(ROOT)}
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "app.cli", "mcp", *options], env=environment, cwd=folder
    )
    with log.open("w") as errors, start_blocking_portal() as portal:
        client = Client(stdio_client(parameters, errlog=errors))
        with portal.wrap_async_context_manager(client):
            yield Agent(portal, client, log)
