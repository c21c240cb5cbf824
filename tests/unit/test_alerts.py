"""The alert rules: each has its next step, and fires when it should."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.documentation import ROOT, read_section

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
def test_the_rules_are_valid() -> None:
    assert f"{len(RULES)} rules found" in run_promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_the_alerts_fire_and_end(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.format(rules=ALERTS))

    run_promtool("test", "rules", str(cases))
