"""The files for platforms, as far as they run without the platform."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from app.cli.local.ports import find_free_port
from app.simulator.plan import Plan
from app.simulator.session import simulate
from tests.support.container import can_run_containers
from tests.support.postgres import PostgresServer
from tests.support.processes import find_descendants
from tests.support.service import running_whole_service
from tests.support.tls_proxy import make_certificate, tls_proxy
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import ROOT, WebProcess, make_environment, read_procfile_command
from tests.unit.test_deployment_files import find_instructions, read_render_services

PROGRAMS = str(Path(sys.executable).parent)


@pytest.fixture
def limited_url(postgres: PostgresServer) -> Iterator[str]:
    """Yields the URL of an empty database, for a role with 20 connections."""
    with postgres.database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE essential LOGIN CONNECTION LIMIT 20")
            connection.execute("GRANT CREATE ON SCHEMA public TO essential")
        yield url.replace("postgresql://postgres@", "postgres://essential@")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY essential")
            connection.execute("DROP ROLE essential")


@pytest.fixture
def heroku(limited_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables as Heroku sets them: those of app.json, and a Redis with a self-signed certificate."""
    app = json.loads((ROOT / "app.json").read_text())
    variables = {
        name: each.get("value") or secrets.token_hex(32)
        for name, each in app["env"].items()
        if each.get("required", True)
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(tmp_path))
    redis_port = find_free_port()
    server = ValkeyServer(tmp_path, "--port", str(redis_port))
    try:
        with socket.socket() as front:
            front.bind(("127.0.0.1", 0))
            with tls_proxy(front, ("127.0.0.1", redis_port), context):
                yield {
                    **variables,
                    "DYNO": "run.1",
                    "DATABASE_URL": limited_url,
                    "REDIS_URL": f"rediss://127.0.0.1:{front.getsockname()[1]}",
                }
    finally:
        server.stop()


