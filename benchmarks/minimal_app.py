"""The least a receiver can do: read the body, answer 200. What `accept` compares with."""

from flask import Flask, request

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """Say that it lives."""
    return {"status": "ok"}


@app.post("/webhooks/truto")
def receive() -> dict[str, str]:
    """Read, and forget."""
    request.get_data()
    return {"status": "accepted"}
