"""The alert rules: each has its next step, and fires when it should."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, read_marked_block, read_section

ALERTS = ROOT / "docs" / "alerts.yml"
RULES = dict(re.findall(r"- alert: (\w+)\n(.*?)(?=\n {6}- alert|\Z)", ALERTS.read_text(), re.DOTALL))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus"
)
# Two machines, which show the same facts of the service.
CASES = """
rule_files: ["{rules}"]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'rapidbridge_build_info{{instance="a",version="1"}}', values: "1x30"}}
      - {{series: 'rapidbridge_webhook_requests_total{{instance="a",status="unauthorized",cause="wrong"}}', values: "0x10 1 2 3 4x17"}}
      - {{series: 'rapidbridge_webhook_requests_total{{instance="a",status="unauthorized",cause="missing"}}', values: "0+100x30"}}
      - {{series: 'rapidbridge_webhook_requests_total{{instance="a",status="unavailable",cause=""}}', values: "0x30"}}
      - {{series: 'rapidbridge_workers{{instance="a"}}', values: "2x10 0x20"}}
      - {{series: 'rapidbridge_workers{{instance="b"}}', values: "2x10 0x20"}}
      - {{series: 'rapidbridge_sink_failing{{instance="a",sink="main"}}', values: "1x30"}}
      - {{series: 'rapidbridge_sink_failing{{instance="b",sink="main"}}', values: "1x30"}}
      - {{series: 'rapidbridge_deliveries_settled_total{{instance="a",state="dead"}}', values: "0x10 2x20"}}
      - {{series: 'rapidbridge_deliveries_settled_total{{instance="b",state="dead"}}', values: "0x10 2x20"}}
    promql_expr_test:
      - expr: 'count by (alertname) (ALERTS{{alertstate="firing"}})'
        eval_time: 5m
        exp_samples: [{{labels: '{{alertname="RapidBridgeSinkFailing"}}', value: 1}}]
      - expr: 'count by (alertname) (ALERTS{{alertstate="firing"}})'
        eval_time: 15m
        exp_samples:
          - {{labels: '{{alertname="RapidBridgeDeliveriesFailed"}}', value: 1}}
          - {{labels: '{{alertname="RapidBridgeNoWorkers"}}', value: 1}}
          - {{labels: '{{alertname="RapidBridgeSinkFailing"}}', value: 1}}
          - {{labels: '{{alertname="RapidBridgeUnauthorized"}}', value: 1}}
      - expr: 'count by (alertname) (ALERTS{{alertstate="firing"}})'
        eval_time: 29m
        exp_samples:
          - {{labels: '{{alertname="RapidBridgeNoWorkers"}}', value: 1}}
          - {{labels: '{{alertname="RapidBridgeSinkFailing"}}', value: 1}}
  # A body that is quarantined on arrival, in one of the web processes.
  - interval: 1m
    input_series:
      - {{series: 'rapidbridge_build_info{{instance="a",version="1"}}', values: "1x30"}}
      - {{series: 'rapidbridge_webhook_requests_total{{instance="a",status="quarantined",cause=""}}', values: "0x10 1x20"}}
      - {{series: 'rapidbridge_webhook_requests_total{{instance="b",status="quarantined",cause=""}}', values: "0x30"}}
      - {{series: 'rapidbridge_deliveries_settled_total{{instance="a",state="quarantined"}}', values: "0x30"}}
    promql_expr_test:
      - expr: 'count by (alertname, state) (ALERTS{{alertstate="firing"}})'
        eval_time: 9m
        exp_samples: []
      - expr: 'count by (alertname, state) (ALERTS{{alertstate="firing"}})'
        eval_time: 15m
        exp_samples: [{{labels: '{{alertname="RapidBridgeDeliveriesFailed",state="quarantined"}}', value: 1}}]
      - expr: 'count by (alertname, state) (ALERTS{{alertstate="firing"}})'
        eval_time: 29m
        exp_samples: []
  # Each hour a scrape without the database: its facts are missing.
  - interval: 5m
    input_series:
      - {{series: 'rapidbridge_build_info{{instance="a",version="1"}}', values: "1x600"}}
      - {{series: 'rapidbridge_oldest_failed_age_seconds{{instance="a"}}', values: "{ages}"}}
      - {{series: 'rapidbridge_sink_paused_timestamp_seconds{{instance="a",sink="main"}}', values: "{pauses}"}}
      - {{series: 'rapidbridge_runs{{instance="a",status="failed"}}', values: "0x300 2x299"}}
      - {{series: 'rapidbridge_accounts{{instance="a",state="failed"}}', values: "0x330 1x269"}}
    promql_expr_test:
      - expr: 'count by (alertname, sink) (ALERTS{{alertstate="firing"}})'
        eval_time: 5h
        exp_samples: []
      - expr: 'count by (alertname, sink) (ALERTS{{alertstate="firing"}})'
        eval_time: 7h10m
        exp_samples: [{{labels: '{{alertname="RapidBridgeSinkPaused",sink="main"}}', value: 1}}]
      - expr: 'count by (alertname) (ALERTS{{alertstate="firing"}})'
        eval_time: 26h10m
        exp_samples:
          - {{labels: '{{alertname="RapidBridgeFailedDeliveriesKept"}}', value: 1}}
          - {{labels: '{{alertname="RapidBridgeRunsFailed"}}', value: 1}}
          - {{labels: '{{alertname="RapidBridgeSinkPaused"}}', value: 1}}
      - expr: 'count by (alertname) (ALERTS{{alertstate="firing",alertname="RapidBridgeAccountsIncomplete"}})'
        eval_time: 35h
        exp_samples: [{{labels: '{{alertname="RapidBridgeAccountsIncomplete"}}', value: 1}}]
"""


def run_promtool(*words: str) -> str:
    ran = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("name", RULES)
def test_every_alert_says_what_to_do(name: str) -> None:
    for annotation in ("summary", "description", "action"):
        assert re.search(rf"^ +{annotation}: \S", RULES[name], re.MULTILINE), annotation
    assert f"runbook: docs/metrics.md#{name.lower()}" in RULES[name]
    assert read_section("docs/metrics.md", name).strip()


@needs_promtool
def test_the_scrape_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(read_marked_block("docs/metrics.md", "scrape"))
    shutil.copy(ALERTS, tmp_path)

    assert f"{len(RULES)} rules found" in run_promtool("check", "config", str(tmp_path / "prometheus.yml"))


@needs_promtool
def test_the_rules_are_valid() -> None:
    assert f"{len(RULES)} rules found" in run_promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_the_alerts_fire_and_end(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    # One scrape of an hour without the database.
    hours = [[hour * 3600 + place * 300 for place in range(12)] for hour in range(50)]
    ages = " ".join(" ".join(["stale", *map(str, ages[1:])]) for ages in hours)
    pauses = " ".join(["stale 0x10"] * 50)
    cases.write_text(CASES.format(rules=ALERTS, ages=ages, pauses=pauses))

    run_promtool("test", "rules", str(cases))
