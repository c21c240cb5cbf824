"""The smallest receiver: it reads the body and answers 200."""

from flask import Flask, request

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """Report that the process is alive."""
    return {"status": "ok"}


@app.post("/webhooks/truto")
def receive() -> dict[str, str]:
    """Read the body and discard it."""
    request.get_data()
    return {"status": "accepted"}
