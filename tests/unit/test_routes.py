"""Routes: the first match holds, and a broken file says everything that is wrong with it."""

import pytest

from app.config.routes import ColumnConfig, GateConfig, Route, Routes, build_default_routes
from app.config.routes_file import read_routes
from app.errors import ConfigError

SINKS = (
    '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n[sinks.lake]\ntype = "files"\nurl = "file:///lake"\n'
)
VARIABLES = {
    "DATABASE_URL": "postgres://u:hidden@h/d",
    "NAME": "x",
    "SLACK_URL": "https://hooks.slack.example/services/hidden",
    "NOTIFY_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "BROKEN": "hidden",
}
NOTIFY = f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "$NOTIFY_SECRET"\n'


def read(text: str) -> Routes:
    return read_routes(SINKS + text, source="routes.toml", variables=VARIABLES)


def match(routes: Routes, **about: str) -> Route | None:
    request = {
        "event": "sync_job_run:record",
        "resource": "crm/contacts",
        "method": "list",
        "account": "a",
        **about,
    }
    return routes.find_route(
        **request, has_records=request["event"] in ("sync_job_run:record", "record:created")
    )


def find_problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        read_routes(text, source="routes.toml", variables=VARIABLES)
    assert all(complaint.startswith("routes.toml: ") for complaint in refusal.value.problems)
    assert "hidden" not in str(refusal.value)
    return [complaint.removeprefix("routes.toml: ") for complaint in refusal.value.problems]


def test_the_first_match_holds() -> None:
    routes = read(
        '[[routes]]\nresource = "crm/contacts"\nmethod = "get"\nsinks = ["lake"]\n'
        '[[routes]]\nresource = "crm/*"\nsinks = ["main", "lake"]\ncolumns = {email = "text", n = {type = "integer", path = "a.0"}}\n'
        '[[routes]]\nintegrated_account_id = "a?"\nsinks = ["main"]\ntable = "t"\nresource = "x"\nkey = "uid"\n'
        '[[routes]]\nevent = "integrated_account:*"\nsinks = []\n'
    )

    assert match(routes, method="get") == routes.routes[0]
    assert match(routes) == routes.routes[1]
    assert match(routes, resource="x", account="a1") == routes.routes[2]
    assert match(routes, resource="x", account="b1") is None
    assert match(routes, event="integrated_account:created") == routes.routes[3]
    assert match(routes, event="test") is None
    assert routes.routes[1].columns == {
        "email": ColumnConfig(type="text"),
        "n": ColumnConfig(type="integer", path="a.0"),
    }


def test_by_default_every_record_goes_to_the_database() -> None:
    routes = build_default_routes("sqlite:///x")

    assert match(routes) == match(routes, event="record:created") == Route(sinks=("main",))
    assert match(routes, event="sync_job_run:started") is None


def test_variables_stand_for_what_the_environment_says() -> None:
    routes = read_routes(
        '[sinks.main]\ntype = "files"\nurl = "file:///${NAME}/$NAME"\n', source="f", variables=VARIABLES
    )

    assert routes.sinks["main"].url == "file:///x/x"
    assert "hidden" not in repr(read(""))


def test_runs_are_refused_by_rule() -> None:
    routes = read(
        '[[refuse]]\nintegrated_account_id = "sandbox-*"\nsync_job_id = "j1"\nreason = "no sandbox"\n'
        '[[refuse]]\nenvironment_id = "old"\nreason = "gone"\n'
    )

    def refusal(job: str, account: str, environment: str) -> str | None:
        return routes.find_refusal_reason(
            sync_job_id=job, integrated_account_id=account, environment_id=environment
        )

    assert refusal("j1", "sandbox-1", "") == "no sandbox"
    assert refusal("j2", "sandbox-1", "") is None
    assert refusal("j2", "a", "old") == "gone"
    assert refusal("", "", "") is None


def test_where_runs_are_allowed_by_rule_all_others_are_refused() -> None:
    routes = read(
        '[[allow]]\nintegrated_account_id = "a-*"\nenvironment_id = "live"\n[[allow]]\nsync_job_id = "j1"\n'
        '[[refuse]]\nintegrated_account_id = "a-2"\nreason = "gone"\n'
    )

    def refusal(job: str, account: str, environment: str) -> str | None:
        return routes.find_refusal_reason(
            sync_job_id=job, integrated_account_id=account, environment_id=environment
        )

    assert refusal("j2", "a-1", "live") is None
    assert refusal("j1", "b-1", "test") is None
    assert refusal("j2", "a-1", "test") == "no [[allow]] of the routes file matches this run"
    assert refusal("", "", "") == "no [[allow]] of the routes file matches this run"
    assert refusal("j1", "a-2", "live") == "gone"


