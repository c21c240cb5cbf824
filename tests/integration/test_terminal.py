"""Commands on terminals of any encoding, with a full disk, and in folders that cannot be written."""

import os
import pty
import re
import select
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.cli import main
from app.database.engine import open_database
from app.store.migrate import migrate
from app.store.models import RunUpdate
from app.store.runs import Runs
from tests.support.processes import ROOT
from tests.support.seeded_store import SeededStore, build_command
from tests.support.web_process import make_environment
from tests.unit.test_program import list_paths

# No process can create a file here, not even root's.
UNWRITABLE = Path("/proc")
# Not in every encoding: an arrow, an ellipsis, an accent, a character of Japanese.
RESOURCE = "crm/zażółć→…日"
NO_FILES = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[SeededStore]:
    url = f"sqlite:///{tmp_path}/store.db"
    database = open_database(url)
    migrate(database)
    store = SeededStore(database, url)
    store.put("dead", "sink_set_up", resource=RESOURCE)
    yield store
    database.close()


def run(
    *words: str,
    folder: Path = ROOT,
    stdout: int = subprocess.PIPE,
    prefix: Sequence[str] = (),
    **settings: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command; its standard error is kept."""
    return subprocess.run(
        [*prefix, *build_command(*words)],
        cwd=folder,
        env=make_environment(**{"PYTHONPATH": str(ROOT)} | settings),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )


def join(message: bytes) -> str:
    """Return a wrapped message as one line."""
    return " ".join(message.decode().split())


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        ("deliveries", "--help"),
        ("deliveries", "list"),
        ("deliveries", "list", "--json"),
        ("deliveries", "export"),
        ("dead", "list"),
        ("migrate",),
    ],
    ids=" ".join,
)
def test_a_full_disk_behind_the_output_is_one_message(seeded: SeededStore, words: tuple[str, ...]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)

    ran = run(*words, stdout=full, DATABASE_URL=seeded.url)

    os.close(full)
    assert ran.returncode == 1
    assert join(ran.stderr) == (
        "The output cannot be written: No space left on device. Free some space, or write to another place."
    )


@pytest.mark.parametrize(
    "words", [("deliveries", "list"), ("deliveries", "export"), ("--help",)], ids=" ".join
)
def test_a_closed_pipe_ends_a_command_without_a_message(seeded: SeededStore, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    ran = run(*words, stdout=writing, DATABASE_URL=seeded.url)

    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8", "euc-jp"])
def test_every_encoding_of_a_terminal_shows_every_name(seeded: SeededStore, encoding: str) -> None:
    for words in (("deliveries", "list"), ("dead", "list"), ("deliveries", "list", "--resource", "crm/→*")):
        ran = run(*words, DATABASE_URL=seeded.url, PYTHONIOENCODING=encoding)

        assert ran.returncode in (0, 1)
        assert b"Traceback" not in ran.stderr
        if "--resource" not in words:
            assert b"crm/za" in ran.stdout
    unknown = run("deliveries", "show", "zażółć→日", DATABASE_URL=seeded.url, PYTHONIOENCODING=encoding)
    assert unknown.returncode == 2
    assert b"Traceback" not in unknown.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_every_help_can_be_shown_in_every_encoding(encoding: str) -> None:
    paths = sorted(list_paths(main))
    script = (
        "import app.cli\n"
        f"for path in {paths!r}:\n"
        "    app.cli.main([*path, '--help'], prog_name='rapidbridge', standalone_mode=False)"
    )

    ran = subprocess.run(
        [*build_command()[:1], "-c", script],
        cwd=ROOT,
        env=make_environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert ran.stderr == b""
    assert ran.stdout.count(b"Usage: ") == len(paths)


@pytest.mark.parametrize(
    ("no_color", "term", "has_colors"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)]
)
def test_a_terminal_gets_colors_unless_they_are_refused(
    seeded: SeededStore, no_color: str, term: str, *, has_colors: bool
) -> None:
    for words in (("deliveries", "list"), ("dead", "list")):
        reading, writing = pty.openpty()
        run(*words, stdout=writing, DATABASE_URL=seeded.url, NO_COLOR=no_color, TERM=term)
        shown = os.read(reading, 65536)
        os.close(reading)
        os.close(writing)

        assert b"crm/za" in shown
        assert (b"\x1b[" in shown) is has_colors


def test_a_watched_run_is_redrawn_without_colors(seeded: SeededStore) -> None:
    Runs(seeded.store).upsert(RunUpdate("run-1", "job", "account", "environment", datetime.now(UTC)))
    reading, writing = pty.openpty()
    settings = {"DATABASE_URL": seeded.url, "NO_COLOR": "1", "TERM": "xterm"}

    with subprocess.Popen(
        build_command("runs", "watch", "--interval", "0.5"),
        cwd=ROOT,
        env=make_environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=writing,
    ) as watch:
        shown = b""
        while b"A\x1b[J" not in shown:
            assert select.select([reading], [], [], 30)[0], shown
            shown += os.read(reading, 65536)
        watch.send_signal(signal.SIGINT)
    os.close(reading)
    os.close(writing)

    assert b"run run-1" in shown
    assert re.findall(rb"\x1b\[[\d;]*m", shown) == []


@pytest.mark.parametrize("words", [("up",), ("webhook", "listen")], ids=" ".join)
def test_a_folder_that_cannot_be_written_is_reported_with_the_next_step(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "var").touch()
    for folder in (UNWRITABLE, tmp_path):
        ran = run(*words, folder=folder)

        assert ran.returncode == 2
        assert re.fullmatch(
            r"var/webhook-secret: cannot be created \([\w ]+\)\. Run the command in a folder that you can write, "
            r"or set TRUTO_WEBHOOK_SECRET\.",
            join(ran.stderr),
        )


@pytest.mark.parametrize("words", [("up",), ("migrate",)], ids=" ".join)
def test_a_database_that_cannot_be_created_is_reported(words: tuple[str, ...]) -> None:
    ran = run(*words, folder=UNWRITABLE, TRUTO_WEBHOOK_SECRET="s3cr3t")

    assert ran.returncode == 3
    assert join(ran.stderr).startswith("the folder of the database file cannot be created")


def test_a_working_folder_that_was_removed_is_reported(tmp_path: Path) -> None:
    in_removed_folder = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh"]

    ran = run(
        "up",
        folder=tmp_path,
        prefix=in_removed_folder,
        TRUTO_WEBHOOK_SECRET="s3cr3t",
        REDIS_URL="redis://127.0.0.1:1/0",
    )

    assert ran.returncode == 1
    assert join(ran.stderr) == "The working folder does not exist any more. Change to another one: cd"


def test_a_missing_temporary_folder_is_reported(tmp_path: Path) -> None:
    for words in (("webhook", "listen"), ("demo",), ("demo", "--keep")):
        ran = run(*words, folder=tmp_path, prefix=NO_FILES, TRUTO_WEBHOOK_SECRET="s3cr3t")

        assert ran.returncode == 2
        message = join(ran.stderr)
        assert message.startswith("TMPDIR: no temporary folder can be created (")
        assert message.endswith("Set TMPDIR to a folder that can be written.")


def test_the_development_secret_is_private_and_never_written_through_a_link(tmp_path: Path) -> None:
    secret_file = tmp_path / "var" / "webhook-secret"
    secret_file.parent.mkdir()
    secret_file.symlink_to(tmp_path / "planted")
    planted = run("up", folder=tmp_path)
    secret_file.unlink()
    secret_file.touch()
    empty = run("up", folder=tmp_path)
    secret_file.write_bytes(b"\xff")
    not_text = run("up", folder=tmp_path)

    assert (planted.returncode, empty.returncode, not_text.returncode) == (2, 2, 2)
    assert "cannot be created (File exists)" in join(planted.stderr)
    assert not (tmp_path / "planted").exists()
    assert join(empty.stderr) == "var/webhook-secret: is empty. Remove it with: rm var/webhook-secret"
    assert "cannot be read (it is not ASCII text)" in join(not_text.stderr)


def test_an_export_never_follows_a_planted_link_and_is_private(seeded: SeededStore, tmp_path: Path) -> None:
    file, victim = tmp_path / "all.jsonl", tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "all.jsonl.part").symlink_to(victim)
    loose = tmp_path / "loose.jsonl.part"
    loose.touch()
    loose.chmod(0o666)

    seeded.rapidbridge("deliveries", "export", "--output", str(file))
    seeded.rapidbridge("deliveries", "export", "--output", str(tmp_path / "loose.jsonl"))
    file.chmod(0o644)
    seeded.rapidbridge("deliveries", "export", "--output", str(file), "--force")

    assert victim.read_text() == "untouched"
    for exported in (file, tmp_path / "loose.jsonl"):
        assert not exported.is_symlink()
        assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".export-*"))


def test_an_export_replaces_only_files(seeded: SeededStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for target in (pipe, tmp_path):
        ran = seeded.rapidbridge("deliveries", "export", "--output", str(target), "--force", code=2)
        assert "is not a file: choose another name" in " ".join(ran.stderr.split())
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_an_export_to_a_full_disk_leaves_no_file(seeded: SeededStore, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()

    ran = run(
        "deliveries", "export", "--output", f"{folder}/{name}", prefix=NO_FILES, DATABASE_URL=seeded.url
    )

    assert ran.returncode == 2
    assert f"{folder}/{name} cannot be written: " in join(ran.stderr)
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    assert not list(folder.iterdir())


def read_bytes_settings(name: str, value: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program with a setting that need not be UTF-8."""
    valid = {
        "TRUTO_WEBHOOK_SECRET": "s3cr3t",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": "postgres://127.0.0.1:1/d",
    }
    environment = {name.encode(): text.encode() for name, text in make_environment(**valid).items()}
    return subprocess.run(
        words,
        cwd=ROOT,
        env=environment | {name.encode(): value},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUTO_WEBHOOK_SECRET", b"hunter2\xff"),
        ("TRUTO_WEBHOOK_SECRET", "hunter2é".encode()),
        ("TRUTO_WEBHOOK_SECRET", b"hunter2,,b"),
        ("TRUTO_API_TOKEN", b"hunter2\xff"),
        ("REDIS_URL", b"redis://:a/hunter2@host"),
        ("REDIS_URL", b"redis://:1/hunter2@host"),
        ("REDIS_URL", b"redis://:hunter2\xff@host"),
        ("DATABASE_URL", b"postgres://u:a@hunter2@host/d"),
        ("DATABASE_URL", b"postgres://u:hunter2\nx@host/d"),
        ("DATABASE_URL", b"postgres://u:hunter2@host:port/d"),
    ],
)
def test_every_process_refuses_an_unusable_secret_by_name(name: str, value: bytes) -> None:
    python = build_command()[0]
    for words in (
        (python, "-c", "import app.web.gunicorn_conf"),
        (python, "-m", "workers.main"),
        (python, "-m", "app.cli", "worker"),
        (python, "-m", "app.cli", "up"),
        (python, "-m", "app.cli", "deliveries", "list"),
    ):
        ran = read_bytes_settings(name, value, *words)

        assert ran.returncode == 2, ran.stderr
        assert ran.stdout == b""
        assert ran.stderr.startswith(f"{name}: ".encode())
        assert b"hunter2" not in ran.stderr
        assert b"Traceback" not in ran.stderr


def test_a_log_line_without_a_standard_error_is_dropped() -> None:
    script = "import app.logs, structlog; app.logs.configure_logging(); structlog.get_logger().info('x'); print('done')"

    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", build_command()[0], "-c", script],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (0, b"done\n")
