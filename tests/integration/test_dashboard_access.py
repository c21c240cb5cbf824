"""Only those with a password read the dashboard, only those with the right one act, and nobody else's page."""

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from app.database.engine import open_database
from app.store.audit_log import AuditLog
from app.store.migrate import migrate
from app.store.schema import audit_log
from app.web.dashboard.access import SESSION_HOURS, SignInLimit
from tests.support.dashboard import PASSWORD, READ_PASSWORD, SETTINGS, DashboardClient
from tests.support.postgres import PostgresServer
from tests.support.web_process import WebProcess

PAGES = ["/audit", "/failed", "/operations"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def database_url(folder: Path) -> str:
    url = f"sqlite:///{folder}/inbox.db"
    database = open_database(url)
    migrate(database)
    database.close()
    return url


@pytest.fixture(scope="module")
def web(folder: Path, database_url: str, redis_url: str) -> Iterator[WebProcess]:
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, **SETTINGS) as process:
        yield process


def count_entries(database_url: str) -> int:
    database = open_database(database_url)
    number = len(database.read(select(audit_log.c.id)))
    database.close()
    return number


@pytest.mark.parametrize("path", PAGES)
def test_a_page_without_a_session_leads_to_the_sign_in_page_and_back(web: WebProcess, path: str) -> None:
    with DashboardClient(web.url, password=None) as client:
        refused = client.get(path)
        assert refused.status_code == 303
        assert refused.headers["Location"] == f"/login?next={path}"

        signed_in = client.http.post(refused.headers["Location"], data={"password": PASSWORD})

        assert signed_in.headers["Location"] == path
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "x",
        "WyJ3cml0ZSIsIngiXQ.awjHDg.1gRy3tMog4pz2V4GcznbnNt2fo8",
        "é".encode().decode("latin-1"),
        "." * 5000,
    ],
)
def test_a_forged_session_is_none(web: WebProcess, cookie: str) -> None:
    response = httpx.get(f"{web.url}/audit", headers={b"Cookie": f"rapidbridge={cookie}".encode("latin-1")})

    assert response.status_code == 303


def test_a_session_is_no_longer_valid_after_its_hours_or_with_other_secrets(
    web: WebProcess, folder: Path, database_url: str, redis_url: str
) -> None:
    with DashboardClient(web.url) as client:
        [cookie] = client.http.cookies.jar
        assert cookie.expires
        assert SESSION_HOURS * 3600 - 60 < cookie.expires - time.time() <= SESSION_HOURS * 3600
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "Lax"
        headers = {"Cookie": f"{cookie.name}={cookie.value}"}
        changed = {**SETTINGS, "DASHBOARD_PASSWORD": "a new password for all"}
        with WebProcess(folder, database_url=database_url, redis_url=redis_url, **changed) as other:
            assert httpx.get(f"{other.url}/audit", headers=headers).status_code == 303
        with WebProcess(folder, database_url=database_url, redis_url=redis_url, **SETTINGS) as other:
            assert httpx.get(f"{other.url}/audit", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_secure"),
    [
        ({}, False),
        ({"X-Forwarded-Proto": "https"}, True),
        ({"Host": "rapidbridge.example.com"}, True),
        ({"Host": "127.0.0.1.example.com"}, True),
    ],
)
def test_the_cookie_is_secure_except_on_this_machine(
    web: WebProcess, headers: dict[str, str], is_secure: bool
) -> None:
    response = httpx.post(f"{web.url}/login", data={"password": PASSWORD}, headers=headers)

    cookie = response.headers["Set-Cookie"]
    assert ("; Secure" in cookie, cookie.startswith("__Host-")) == (is_secure, is_secure)


def test_a_form_of_another_site_or_without_its_field_changes_nothing(
    web: WebProcess, database_url: str
) -> None:
    with DashboardClient(web.url) as client:
        before = count_entries(database_url)
        refused = [
            client.http.post("/logout"),
            client.http.post("/logout", data={"csrf": "guessed"}),
            client.http.post("/logout", data={"csrf": "\udcff".encode(errors="surrogatepass")}),
            client.http.post("/logout", data={"csrf": client.csrf}, headers={"Sec-Fetch-Site": "cross-site"}),
            client.http.post("/logout", data={"csrf": client.csrf}, headers={"Sec-Fetch-Site": "same-site"}),
        ]
        assert [response.status_code for response in refused] == [403] * 5
        assert "set-cookie" not in {name for response in refused for name in response.headers}
        assert count_entries(database_url) == before

        assert client.post("/logout").status_code == 303
        assert client.get("/audit").status_code == 303


def test_wrong_passwords_are_limited_for_a_client_and_sessions_go_on(
    folder: Path, database_url: str, redis_url: str
) -> None:
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, **SETTINGS) as web:
        with DashboardClient(web.url) as client:

            def try_password(password: str, address: str) -> int:
                headers = {"X-Forwarded-For": f"203.0.113.7, {address}"}
                response = client.http.post("/login", data={"password": password}, headers=headers)
                assert "password" not in response.headers.get("Location", "")
                return response.status_code

            answers = [try_password(f"guess {number}", "198.51.100.1") for number in range(7)]

            assert answers == [401] * SignInLimit.MAX_OF_CLIENT + [429] * 2
            # The right password helps only another client.
            assert try_password(PASSWORD, "198.51.100.1") == 429
            assert try_password(PASSWORD, "198.51.100.2") == 303
            for number in range(SignInLimit.MAX_OF_PROCESS):
                try_password("wrong", f"192.0.2.{number}")
            assert try_password(PASSWORD, "198.51.100.3") == 429
            assert client.get("/audit").status_code == 200
        assert "guess" not in web.log
        assert PASSWORD not in web.log