def test_every_rule_of_the_gate_is_off_unless_it_is_named() -> None:
    assert read("").gate == build_default_routes("sqlite:///x").gate == GateConfig()
    assert (GateConfig().unrouted, GateConfig().overlapping, GateConfig().oldest_pending_s) == (
        False,
        False,
        None,
    )

    rules = read("[gate]\nunrouted = true\noverlapping = true\noldest_pending_s = 900\n").gate

    assert (rules.unrouted, rules.overlapping, rules.oldest_pending_s) == (True, True, 900)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[x", "not TOML"),
        ("", "[sinks]: field required."),
        ("sinks = 3", "[sinks]: input should be a valid dictionary."),
        ('[sinks.a]\ntype = "sqk"\n', '[sinks.a]: there is no such type of sink: use type = "sql" or type = "files".'),
        ('[sinks.a]\nurl = "x"\n', '[sinks.a]: a sink needs a type: type = "sql" or type = "files".'),
        ('[sinks.a]\ntype = "sql"\n', "[sinks.a], url: field required."),
        ('[sinks.a]\ntype = "files"\nurl = "s3://b"\n', "[sinks.a], url: not supported"),
        ('[sinks.a]\ntype = "files"\nurl = "file://relative"\n', "[sinks.a], url: not supported"),
        ('[sinks.a]\ntype = "files"\nurl = "file:///a"\nformat = "parquet"\n', "[sinks.a], format: not supported yet"),
        ('[sinks.a]\ntype = "sql"\nurl = "$NOPE"\n', "[sinks.a]: $NOPE is not set in the environment."),
        ('[sinks.a]\ntype = "sql"\nurl = "sqlite:///x"\nurk = 1\n', "[sinks.a], urk: nothing reads this; did you mean url?"),
        (f"{SINKS}[[routes]]\n", "[[routes]] 1, sinks: field required."),
        (f'{SINKS}[[routes]]\nsinks = ["mian"]\n', "[[routes]] 1, sinks: there is no sink mian; did you mean main?"),
        (f'{SINKS}[[routes]]\nsinks = []\n[[routes]]\nsinks = ["x"]\n', "[[routes]] 2, sinks: there is no sink x; define"),
        (f'{SINKS}[[routes]]\nsinks = []\nresourc = "x"\n', "[[routes]] 1, resourc: nothing reads this; did you mean resource?"),
        (f'{SINKS}[[routes]]\nsinks = []\ntable = "T able"\n', "[[routes]] 1, table: "),
        (f'{SINKS}[[routes]]\nsinks = []\ncolumns = {{data = "text"}}\n', "[[routes]] 1, columns: data is the sink's own"),
        (f'{SINKS}[[routes]]\nsinks = []\ncolumns = {{Name = "text"}}\n', "[[routes]] 1, columns.Name"),
        (f'{SINKS}[[routes]]\nsinks = []\ncolumns = {{name = "txt"}}\n', "[[routes]] 1, columns.name.type: "),
        (f'{SINKS}[[routes]]\nsinks = []\nmissing_key = "skip"\n', "[[routes]] 1, missing_key: "),
        (f'{SINKS}[[routes]]\nsinks = ["main"]\nresource = "a/*"\ntable = "t"\n', "[[routes]] 1, table: t in sink main would"),
        (f"{SINKS}[[refuse]]\n", "[[refuse]] 1, reason: field required."),
        (f"{SINKS}[refuse]\n", "[refuse]: there may be several; write [[refuse]]."),
        (f'{SINKS}[allow]\nsync_job_id = "x"\n', "[allow]: there may be several; write [[allow]]."),
        (f'{SINKS}[[allow]]\nsync_job = "x"\n', "[[allow]] 1, sync_job: nothing reads this; did you mean sync_job_id?"),
        (f'{SINKS}[[allow]]\n[[allow]]\nreason = "x"\n', "[[allow]] 2, reason: nothing reads this; known are sync_job_id,"),
        (f"{SINKS}[[allow]]\nsync_job_id = 1\n", "[[allow]] 1, sync_job_id: input should be a valid string."),
        (f"{SINKS}[[gate]]\n", "[gate]: must be one table; write [gate], and its keys below it."),
        (f"gate = true\n{SINKS}", "[gate]: must be one table; write [gate], and its keys below it."),
        (f"{SINKS}[gate]\noverlaping = true\n", "[gate], overlaping: nothing reads this; did you mean overlapping?"),
        (f"{SINKS}[gate]\nx = 1\n", "[gate], x: nothing reads this; known are unrouted, overlapping, oldest_pending_s."),
        (f'{SINKS}[gate]\nunrouted = "yes"\n', "[gate], unrouted: input should be a valid boolean."),
        (f"{SINKS}[gate]\noverlapping = 1\n", "[gate], overlapping: input should be a valid boolean."),
        (f"{SINKS}[gate]\noldest_pending_s = true\n", "[gate], oldest_pending_s: input should be a valid integer."),
        (f"{SINKS}[gate]\noldest_pending_s = 0\n", "[gate], oldest_pending_s: input should be greater than or equal to 1."),
        (f"{SINKS}[gates]\n", "[gates]: nothing reads this; did you mean gate?"),
        (f"{SINKS}[[route]]\n", "[route]: nothing reads this; did you mean routes?"),
        (f'{SINKS}[[notify]]\nsecret = "$NOTIFY_SECRET"\n', "[[notify]] 1, url: field required."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\n', "[[notify]] 1: without a `secret` nothing can be signed: write whsec_ and"),
        (f'{SINKS}[[notify]]\nurl = "$BROKEN"\nform = "slack"\n', "[[notify]] 1, url: no address: write https://… or http"),
        (f'{SINKS}[[notify]]\nurl = "https://x:hidden"\nform = "slack"\n', "[[notify]] 1, url: no address: write https://… or http"),
        (f'{SINKS}[[notify]]\nurl = "ftp://x"\nform = "slack"\n', "[[notify]] 1, url: no address: write https://… or http"),
        (f'{SINKS}[[notify]]\nurl = "https:///hidden"\nform = "slack"\n', "[[notify]] 1, url: no address: write https://… or http"),
        (f'{SINKS}[[notify]]\nurl = "$NOPE"\nsecret = "$NOTIFY_SECRET"\n', "[[notify]] 1: $NOPE is not set in the environment."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "$NOPE"\n', "[[notify]] 1: $NOPE is not set in the environment."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "$BROKEN"\n', "[[notify]] 1, secret: not whsec_ and the base64 of 24 to 64 bytes: write"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "whsec_hidden=="\n', "[[notify]] 1, secret: not whsec_ and the base64 of 24"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "whsec_hiddenhidden"\n', "[[notify]] 1, secret: not whsec_ and the base64 of 24"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "whsec_{"hidden" * 16}"\n', "[[notify]] 1, secret: not whsec_ and the base64 of 24"),
        (f'{NOTIFY}form = "slack"\n', "[[notify]] 1: nobody checks signatures at Slack: take `secret` out."),
        (f'{NOTIFY}form = "teams"\n', "[[notify]] 1, form: input should be 'standard' or 'slack'."),
        (f'{NOTIFY}events = ["run.*", "run.reconcild"]\n', "[[notify]] 1, events.1: nothing is called run.reconcild; did you mean run.reconciled?"),
        (f'{NOTIFY}events = ["order.*"]\n', "[[notify]] 1, events.0: nothing is called order.*; known are run.reconciled, run.inc"),
        (f"{NOTIFY}events = []\n", "[[notify]] 1, events: it would be told of nothing: leave `events` out"),
        (f'{NOTIFY}event = "run.*"\n', "[[notify]] 1, event: nothing reads this; did you mean events?"),
        (f'{NOTIFY}name = "a b"\n', "[[notify]] 1, name: "),
        (f'{NOTIFY}{NOTIFY.removeprefix(SINKS)}name = "notify-1"\n', "[[notify]] 2, name: another is called notify-1; give each"),
        (f"notify = [3]\n{SINKS}", "[[notify]] 1: input should be a valid dictionary"),
        (f"{SINKS}[notify]\n", "[notify]: there may be several; write [[notify]]."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, complaint: str) -> None:
    [found] = find_problems(text)

    assert found.startswith(complaint)


def test_who_is_told_is_named_and_its_secrets_are_not_shown() -> None:
    routes = read(
        f'{NOTIFY.removeprefix(SINKS)}[[notify]]\nurl = "$SLACK_URL"\nform = "slack"\nevents = ["run.*", "sink.failing"]\n'
        '[[notify]]\nurl = "http://localhost:1/hidden"\nname = "ops"\nform = "slack"\nevents = ["*.inactive"]\n'
    )

    first, second, third = routes.notify
    assert [spec.name for spec in routes.notify] == ["notify-1", "notify-2", "ops"]
    assert (first.url, first.form, first.signing_key.hex()) == (
        "https://x",
        "standard",
        "31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0",
    )
    assert second.url == VARIABLES["SLACK_URL"]
    assert [spec.accepts("run.reconciled") for spec in routes.notify] == [True, True, False]
    assert [spec.accepts("webhook.inactive") for spec in routes.notify] == [True, False, True]
    assert third.accepts("sink.inactive")
    assert "hidden" not in repr(routes)
    assert "whsec" not in repr(routes)


def test_two_resources_in_one_table_are_refused() -> None:
    route = '[[routes]]\nresource = "{}"\nmethod = "{}"\nsinks = ["main"]\ntable = "t"\n'

    assert read(route.format("a", "list") + route.format("a", "get")).routes[1].table == "t"
    [complaint] = find_problems(SINKS + route.format("a", "list") + route.format("b", "list"))
    assert complaint.startswith("[[routes]] 2, table: ")


def test_all_complaints_come_at_once() -> None:
    assert len(find_problems('[sinks.a]\ntype = "sqk"\n[[routes]]\n[[refuse]]\n[other]\n')) == 4
