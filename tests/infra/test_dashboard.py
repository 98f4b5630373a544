"""Dashboard, rules and configuration name what exists; alerts are tried out with promtool."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.metrics import BATCH_BUCKETS
from infra.prometheus.config import embedded_config, rules_path
from infra.settings import Settings
from serving.candidates import SOURCES
from tests.infra.watched import (
    COMMON_LABELS,
    PHASES,
    ROOT,
    SPECS,
    dashboard,
    degraded_statuses,
    expressions,
    grouping_labels,
    named_metrics,
    panels,
    recorded_series,
    rules,
)

# What a house in which nothing goes wrong counts: some counters of the row of errors stand at 0 from the start.
QUIET_SERIES = {
    'nowrank_scorer_rankings_total{job="scorer", result="logged"}': "0+10x20",
    'nowrank_scorer_rankings_total{job="scorer", result="dropped"}': "0x20",
    'nowrank_scorer_requests_total{job="scorer", route="/rank", code="200"}': "0+10x20",
    'nowrank_worker_duplicates_total{job="worker", stage="session"}': "0x20",
}
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not here, and CI=true: .ci/run installs the package prometheus")
        pytest.skip("promtool is not here: apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_every_metric_that_is_asked_for_is_in_the_catalogue() -> None:
    for expression in expressions():
        named = named_metrics(expression.expr)
        assert named or recorded_series(expression.expr), f"{expression.where} names no metric: {expression.expr}"
        for metric, labels in named:
            assert metric in {*SPECS, "up", "ALERTS"}, f"{expression.where}: {metric} is not in the catalogue"
            own = set(SPECS[metric].labels) if metric in SPECS else set()
            assert labels <= own | COMMON_LABELS, f"{expression.where}: {metric} has no label {labels - own}"


def test_every_label_that_is_grouped_by_exists() -> None:
    for expression in expressions():
        own = {
            label for metric, _ in named_metrics(expression.expr) if metric in SPECS for label in SPECS[metric].labels
        }
        assert grouping_labels(expression.expr) <= own | COMMON_LABELS, expression


def test_every_recorded_series_that_is_asked_for_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {series for expression in expressions() for series in recorded_series(expression.expr)}
    assert asked == recorded, "asked for, or recorded for nobody"


def test_every_metric_of_the_catalogue_is_on_the_dashboard() -> None:
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [recorded[series] for expr in asked for series in recorded_series(expr)]
    shown = {metric for expr in asked for metric, _ in named_metrics(expr)}
    assert set(SPECS) <= shown, f"nobody would see {set(SPECS) - shown}"


def test_panels_have_ids_titles_units_and_say_what_is_normal() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    titles = [panel["title"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        assert len(panel["description"]) > 30, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Candidates by source", set(SOURCES)),
        ("Mean time by phase", PHASES),
        ("Degraded answers", degraded_statuses()),
    ],
)
def test_a_panel_that_lists_a_labels_values_lists_all_of_them(title: str, values: set[str]) -> None:
    [description] = [panel["description"] for panel in panels() if panel["title"] == title]
    told = re.sub(r" ?\([^)]*\)", "", description).partition(": ")[2].partition(". ")[0]
    assert sorted(told.split(", ")) == sorted(values)


def test_the_size_of_a_saturated_batch_is_the_setting_as_it_stands() -> None:
    [description] = [panel["description"] for panel in panels() if panel["title"] == "Mean batch size by stage"]
    runbook = (ROOT / "docs" / "operations.md").read_text().split("### NowrankLagHigh\n")[1].split("\n### ")[0]
    for page in (description, runbook):
        assert re.search(rf"NOWRANK_BATCH_MAX_EVENTS`? \({Settings().batch_max_events}\)", page), page
    assert Settings().batch_max_events in BATCH_BUCKETS


def test_every_panel_of_the_row_of_errors_says_none_so_far_while_nothing_goes_wrong(tmp_path: Path) -> None:
    everything = dashboard()["panels"]
    rows = [place for place, panel in enumerate(everything) if panel["type"] == "row"] + [len(everything)]
    [begin] = [place for place in rows[:-1] if everything[place]["title"].startswith("Errors")]
    errors = everything[begin + 1 : rows[rows.index(begin) + 1]]
    assert {panel["fieldConfig"]["defaults"].get("noValue") for panel in errors} == {"none so far"}
    asked = [target["expr"].replace("$__rate_interval", "5m") for panel in errors for target in panel["targets"]]
    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in QUIET_SERIES.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": "20m", "exp_samples": []} for expr in asked],
    }
    (tmp_path / "quiet.yml").write_text(yaml.safe_dump({"tests": [case]}))
    checked = promtool("test", "rules", str(tmp_path / "quiet.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_panels_do_not_overlap_and_fit_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken.get((x, y))}"
                taken[x, y] = panel["title"]


def test_dashboard_uses_the_data_source_that_is_provisioned() -> None:
    provisioning = ROOT / "infra" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    asked = [panel["datasource"] for panel in panels()]
    asked += [target["datasource"] for panel in panels() for target in panel["targets"]]
    asked += [annotation["datasource"] for annotation in dashboard()["annotations"]["list"]]
    assert {(found["type"], found["uid"]) for found in asked} == {(source["type"], source["uid"])}


def test_prometheus_accepts_the_rules_and_both_configurations(tmp_path: Path) -> None:
    (tmp_path / "prometheus-targets.json").write_text("[]")
    embedded = tmp_path / "prometheus.yml"
    embedded.write_text(embedded_config(tmp_path))
    for config in (ROOT / "infra" / "prometheus" / "prometheus.yml", embedded):
        checked = promtool("check", "config", str(config))
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_when_it_should_and_is_silent_when_all_is_well() -> None:
    checked = promtool("test", "rules", str(ROOT / "tests" / "infra" / "alerts.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_is_tried_out() -> None:
    cases = yaml.safe_load((ROOT / "tests" / "infra" / "alerts.yml").read_text())["tests"]
    fired = {
        (check["alertname"], alert["exp_labels"].get("stage") if check["alertname"] == "NowrankStageStalled" else None)
        for case in cases
        for check in case.get("alert_rule_test", [])
        for alert in check["exp_alerts"]
    }
    assert fired == {(rule["alert"], rule["labels"].get("stage")) for rule in ALERTS}


def test_every_alert_has_a_severity_and_a_section_in_the_runbook() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    sections = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    assert sections == {rule["alert"] for rule in ALERTS}
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert f"**{rule['labels']['severity']}**" in page.split(f"### {rule['alert']}\n")[1].split("\n### ")[0]


def test_embedded_configuration_follows_the_stack_wherever_it_listens(tmp_path: Path) -> None:
    config = json.loads(embedded_config(tmp_path, interval_s=1))
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == [str(tmp_path / "prometheus-targets.json")]
    assert config["rule_files"] == [str(rules_path())]
    assert config["global"] == {"scrape_interval": "1s", "evaluation_interval": "1s"}
