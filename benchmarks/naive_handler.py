"""A handler written by hand: verify, parse everything, put the payload onto RQ.

It is not durable: nothing is on disk when it answers.
"""

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
    """Report that the process is alive."""
    return {"status": "ok"}


@app.post("/webhooks/truto")
def receive() -> dict[str, str]:
    """Verify the event and enqueue all of it."""
    body = request.get_data()
    signature = request.headers["X-Truto-Signature"].partition("v=")[2]
    if not hmac.compare_digest(hmac.new(_secret, body, hashlib.sha256).hexdigest(), signature):
        abort(401)
    _queue.enqueue("tasks.handle", json.loads(body))
    return {"status": "accepted"}
