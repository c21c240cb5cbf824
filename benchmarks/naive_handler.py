"""The handler that people write: verify, parse everything, put the payload onto RQ. Not durable."""

import hashlib
import hmac
import json
import os

from flask import Flask, abort, request
from redis import Redis
from rq import Queue

app = Flask(__name__)
_queue = Queue("by-hand", connection=Redis.from_url(os.environ["REDIS_URL"]))
_secret = os.environ["TRUTO_WEBHOOK_SECRET"].encode()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """Say that it lives."""
    return {"status": "ok"}


@app.post("/webhooks/truto")
def receive() -> dict[str, str]:
    """Hand the whole event to a worker."""
    body = request.get_data()
    claimed = request.headers["X-Truto-Signature"].partition("v=")[2]
    if not hmac.compare_digest(hmac.new(_secret, body, hashlib.sha256).hexdigest(), claimed):
        abort(401)
    _queue.enqueue("tasks.handle", json.loads(body))
    return {"status": "accepted"}
