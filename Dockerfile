# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt

FROM python:3.13-slim
# The project itself is not installed: this script is its command.
RUN printf '#!/bin/sh\nexec python -m app.cli "$@"\n' > /usr/local/bin/rapidbridge \
    && chmod 755 /usr/local/bin/rapidbridge
COPY --from=build /venv /venv
WORKDIR /app
COPY app app
COPY workers workers
# Compiled now: the file system is read-only when the container runs.
RUN /venv/bin/python -m compileall -q app workers
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', '8000')}/healthz\", timeout=4)"]
CMD ["gunicorn", "--config", "app/web/gunicorn_conf.py", "app.web.wsgi:app"]
