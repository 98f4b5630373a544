"""What the dashboard and the rules ask Prometheus for.

Enters: the dashboard's JSON and the rules' YAML. Leaves: their expressions, and what each names. Called by the static
tests and by the test against a real Prometheus.
"""

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import yaml

from infra.metrics import CATALOGUE
from infra.prometheus.config import rules_path
from serving.rank import _degraded, to_status
from serving.store_reader import RowsRead

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "infra" / "grafana" / "dashboards" / "nowrank.json"
SPECS = {spec.name: spec for spec in CATALOGUE}
PHASES = {"store", "shared", "candidates", "features", "model", "rules", "answer"}
# Every process brings these: Prometheus itself puts them on what it scrapes, records and alerts.
COMMON_LABELS = {"job", "instance", "le", "alertname", "alertstate", "severity"}

_METRIC = re.compile(r"(?<![:\w])(nowrank_(?:worker|scorer|canary)_\w+|up|ALERTS)(?![:\w])(?:\{([^}]*)\})?")
_RECORDED = re.compile(r"\b\w+:\w+:\w+\b")
_SELECTED_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|on) ?\(([^)]*)\)")


class Expression(NamedTuple):
    """One PromQL expression; `may_be_empty` where nothing to show is good news."""

    where: str
    expr: str
    may_be_empty: bool


class Named(NamedTuple):
    """A metric as an expression names it; `labels` are those it selects by."""

    metric: str
    labels: frozenset[str]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """Every recording and alerting rule."""
    return [rule for group in yaml.safe_load(rules_path().read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[Expression]:
    """What panels, annotations and rules ask for; alerts may be empty, so may panels that say what that means."""
    for panel in panels():
        for target in panel["targets"]:
            where = f"panel {panel['title']!r} {target['refId']}"
            yield Expression(where, target["expr"], "noValue" in panel["fieldConfig"]["defaults"])
    for annotation in dashboard()["annotations"]["list"]:
        yield Expression(f"annotation {annotation['name']!r}", annotation["expr"], True)
    for rule in rules():
        where = f"record {rule['record']}" if "record" in rule else f"alert {rule['alert']}"
        yield Expression(where, rule["expr"], "alert" in rule)


def degraded_statuses() -> set[str]:
    """Every status that a degraded answer can be counted with."""
    kinds = get_type_hints(RowsRead)
    every = product(get_args(kinds["store"]), get_args(kinds["user_status"]), ({}, {"user": "unreadable"}))
    rows = [RowsRead(store=store, user_status=user, invalid=invalid) for store, user, invalid in every]
    return {
        status
        for row in rows
        for has_model in (True, False)
        for status in _degraded(to_status(row, has_model=has_model), row)
    }


def named_metrics(expr: str) -> list[Named]:
    """The metrics that an expression names, as the catalogue names them; recorded series are not among them."""
    return [
        Named(_catalogue_name(match[1]), frozenset(_SELECTED_LABEL.findall(re.sub(r'"[^"]*"', "", match[2] or ""))))
        for match in _METRIC.finditer(expr)
    ]


def recorded_series(expr: str) -> set[str]:
    """The series of recording rules that an expression names."""
    return set(_RECORDED.findall(expr))


def grouping_labels(expr: str) -> set[str]:
    """The labels after `by` and `on`."""
    return {label.strip() for match in _GROUPED.finditer(expr) for label in match[1].split(",") if label.strip()}


def _catalogue_name(series: str) -> str:
    """A histogram's series carry suffixes that the catalogue does not."""
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    return base if base in SPECS and SPECS[base].kind == "histogram" else series