def run(line: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = make_environment(**variables)
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_an_app_of_the_button_passes_its_check_after_the_first_deploy(heroku: dict[str, str]) -> None:
    app = json.loads((ROOT / "app.json").read_text())
    check = [sys.executable, *shlex.split(app["scripts"]["postdeploy"])[1:]]

    released = run(read_procfile_command("release"), **heroku)
    checked = run([*check, "--json"], **heroku)
    unverified = run(check, **heroku | {"REDIS_TLS_VERIFY": "1"})

    assert released.returncode == 0, released.stderr
    results = json.loads(checked.stdout)["checks"]
    failures = [result for result in results if result["level"] == "fail"]
    # The test's PostgreSQL does without fsync.
    assert {result["check"] for result in failures} <= {"durability"}, checked.stdout
    [connections] = [result for result in results if result["check"] == "connections"]
    assert (connections["level"], connections["message"].split(";")[1]) == (
        "ok",
        " the processes of one machine open up to 18",
    )
    assert unverified.returncode == 1
    assert "heroku config:set REDIS_TLS_VERIFY=0" in " ".join(unverified.stdout.split())
    assert not any(value in checked.stdout for value in heroku.values() if len(value) == 64)


def test_the_app_of_the_button_keeps_within_the_connections_of_its_plan(
    heroku: dict[str, str], tmp_path: Path
) -> None:
    superuser_url = heroku["DATABASE_URL"].replace("essential@", "postgres@")
    settings = {name: value for name, value in heroku.items() if name != "DATABASE_URL"}
    count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'essential'"
    seen: list[int] = []
    with (
        running_whole_service(tmp_path, heroku["DATABASE_URL"], **settings) as service,
        psycopg.connect(superuser_url, autocommit=True) as connection,
        ThreadPoolExecutor(16) as pool,
    ):
        # The whole limit, without the connections of this test itself.
        service.store.close()
        connection.execute("ALTER ROLE essential CONNECTION LIMIT 18")
        address = service.webhook_url.removesuffix("/webhooks/truto")
        headers = {"Authorization": f"Bearer {heroku['METRICS_TOKEN']}"}
        plan = Plan(
            url=service.webhook_url,
            secret=heroku["TRUTO_WEBHOOK_SECRET"],
            seed="connections",
            records=2000,
            batch_size=20,
            runs=8,
            parallel=8,
        )
        sending = pool.submit(simulate, plan, progress=lambda _: None)
        while not sending.done():
            paths = ["/readyz", "/metrics"] * 4
            answers = list(
                pool.map(lambda path: httpx.get(address + path, headers=headers, timeout=20), paths)
            )
            assert {answer.status_code for answer in answers} <= {200, 503}
            seen += [row[0] for row in connection.execute(count)]
        reports = sending.result()
        log = (tmp_path / "rapidbridge.log").read_text()

    assert len(reports) == 8
    assert 3 < max(seen) <= 18
    assert "no connection is free" not in log
    assert "store.unavailable" not in log


def test_a_dyno_has_the_command_without_an_installed_project() -> None:
    script = '. ./.profile; bash -c "rapidbridge --version"'

    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={"PATH": f"{PROGRAMS}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.startswith("rapidbridge, version ")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with the files that the image contains."""
    folder = tmp_path / "app"
    for words in find_instructions("COPY"):
        source, target = words.split()[-2:]
        if target in ("app", "workers"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, folder / target, ignore=ignore)
    return folder


# As `read_only`, `tmpfs` and `cap_drop` of compose.yaml; root owns its files, and has no other right.
RESTRICT = """
mount --bind "$0" /mnt && mount -o remount,ro,bind /mnt && mount -o remount,ro,bind / &&
mount -t tmpfs tmpfs "$1" && cd /mnt && shift && exec setpriv --bounding-set=-all --inh-caps=-all "$@"
"""


@pytest.mark.skipif(not can_run_containers(), reason="this user cannot create namespaces")
def test_the_files_of_the_image_suffice_in_a_read_only_file_system_without_rights(
    image: Path, redis_url: str
) -> None:
    scratch = image.parent / "tmp"
    scratch.mkdir()
    options, check = find_instructions("HEALTHCHECK")[0].split("CMD ", 1)
    [program, *arguments] = json.loads(check)
    variables = {
        "TRUTO_WEBHOOK_SECRET": secrets.token_hex(32),
        # Not reachable: the web process starts all the same, and would spool.
        "DATABASE_URL": "postgresql://u@127.0.0.1:1/d",
        "REDIS_URL": redis_url,
        "PORT": str(find_free_port()),
    }
    environment = make_environment(**variables) | {
        "PATH": f"{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": str(scratch),
    }
    command = json.loads(find_instructions("CMD")[0])
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    line = ["unshare", "--mount", *as_root, "sh", "-c", RESTRICT, str(image), str(scratch), *command]
    log_path = image.parent / "log"

    def check_health() -> int:
        return run([sys.executable, *arguments], PORT=variables["PORT"]).returncode

    with log_path.open("w") as log:
        web = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: check_health() == 0, timeout_s=30, what=log_path.read_text)
        finally:
            web.terminate()
            code = web.wait(30)

    assert program == "python"
    assert "--interval" in options
    assert code == 0, log_path.read_text()
    assert check_health() != 0
    assert "Traceback" not in log_path.read_text()
    assert not list(image.rglob("*.pyc"))


def test_web_processes_share_the_memory_of_their_modules(tmp_path: Path, redis_url: str) -> None:
    database_url = f"sqlite:///{tmp_path}/store.db"
    with WebProcess(tmp_path, database_url=database_url, redis_url=redis_url, WEB_CONCURRENCY="2") as web:
        wait_until(lambda: web.log.count("event=process.started") == 2, what=lambda: web.log)
        # A process that was started again shares them too.
        os.kill(find_descendants(web.pid)[0], signal.SIGKILL)
        wait_until(lambda: web.log.count("event=process.started") == 3, what=lambda: web.log)
        private_mb = [read_private_mb(pid) for pid in find_descendants(web.pid)]

    # Without the sharing, each has more than 60 MB.
    assert len(private_mb) == 2
    assert max(private_mb) < 30


def read_private_mb(pid: int) -> float:
    """Return the memory that a process does not share, in MB."""
    sizes = re.findall(r"^Private_\w+: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    return sum(map(int, sizes)) * 1024 / 1e6


def test_the_start_command_of_render_undoes_the_preload_that_render_sets(
    tmp_path: Path, redis_url: str
) -> None:
    preload = "--preload --access-logfile - --bind=127.0.0.1:10000"
    settings = {
        "TRUTO_WEBHOOK_SECRET": secrets.token_hex(32),
        "DATABASE_URL": f"sqlite:///{tmp_path}/store.db",
        "REDIS_URL": redis_url,
        "WEB_CONCURRENCY": "1",
        "PORT": str(find_free_port()),
    }
    environment = make_environment(**settings, GUNICORN_CMD_ARGS=preload)
    environment["PATH"] = f"{PROGRAMS}:{environment['PATH']}"
    line = shlex.split(read_render_services()["rapidbridge"]["startCommand"])
    url = f"http://127.0.0.1:{settings['PORT']}/healthz"

    def answers() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    bare = subprocess.run(
        line[line.index("gunicorn") :],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    with (tmp_path / "log").open("w") as log:
        web = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_until(answers, timeout_s=20, what=(tmp_path / "log").read_text)
        finally:
            web.terminate()
            code = web.wait(30)

    assert bare.returncode == 2
    assert "env -u GUNICORN_CMD_ARGS gunicorn" in bare.stderr
    assert code == 0
