"""Routes: the first match wins, and every problem of a file is reported with its place."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config.load import read_config
from app.config.notify import NotifyConfig
from app.config.routes import (
    ColumnConfig,
    GateConfig,
    RefuseRule,
    Route,
    RoutedEvent,
    Routes,
    StopLimits,
    build_default_routes,
)
from app.config.routes_file import read_routes
from app.config.settings import list_setting_names
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    PythonSinkConfig,
    WarehouseSinkConfig,
)
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
    "TOKEN": "hidden-token",
}
HTTP = '[sinks.http]\ntype = "http"\nsecret = "$NOTIFY_SECRET"\n'
WAREHOUSE = '[sinks.dw]\ntype = "warehouse"\ndestination = '
KAFKA = '[sinks.bus]\ntype = "kafka"\n'
NOTIFY = f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "$NOTIFY_SECRET"\n'


def read(text: str) -> Routes:
    return read_routes(SINKS + text, source="routes.toml", variables=VARIABLES)


def match(routes: Routes, **changes: str) -> Route | None:
    request = {
        "event": "sync_job_run:record",
        "resource": "crm/contacts",
        "method": "list",
        "account": "a",
        **changes,
    }
    has_records = request["event"] in ("sync_job_run:record", "record:created")
    return routes.find_route(RoutedEvent(**request, has_records=has_records))


def find_problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_routes(text, source="routes.toml", variables=VARIABLES)
    assert all(re.match(r"routes\.toml(:\d+)?: ", problem) for problem in caught.value.problems)
    assert "hidden" not in str(caught.value)
    return [problem.partition(": ")[2] for problem in caught.value.problems]


def test_the_first_matching_route_wins() -> None:
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


def test_the_default_route_sends_every_record_to_the_database() -> None:
    routes = build_default_routes("sqlite:///x")

    assert match(routes) == match(routes, event="record:created") == Route(sinks=("main",))
    assert match(routes, event="sync_job_run:started") is None


def test_variables_are_replaced_and_their_values_are_not_shown() -> None:
    routes = read_routes(
        '[sinks.main]\ntype = "files"\nurl = "file:///${NAME}/$NAME"\n', source="f", variables=VARIABLES
    )

    assert routes.sinks["main"] == FilesSinkConfig(type="files", url="file:///x/x")
    assert "hidden" not in repr(read(""))


def test_a_run_that_matches_a_refuse_rule_is_refused() -> None:
    routes = read(
        '[[refuse]]\nintegrated_account_id = "sandbox-*"\nsync_job_id = "j1"\nreason = "no sandbox"\n'
        '[[refuse]]\nenvironment_id = "old"\nreason = "gone"\n'
    )

    def find_reason(job: str, account: str, environment: str) -> str | None:
        return routes.find_refusal_reason(
            sync_job_id=job, integrated_account_id=account, environment_id=environment
        )

    assert find_reason("j1", "sandbox-1", "") == "no sandbox"
    assert find_reason("j2", "sandbox-1", "") is None
    assert find_reason("j2", "a", "old") == "gone"
    assert find_reason("", "", "") is None


def test_with_allow_rules_every_other_run_is_refused() -> None:
    routes = read(
        '[[allow]]\nintegrated_account_id = "a-*"\nenvironment_id = "live"\n[[allow]]\nsync_job_id = "j1"\n'
        '[[refuse]]\nintegrated_account_id = "a-2"\nreason = "gone"\n'
    )

    def find_reason(job: str, account: str, environment: str) -> str | None:
        return routes.find_refusal_reason(
            sync_job_id=job, integrated_account_id=account, environment_id=environment
        )

    assert find_reason("j2", "a-1", "live") is None
    assert find_reason("j1", "b-1", "test") is None
    assert find_reason("j2", "a-1", "test") == "no [[allow]] of the routes file matches this run"
    assert find_reason("", "", "") == "no [[allow]] of the routes file matches this run"
    assert find_reason("j1", "a-2", "live") == "gone"


def test_every_rule_of_the_gate_is_off_by_default() -> None:
    assert read("").gate == build_default_routes("sqlite:///x").gate == GateConfig()
    assert (GateConfig().unrouted, GateConfig().overlapping, GateConfig().oldest_pending_s) == (
        False,
        False,
        None,
    )

    rules = read("[gate]\nunrouted = true\noverlapping = true\noldest_pending_s = 900\n").gate

    assert (rules.unrouted, rules.overlapping, rules.oldest_pending_s) == (True, True, 900)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x", "invalid TOML"),
        ("\n\nurl = postgres://u:hidden@h/d", "invalid TOML at line 3, column 7, url: Invalid value. Write texts in quotes"),
        ("[sinks]\n[sinks]\n", "invalid TOML at line 2, column 7: Cannot declare ('sinks',) twice. Remove one"),
        ('["a (at b"]\n["a (at b"]\n', "invalid TOML at line 2, column 11: Cannot declare ('a (at b',) twice. Remove one"),
        (f"port = {'9' * 5000}", "invalid TOML: a number has too many digits."),
        (f"x = {'[' * 3000}", "invalid TOML: it is nested too deeply."),
        ('notify = ["https://hooks/hidden"]\n' + SINKS, "[[notify]] 1: \"https://…\" is not a table."),
        ('sinks = "hidden postgres://u:hidden@h/d"', "[sinks]: the value is not a table."),
        ('sinks = "postgres://u:hidden@h/d"', "[sinks]: \"postgres://…\" is not a table."),
        ('[sinks.a]\ntype = "sql"\nurl = "$DATABASE_URL"\npasword = "hidden"\n', "[sinks.a], pasword: unknown key; known: type, url, schema."),
        ('[sinks.a]\ntype = "sql"\nurl = "postgres://u:p@h:$HOME_X/d"\n', "[sinks.a], url: $HOME_X is not set"),
        (f'{SINKS}[[routes]]\nsinks = []\n[routes.stop_at]\nx = 1\n', "[[routes]] 1, stop_at.x: unknown key; known: record_errors,"),
        (f'{SINKS}[[routes]]\nsinks = []\n[routes.stop_at]\nrecords = true\n', "[[routes]] 1, stop_at.records: true is not a whole number."),
        (f'{SINKS}[[routes]]\nsinks = []\n[routes.stop_at]\nidle_minutes = inf\n', "[[routes]] 1, stop_at.idle_minutes: inf is not a finite number."),
        (f'{SINKS}[[routes]]\nsinks = []\n[routes.stop_at]\ndead_share = 7\n', "[[routes]] 1, stop_at.dead_share: 7 is greater than the maximum, 1."),
        (f'{SINKS}[[routes]]\nsinks = "main"\n', "[[routes]] 1, sinks: \"main\" is not a list."),
        ("", "[sinks]: missing; add a sink, such as [sinks.main]."),
        ("sinks = 3", "[sinks]: 3 is not a table."),
        ('[sinks.a]\ntype = "sqk"\n', '[sinks.a]: unknown type of sink; use type = "sql" or type = "files" or type = "http" or type = "python" or type = "kafka" or type = "warehouse".'),
        ('[sinks.a]\nurl = "x"\n', '[sinks.a]: the type is missing; add type = "sql" or type = "files" or type = "http" or type = "python" or type = "kafka" or type = "warehouse".'),
        ('[sinks.a]\ntype = "sql"\n', "[sinks.a], url: missing; add url."),
        ('[sinks.a]\ntype = "files"\nurl = "ftp://b"\n', "[sinks.a], url: unsupported URL; use"),
        ('[sinks.a]\ntype = "files"\nurl = "file://relative"\n', "[sinks.a], url: unsupported URL; use"),
        ('[sinks.a]\ntype = "files"\nurl = "file:///a"\nformat = "csv"\n', '[sinks.a], format: "csv" is not supported; use format = "jsonl" or "parquet".'),
        ('[sinks.a]\ntype = "sql"\nurl = "$NOPE"\n', "[sinks.a], url: $NOPE is not set in the environment; set NOPE."),
        ('[sinks.a]\ntype = "files"\nurl = "file:///$NOPE"\n', "[sinks.a], url: $NOPE is not set in the environment; set NOPE."),
        ('[sinks.a]\ntype = "files"\nurl = "$NOPE"\n', "[sinks.a], url: $NOPE is not set in the environment; set NOPE."),
        ('[sinks.a]\ntype = "sql"\nurl = "sqlite:///x"\nurk = 1\n', "[sinks.a], urk: unknown key; did you mean url?"),
        (f"{SINKS}[[routes]]\n", "[[routes]] 1, sinks: missing; add sinks."),
        (f'{SINKS}[[routes]]\nsinks = ["mian"]\n', "[[routes]] 1, sinks: no sink named mian; did you mean main?"),
        (f'{HTTP}url = "ftp://x"\n', "[sinks.http], url: not an http:// or https:// URL; write one"),
        ('[sinks.http]\ntype = "http"\nurl = "https://x"\nsecret = "hidden"\n', "[sinks.http], secret: not whsec_ followed by 24 to 64 bytes in base64;"),
        (f'{HTTP}url = "$NOPE"\n', "[sinks.http], url: $NOPE is not set in the environment; set NOPE."),
        (f'{HTTP}url = "https://x"\nheaders = {{Authorization = "Bearer $NOPE"}}\n', "[sinks.http], headers.Authorization: $NOPE is not set in the environment"),
        (f'{HTTP}url = "https://x"\nheaders = {{Authorization = 7}}\n', "[sinks.http], headers.Authorization: the value is not a text in quotes."),
        (f'{HTTP}url = "https://x"\nheaders = {{Host = "hidden"}}\n', "[sinks.http], headers: Host is set by the sink itself; remove it."),
        (f'{HTTP}url = "https://x"\nheaders = {{Webhook-Id = "hidden"}}\n', "[sinks.http], headers: Webhook-Id is set by the sink itself"),
        (f'{HTTP}url = "https://x"\nheaders = {{"a b" = "hidden"}}\n', "[sinks.http], headers: a name has characters that no header may have"),
        (f'{HTTP}url = "https://x"\nheaders = {{X-Key = "hid\\nden: 1"}}\n', "[sinks.http], headers: the value of X-Key is empty, or has characters"),
        (f'{HTTP}url = "https://x"\nheaders = {{X-Key = ""}}\n', "[sinks.http], headers: the value of X-Key is empty"),
        (f'{HTTP}url = "https://x"\ntimeout_s = 60\n', "[sinks.http], timeout_s: 60 is greater than the maximum, 15."),
        (f'{HTTP}url = "https://x"\nallow_privat = true\n', "[sinks.http], allow_privat: unknown key; did you mean allow_private?"),
        (f'{HTTP}url = "https://x"\nallow_private = "yes"\n', "[sinks.http], allow_private: \"yes\" is not true or false."),
        (f'{KAFKA}brokers = "h"\n', '[sinks.bus], brokers: not host:port, separated by commas; write "kafka-1:9092,kafka-2:9092".'),
        (f'{KAFKA}brokers = "u:hidden@h:9092"\n', "[sinks.bus], brokers: not host:port"),
        (f'{KAFKA}brokers = "h:1, h:2"\n', "[sinks.bus], brokers: not host:port"),
        (f'{KAFKA}brokers = "$NOPE"\n', "[sinks.bus], brokers: $NOPE is not set in the environment; set NOPE."),
        (f'{KAFKA}topic = "a"\n', "[sinks.bus], brokers: missing; add brokers."),
        (f'{KAFKA}brokers = "h:1"\ntopic = "{{resource}}/x"\n', "[sinks.bus], topic: not a topic; use letters, digits, _, - and ."),
        (f'{KAFKA}brokers = "h:1"\ntopic = "{{resource}}{{resource}}"\n', "[sinks.bus], topic: not a topic; use letters, digits"),
        (f'{KAFKA}brokers = "h:1"\ntopic = ".."\n', "[sinks.bus], topic: not a topic; use letters, digits"),
        (f'{KAFKA}brokers = "h:1"\nsecurity_protocol = "TLS"\n', "[sinks.bus], security_protocol: \"TLS\" is not 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'."),
        (f'{KAFKA}brokers = "h:1"\nsecurity_protocol = "SASL_SSL"\nusername = "u"\n', '[sinks.bus]: `username` or `password` is missing; add both, such as password = "$NAME".'),
        (f'{KAFKA}brokers = "h:1"\nusername = "u"\npassword = "$TOKEN"\n', '[sinks.bus]: the login is not used; add security_protocol = "SASL_SSL".'),
        (f'{KAFKA}brokers = "h:1"\nca_file = "/ca.pem"\n', '[sinks.bus]: `ca_file` is not used; use the security_protocol "SSL" or "SASL_SSL".'),
        (f'{KAFKA}brokers = "h:1"\npassword = 7\n', "[sinks.bus], password: the value is not a text in quotes."),
        (f'{KAFKA}brokers = "h:1"\nmax_message_bytes = 1\n', "[sinks.bus], max_message_bytes: 1 is less than the minimum, 1000."),
        (f'{WAREHOUSE}"oracle"\n', "[sinks.dw], destination: \"oracle\" is not 'bigquery', 'clickhouse', 'databricks', 'duckdb', 'redshift' or 'snowflake'."),
        ('[sinks.dw]\ntype = "warehouse"\n', "[sinks.dw], destination: missing; add destination."),
        (f'{WAREHOUSE}"duckdb"\n', '[sinks.dw], credentials: no path of a file; write credentials = "/var/lib/warehouse.duckdb".'),
        (f'{WAREHOUSE}"duckdb"\ncredentials = "hidden.duckdb"\n', "[sinks.dw], credentials: no path of a file; write"),
        (f'{WAREHOUSE}"clickhouse"\ncredentials = "https://u:hidden@h"\n', "[sinks.dw], credentials: not the credentials of clickhouse; write a URL that begins with clickhouse://."),
        (f'{WAREHOUSE}"bigquery"\ncredentials = "hidden"\n', "[sinks.dw], credentials: not the credentials of bigquery; write a JSON object with dlt's fields."),
        (f'{WAREHOUSE}"databricks"\ncredentials = "{{hidden"\n', "[sinks.dw], credentials: not a JSON object; correct its syntax."),
        (f'{WAREHOUSE}"clickhouse"\ncredentials = "$NOPE"\n', "[sinks.dw], credentials: $NOPE is not set in the environment; set NOPE."),
        (f'{WAREHOUSE}"duckdb"\ncredentials = "$NOPE"\n', "[sinks.dw], credentials: $NOPE is not set in the environment; set NOPE."),
        (f'{WAREHOUSE}"snowflake"\ndataset = "Truto-1"\n', "[sinks.dw], dataset: not a dataset; use lower-case letters"),
        (f'{WAREHOUSE}"snowflake"\nurl = "hidden"\n', "[sinks.dw], url: unknown key; known: "),
        (f'{KAFKA}brokers = "h:1"\nbootstrap_servers = "hidden"\n', "[sinks.bus], bootstrap_servers: unknown key; known: type, brokers, topic"),
        ('[sinks.files]\ntype = "http"\nurl = "https://x"\n', "[sinks.files], secret: missing; add secret."),
        ('[sinks.a]\ntype = "python"\n', "[sinks.a], target: missing; add target."),
        *(
            (f'[sinks.a]\ntype = "python"\ntarget = "{target}"\n', "[sinks.a], target: no place of a function; write \"package.module:function\".")
            for target in ("", "mine", "mine:", ":write", "a b:c", "mine:write()", "../mine:write", "mine:class", "os.:x")
        ),
        (f'{SINKS}[[routes]]\nsinks = []\n[[routes]]\nsinks = ["x"]\n', "[[routes]] 2, sinks: no sink named x; define"),
        (f'{SINKS}[[routes]]\nsinks = []\nresourc = "x"\n', "[[routes]] 1, resourc: unknown key; did you mean resource?"),
        (f'{SINKS}[[routes]]\nsinks = []\ntable = "T able"\n', "[[routes]] 1, table: invalid name; use lower-case"),
        (f'{SINKS}[[routes]]\nsinks = []\ncolumns = {{data = "text"}}\n', "[[routes]] 1, columns: data is reserved"),
        *(
            ('[sinks.a]\ntype = "sql"\nurl = "postgres://h/d"\n[[routes]]\nsinks = ["a"]\n'
            f'columns = {{{name} = "text"}}\n', f'[[routes]] 1, columns: {name} is a system column in PostgreSQL; '
            f'use another name: {name}_ = {{ type = "text", path = "{name}" }}')
            for name in ("xmin", "xmax", "cmin", "cmax", "ctid", "tableoid")
        ),
        (f'{SINKS}[[routes]]\nsinks = []\ncolumns = {{Name = "text"}}\n', "[[routes]] 1, columns.Name: invalid name; a column"),
        (f'{SINKS}[[routes]]\nsinks = []\ncolumns = {{name = "txt"}}\n', "[[routes]] 1, columns.name.type: \"txt\" is not 'text',"),
        (f'{SINKS}[[routes]]\nsinks = []\nkey = ""\nmissing_key = "refuse"\n', "[[routes]] 1, key: \"\" with on_missing_key = \"reject\" would reject every record;"),
        (f'{SINKS}[[routes]]\nsinks = []\non_missing_key = "skip"\n', "[[routes]] 1, on_missing_key: \"skip\" is not 'hash' or 'reject'."),
        (f'{SINKS}[[routes]]\nsinks = ["main"]\nresource = "a/*"\ntable = "t"\n', "[[routes]] 1, table: t in sink main would mix"),
        (f"{SINKS}[[refuse]]\n", "[[refuse]] 1, reason: missing; add reason."),
        (f"{SINKS}[refuse]\n", "[refuse]: this must be an array of tables; write [[refuse]]."),
        (f'{SINKS}[allow]\nsync_job_id = "x"\n', "[allow]: this must be an array of tables; write [[allow]]."),
        (f'{SINKS}[[allow]]\nsync_job = "x"\n', "[[allow]] 1, sync_job: unknown key; did you mean sync_job_id?"),
        (f'{SINKS}[[allow]]\n[[allow]]\nreason = "x"\n', "[[allow]] 2, reason: unknown key; known: sync_job_id,"),
        (f"{SINKS}[[allow]]\nsync_job_id = 1\n", "[[allow]] 1, sync_job_id: 1 is not a text in quotes."),
        (f"{SINKS}[[gate]]\n", "[gate]: this must be a single table; write [gate], and its keys below it."),
        (f"gate = true\n{SINKS}", "[gate]: this must be a single table; write [gate], and its keys below it."),
        (f"{SINKS}[gate]\noverlaping = true\n", "[gate], overlaping: unknown key; did you mean overlapping?"),
        (f"{SINKS}[gate]\nx = 1\n", "[gate], x: unknown key; known: unrouted, overlapping, oldest_pending_s."),
        (f'{SINKS}[gate]\nunrouted = "yes"\n', "[gate], unrouted: \"yes\" is not true or false."),
        (f"{SINKS}[gate]\noverlapping = 1\n", "[gate], overlapping: 1 is not true or false."),
        (f"{SINKS}[gate]\noldest_pending_s = true\n", "[gate], oldest_pending_s: true is not a whole number."),
        (f"{SINKS}[gate]\noldest_pending_s = 0\n", "[gate], oldest_pending_s: 0 is less than the minimum, 1."),
        (f"{SINKS}[gates]\n", "[gates]: unknown table; did you mean gate?"),
        (f"{SINKS}[[route]]\n", "[route]: unknown table; did you mean routes?"),
        (f'{SINKS}[[notify]]\nsecret = "$NOTIFY_SECRET"\n', "[[notify]] 1, url: missing; add url."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\n', "[[notify]] 1: `secret` is missing, which signs the notifications; create"),
        (f'{SINKS}[[notify]]\nurl = "$BROKEN"\nform = "slack"\n', "[[notify]] 1, url: not an http:// or https:// URL; write one"),
        (f'{SINKS}[[notify]]\nurl = "https://x:hidden"\nform = "slack"\n', "[[notify]] 1, url: not an http:// or https:// URL; write one"),
        (f'{SINKS}[[notify]]\nurl = "ftp://x"\nform = "slack"\n', "[[notify]] 1, url: not an http:// or https:// URL; write one"),
        (f'{SINKS}[[notify]]\nurl = "https:///hidden"\nform = "slack"\n', "[[notify]] 1, url: not an http:// or https:// URL; write one"),
        (f'{SINKS}[[notify]]\nurl = "$NOPE"\nsecret = "$NOTIFY_SECRET"\n', "[[notify]] 1, url: $NOPE is not set in the environment; set NOPE."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "$NOPE"\n', "[[notify]] 1, secret: $NOPE is not set in the environment; set NOPE."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "$BROKEN"\n', "[[notify]] 1, secret: not whsec_ followed by 24 to 64 bytes in base64; create"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "whsec_hidden=="\n', "[[notify]] 1, secret: not whsec_ followed by 24 to 64 bytes"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "whsec_hiddenhidden"\n', "[[notify]] 1, secret: not whsec_ followed by 24 to 64 bytes"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nsecret = "whsec_{"hidden" * 16}"\n', "[[notify]] 1, secret: not whsec_ followed by 24 to 64 bytes"),
        (f'{NOTIFY}form = "slack"\n', "[[notify]] 1: Slack does not verify signatures; remove `secret`."),
        (f'{NOTIFY}form = "teams"\n', "[[notify]] 1: Microsoft Teams does not verify signatures; remove `secret`."),
        (f'{NOTIFY}form = "email"\n', "[[notify]] 1, form: \"email\" is not 'standard', 'slack', 'teams' or 'pagerduty'."),
        (f'{NOTIFY}form = "pagerduty"\n', "[[notify]] 1, secret: not the Integration Key of an Events API V2 integration in PagerDuty, of 32 let"),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nform = "pagerduty"\nsecret = "$NOPE"\n', "[[notify]] 1, secret: $NOPE is not set in the environment; set NOPE."),
        (f'{SINKS}[[notify]]\nurl = "https://x"\nform = "pagerduty"\n', "[[notify]] 1: `secret` is missing: the Integration Key of an Events API V2"),
        (f'{NOTIFY}events = ["run.*", "run.reconcild"]\n', "[[notify]] 1, events.1: no notification matches run.reconcild; did you mean run.reconciled?"),
        (f'{NOTIFY}events = ["order.*"]\n', "[[notify]] 1, events.0: no notification matches order.*; known: run.reconciled, run.inc"),
        (f"{NOTIFY}events = []\n", "[[notify]] 1, events: the list is empty; remove `events`"),
        (f'{NOTIFY}event = "run.*"\n', "[[notify]] 1, event: unknown key; did you mean events?"),
        (f'{NOTIFY}name = "a b"\n', "[[notify]] 1, name: invalid name; use letters"),
        (f'{NOTIFY}{NOTIFY.removeprefix(SINKS)}name = "notify-1"\n', "[[notify]] 2, name: notify-1 is used twice; give each"),
        (f"notify = [3]\n{SINKS}", "[[notify]] 1: 3 is not a table."),
        (f'{SINKS}[[webhooks]]\nid = "w"\naccount = "a"\n[[webhooks]]\nid = "w"\naccount = "b"\n', "[[webhooks]] 2, id: w is used twice;"),
        (f'{SINKS}[[webhooks]]\nid = "w"\n', "[[webhooks]] 1, account: missing; add account."),
        (f'{SINKS}[[webhooks]]\nid = "w"\naccount = ""\n', "[[webhooks]] 1, account: "),
        (f'{SINKS}[webhooks]\nid = "w"\n', "[webhooks]: this must be an array of tables; write [[webhooks]]."),
        (f"{SINKS}[notify]\n", "[notify]: this must be an array of tables; write [[notify]]."),
    ],
)  # fmt: skip
def test_a_problem_is_reported_with_its_place_and_value(text: str, problem: str) -> None:
    [reported] = find_problems(text)

    assert reported.startswith(problem)


def test_subscribers_have_names_and_their_secrets_are_not_shown() -> None:
    routes = read(
        f'{NOTIFY.removeprefix(SINKS)}[[notify]]\nurl = "$SLACK_URL"\nform = "slack"\nevents = ["run.*", "sink.failing"]\n'
        '[[notify]]\nurl = "http://localhost:1/hidden"\nname = "ops"\nform = "slack"\nevents = ["*.inactive"]\n'
    )

    first, second, third = routes.notify
    assert [subscriber.name for subscriber in routes.notify] == ["notify-1", "notify-2", "ops"]
    assert (first.url, first.form, first.secret) == ("https://x", "standard", VARIABLES["NOTIFY_SECRET"])
    assert second.url == VARIABLES["SLACK_URL"]
    assert [subscriber.accepts("run.reconciled") for subscriber in routes.notify] == [True, True, False]
    assert [subscriber.accepts("webhook.inactive") for subscriber in routes.notify] == [True, False, True]
    assert third.accepts("sink.inactive")
    assert "hidden" not in repr(routes)
    assert "whsec" not in repr(routes)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('sinks = ["lake"]', "only SQL sinks track deletes; add one to `sinks`, or remove `track_deletes`."),
        ('sinks = ["main"]\naccount = "tenant"', "a run tracks the rows of its own account"),
        ('sinks = ["main"]\nevent = "record:*"', "runs send sync_job_run:record"),
    ],
)
def test_a_route_that_cannot_track_deletes_is_a_problem(keys: str, problem: str) -> None:
    [reported] = find_problems(f"{SINKS}[[routes]]\n{keys}\ntrack_deletes = true\n")

    assert reported.startswith(f"[[routes]] 1, track_deletes: {problem}")


def test_a_route_with_several_sinks_tracks_deletes_if_one_is_sql() -> None:
    [route] = read(
        '[[routes]]\nsinks = ["lake", "main"]\nevent = "sync_job_run:*"\ntrack_deletes = true\n'
    ).routes

    assert (route.track_deletes, route.max_deleted_share) == (True, 0.2)


def test_an_http_sink_shows_neither_its_secrets_nor_its_path() -> None:
    routes = read(
        f'{HTTP}url = "https://me:hidden@h:9/hidden"\nheaders = {{Authorization = "Bearer $TOKEN"}}\n'
    )

    sink = routes.sinks["http"]
    assert isinstance(sink, HttpSinkConfig)
    assert sink.headers == {"Authorization": f"Bearer {VARIABLES['TOKEN']}"}
    assert sink.place == "https://h:9"
    assert not re.search("hidden|whsec|Bearer", repr(routes))


def test_a_kafka_sink_shows_no_login() -> None:
    routes = read(
        f'{KAFKA}brokers = "h:1,[::1]:2"\nsecurity_protocol = "SASL_SSL"\nusername = "$BROKEN"\n'
        'password = "$TOKEN"\n'
    )

    sink = routes.sinks["bus"]
    assert isinstance(sink, KafkaSinkConfig)
    assert (sink.username, sink.password) == ("hidden", VARIABLES["TOKEN"])
    assert sink.place == "kafka://h:1,[::1]:2/{resource}"
    assert "hidden" not in repr(routes)


@pytest.mark.parametrize(
    ("destination", "credentials", "place"),
    [
        ("clickhouse", "clickhouse://u:hidden@h:9440/db", "clickhouse://h/truto"),
        ("snowflake", "snowflake://u:hid#den@acc/db?warehouse=w", "snowflake://u/truto"),
        ("redshift", "redshift://u:hid/den@h:5439/db", "redshift://u/truto"),
        ("databricks", '{\\"access_token\\": \\"hidden\\"}', "databricks:///truto"),
        ("bigquery", "", "bigquery:///truto"),
        ("duckdb", "/x/y.duckdb", "duckdb:///x/y.duckdb/truto"),
    ],
)
def test_a_warehouse_shows_no_credentials(destination: str, credentials: str, place: str) -> None:
    routes = read(f'{WAREHOUSE}"{destination}"\ncredentials = "{credentials}"\n')

    sink = routes.sinks["dw"]
    assert isinstance(sink, WarehouseSinkConfig)
    assert sink.place == place
    assert not re.search("hid|den", repr(routes))


def test_two_resources_in_one_table_are_a_problem() -> None:
    route = '[[routes]]\nresource = "{}"\nmethod = "{}"\nsinks = ["main"]\ntable = "t"\n'

    assert read(route.format("a", "list") + route.format("a", "get")).routes[1].table == "t"
    [problem] = find_problems(SINKS + route.format("a", "list") + route.format("b", "list"))
    assert problem.startswith("[[routes]] 2, table: ")


def test_all_problems_are_reported_together() -> None:
    assert len(find_problems('[sinks.a]\ntype = "sqk"\n[[routes]]\n[[refuse]]\n[other]\n')) == 4


VALUES = {
    "text": '"zz"', "empty": '""', "control": '"a\\u001bb"', "long": f'"{"x" * 300}"', "whole": "7", "negative": "-3",
    "huge": "9" * 60, "fraction": "1.5", "nan": "nan", "infinite": "inf", "true": "true",
    "time": "2026-01-01T00:00:00Z", "date": "2026-01-01", "clock": "07:00:00", "list": '[1, "a"]', "no items": "[]",
    "lists": "[[1]]", "tables": "[{a = 1}]", "table": "{a = 1}",
}  # fmt: skip
SUBSCRIBER = {"url": '"https://x"', "secret": f'"{VARIABLES["NOTIFY_SECRET"]}"'}
ROUTE = f'{SINKS}[[routes]]\nsinks = ["main"]\n'
# The text before a table's keys, its required keys, and all of its keys.
TABLES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "sql": ("[sinks.main]\n", {"type": '"sql"', "url": '"sqlite:///x"'}, ("type", "url", "schema", "other")),
    "files": ("[sinks.main]\n", {"type": '"files"', "url": '"file:///x"'}, ("type", "url", "format")),
    "routes": (f"{SINKS}[[routes]]\n", {"sinks": '["main"]'}, tuple(Route.model_fields)),
    "stop_at": (f"{ROUTE}[routes.stop_at]\n", {}, (*StopLimits.model_fields, "other")),
    "http": ("[sinks.main]\n", {"type": '"http"', **SUBSCRIBER}, (*HttpSinkConfig.model_fields, "other")),
    "headers": (
        f'[sinks.main]\ntype = "http"\nurl = {SUBSCRIBER["url"]}\nsecret = {SUBSCRIBER["secret"]}\n[sinks.main.headers]\n',
        {},
        ("name", '"A b"'),
    ),
    "python": (
        "[sinks.main]\n",
        {"type": '"python"', "target": '"a.b:c"'},
        (*PythonSinkConfig.model_fields, "other"),
    ),
    "kafka": (
        "[sinks.main]\n",
        {"type": '"kafka"', "brokers": '"h:1"'},
        (*KafkaSinkConfig.model_fields, "other"),
    ),
    "warehouse": (
        "[sinks.main]\n",
        {"type": '"warehouse"', "destination": '"clickhouse"'},
        (*WarehouseSinkConfig.model_fields, "other"),
    ),
    "columns": (f"{ROUTE}[routes.columns]\n", {}, ("name", '"A b"')),
    "column": (f"{ROUTE}[routes.columns.name]\n", {"type": '"text"'}, ("type", "path", "other")),
    "gate": (f"{SINKS}[gate]\n", {}, (*GateConfig.model_fields, "other")),
    "webhooks": (f"{SINKS}[[webhooks]]\n", {"id": '"i"', "account": '"a"'}, ("id", "account", "other")),
    "refuse": (f"{SINKS}[[refuse]]\n", {"reason": '"r"'}, tuple(RefuseRule.model_fields)),
    "notify": (
        f"{SINKS}[[notify]]\n",
        SUBSCRIBER,
        (*NotifyConfig.model_fields, "other"),
    ),
}
PYDANTIC = (
    "input should",
    "valid ",
    "unable to parse",
    "not permitted",
    "validation",
    "pydantic",
    "not allowed here",
)


def find_all_problems(text: str) -> tuple[str, ...]:
    try:
        read_routes(text, source="routes.toml", variables=VARIABLES)
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("table", TABLES)
def test_a_value_of_any_type_at_any_key_is_accepted_or_refused_in_plain_words(table: str, value: str) -> None:
    head, required, keys = TABLES[table]
    for key in keys:
        members = required | {key: VALUES[value]}
        problems = find_all_problems(head + "".join(f"{name} = {text}\n" for name, text in members.items()))

        for problem in problems:
            assert problem.isprintable()
            assert len(problem) < 450
            assert re.search(r"[.?]$", problem), problem
            assert not [words for words in PYDANTIC if words in problem.replace("invalid ", "").lower()], (
                problem
            )
        assert not problems or any(
            key.strip('"') in problem or "sinks.main" in problem for problem in problems
        )


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", [*Routes.model_fields, "other"])
def test_a_top_level_value_of_any_type_is_refused_in_plain_words(name: str, value: str) -> None:
    problems = find_all_problems(f"{name} = {VALUES[value]}\n{SINKS if name != 'sinks' else ''}")

    assert all(problem.isprintable() for problem in problems)
    assert not [problem for problem in problems for words in PYDANTIC if words in problem.lower()]


def test_an_invisible_character_in_a_variable_is_reported_by_the_variables_name() -> None:
    for name, text in (("KEY", "sqlite:///a\nb"), ("KEY", "sqlite:///\udcff")):
        with pytest.raises(ConfigError) as caught:
            read_routes('[sinks.main]\ntype = "sql"\nurl = "$KEY"\n', source="f", variables={name: text})
        assert "f:3: [sinks.main], url: the value of $KEY contains a " in str(caught.value)


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.write_bytes(b"\xef\xbb\xbf" + SINKS.replace("\n", "\r\n").encode()), None),
        (lambda path: path.write_bytes(SINKS.encode("utf-16")), "is not UTF-8 text. Save it"),
        (lambda path: path.write_bytes(b"\xff"), "is not UTF-8 text. Save it"),
        # Containers mount a file that does not exist as a folder.
        (lambda path: path.mkdir(), "is not a file. Correct the path"),
        (os.mkfifo, "is not a file. Correct the path"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read (No such file or directory)"),
    ],
)
def test_a_routes_file_is_read_or_refused_and_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object], problem: str | None
) -> None:
    for name in list_setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write(Path("routes.toml"))

    if problem is None:
        assert set(read_config().routes.sinks) == {"main", "lake"}
    else:
        with pytest.raises(ConfigError, match=rf"routes\.toml: {re.escape(problem)}"):
            read_config()