def test_a_head_request_to_the_sign_in_page_checks_no_password(web: WebProcess) -> None:
    form = {"password": PASSWORD}
    with DashboardClient(web.url, password=None) as client:
        answers = [client.http.request("HEAD", "/login", data=form)]
        wrong = {"password": "x" * 3000}
        answers += [
            client.http.request("HEAD", "/login", data=wrong) for _ in range(SignInLimit.MAX_OF_PROCESS)
        ]

        assert {answer.status_code for answer in answers} == {200}
        assert "set-cookie" not in answers[0].headers
        # Nobody is locked out.
        assert client.http.post("/login", data=form).status_code == 303


def test_the_limit_of_wrong_passwords_ends_with_its_window() -> None:
    now = [0.0]
    limit = SignInLimit(clock=lambda: now[0])
    for _ in range(SignInLimit.MAX_OF_CLIENT):
        assert not limit.is_reached("a")
        limit.record_failure("a")
    assert limit.is_reached("a")
    assert not limit.is_reached("b")

    now[0] = SignInLimit.WINDOW_S

    assert not limit.is_reached("a")


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "https://evil.example", "x", "/a\tb"]
)
def test_signing_in_leads_to_this_site_only(web: WebProcess, target: str) -> None:
    response = httpx.post(f"{web.url}/login", params={"next": target}, data={"password": READ_PASSWORD})

    assert response.headers["Location"] == "/"


def test_every_page_forbids_scripts_of_others_and_caches(web: WebProcess) -> None:
    with DashboardClient(web.url) as client:
        for path in (*PAGES, "/login"):
            headers = client.get(path).headers
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
        page = client.read("/audit")
        for asset in re.findall(r'(?:href|src)="(/assets/[^"]+)"', page):
            assert "immutable" in client.get(asset).headers["Cache-Control"]
        assert not re.findall(r"https?://", page)


def test_sign_ins_are_recorded_with_their_address(web: WebProcess, database_url: str) -> None:
    headers = {"X-Forwarded-For": "forged, 198.51.100.9"}
    httpx.post(f"{web.url}/login", data={"password": READ_PASSWORD}, headers=headers)

    database = open_database(database_url)
    [newest] = AuditLog(database).list_newest(limit=1)
    database.close()
    assert (newest.actor, newest.address) == ("dashboard, read-only", "198.51.100.9")
    assert (newest.action, newest.subject) == ("sign_in", "read")
    assert "action.sign_in" in web.log


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("forged, 203.0.113.7:51000", "203.0.113.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("any text of a client", "127.0.0.1"),
        ("203.0.113.7,", "127.0.0.1"),
    ],
)
def test_only_an_address_is_taken_from_a_header(
    web: WebProcess, database_url: str, forwarded: str, address: str
) -> None:
    httpx.post(f"{web.url}/login", data={"password": PASSWORD}, headers={"X-Forwarded-For": forwarded})

    database = open_database(database_url)
    [newest] = AuditLog(database).list_newest(limit=1)
    database.close()
    assert newest.address == address
    assert "any text" not in web.log


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x", ""])
def test_a_position_that_no_page_has_written_is_refused(web: WebProcess, time: str) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([time, "x"]).encode()).decode()
    with DashboardClient(web.url) as client:
        for path in ("/audit", "/runs"):
            response = client.get(path, after=cursor)
            assert response.status_code == 400, response.text
            assert "Go back to its first page" in response.text


def test_the_dashboard_is_off_without_a_password(folder: Path, database_url: str, redis_url: str) -> None:
    with WebProcess(folder, database_url=database_url, redis_url=redis_url) as web:
        response = web.request("GET", "/")
        assert response.http_status == 404
        assert "DASHBOARD_PASSWORD" in response.message
        for path in ("/login", "/audit", "/assets/dashboard.css"):
            assert web.request("GET", path).http_status == 404


def test_slow_and_large_forms_hold_no_place_of_the_pages(web: WebProcess) -> None:
    head = (
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 60000\r\n\r\npassword="
    )
    stalled = [socket.create_connection(("127.0.0.1", web.port), timeout=60) for _ in range(12)]
    try:
        for connection in stalled:
            connection.sendall(head)
        with DashboardClient(web.url) as client:
            began = time.monotonic()
            assert client.get("/audit").status_code == 200
            assert time.monotonic() - began < 4
            assert client.post("/logout", unused="x" * 60_000).status_code == 303
    finally:
        for connection in stalled:
            connection.close()
    # Reading a form takes CPU time, and anyone may send one to the sign-in page.
    with DashboardClient(web.url) as client:
        large = client.http.post("/login", data={"password": "x" * 2048})
        many = client.http.post("/login", files={f"{part}": (None, "") for part in range(20)})
        assert (large.status_code, many.status_code) == (413, 413)


def test_a_database_that_stalls_gives_a_page_that_says_so(
    folder: Path, private_postgres: PostgresServer, redis_url: str
) -> None:
    with private_postgres.database() as url:
        database = open_database(url)
        migrate(database)
        with WebProcess(folder, database_url=url, redis_url=redis_url, **SETTINGS) as web:
            with DashboardClient(web.url) as client, database.transaction() as connection:
                connection.exec_driver_sql("LOCK TABLE rapidbridge_audit_log IN ACCESS EXCLUSIVE MODE")
                answers: list[int] = []
                threads = [
                    threading.Thread(target=lambda: answers.append(client.get("/audit").status_code))
                    for _ in range(6)
                ]
                began = time.monotonic()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert answers == [503] * 6
                assert time.monotonic() - began < 30
                # The webhook has connections of its own.
                assert web.post(b'{"id": "e", "event": "test"}').http_status == 200
            with DashboardClient(web.url) as client:
                assert client.get("/audit").status_code == 200
        database.close()
