"""The metrics catalogue agrees with the code that feeds it and with its page."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import generate_latest

from infra.metrics import CATALOGUE, FRESHNESS_BUCKETS_S, LATENCY_BUCKETS_S, Metrics
from infra.prometheus.commands import metrics_page
from tests.infra.watched import ROOT, SPECS

# No label for an id, a query or a title; what these carry on a live stack is checked by test_watching.py.
CLOSED_LABELS = {"code", "result", "route", "status"}  # of HTTP and of what became of something
CLOSED_LABELS |= {"entity", "kind", "phase", "reason", "source", "stage", "step", "task", "topic", "variant", "view"}
METHOD_OF_KIND = {"counter": "count", "gauge": "set", "histogram": "observe"}


class Feeding(NamedTuple):
    """A place in the code that feeds a metric."""

    where: str
    method: str
    metric: str
    labels: frozenset[str]


def feedings() -> Iterator[Feeding]:
    for room in ("streams", "serving"):
        for path in sorted((ROOT / room).rglob("*.py")):
            yield from feedings_of(path)


def feedings_of(path: Path) -> Iterator[Feeding]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and str(name.value).startswith("nowrank_"):
                labels = frozenset(str(keyword.arg) for keyword in node.keywords if keyword.arg != "amount")
                yield Feeding(f"{path.relative_to(ROOT)}:{node.lineno}", node.func.attr, str(name.value), labels)


def test_code_feeds_every_metric_of_the_catalogue_and_no_other() -> None:
    assert {feeding.metric for feeding in feedings()} == set(SPECS)


def test_code_feeds_each_metric_by_its_kind_and_with_its_labels() -> None:
    for feeding in feedings():
        spec = SPECS[feeding.metric]
        assert feeding.method == METHOD_OF_KIND[spec.kind], feeding
        assert feeding.labels == set(spec.labels), feeding


def test_labels_come_from_a_short_list_that_has_no_place_for_ids() -> None:
    assert {label for spec in CATALOGUE for label in spec.labels} <= CLOSED_LABELS


def test_names_say_process_and_unit_and_are_unique() -> None:
    assert len(SPECS) == len(CATALOGUE)
    for spec in CATALOGUE:
        assert spec.name.startswith(("nowrank_worker_", "nowrank_scorer_", "nowrank_canary_")), spec.name
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert not spec.name.endswith(("_ms", "_milliseconds", "_mb")), spec.name
        assert spec.help, spec.name


def test_histograms_have_rising_buckets_and_others_have_none() -> None:
    for spec in CATALOGUE:
        assert bool(spec.buckets) == (spec.kind == "histogram"), spec.name
        assert list(spec.buckets) == sorted(set(spec.buckets)), spec.name


@pytest.mark.parametrize(("buckets_s", "target_s"), [(FRESHNESS_BUCKETS_S, 1.0), (LATENCY_BUCKETS_S, 0.05)])
def test_buckets_have_a_bound_at_the_target_and_several_on_both_sides(
    buckets_s: tuple[float, ...], target_s: float
) -> None:
    assert target_s in buckets_s, "or the share of answers within the target cannot be read"
    assert sum(bound < target_s for bound in buckets_s) >= 5
    assert sum(bound > target_s for bound in buckets_s) >= 3


@pytest.mark.parametrize("process", ["worker", "scorer", "canary"])
def test_a_process_exposes_its_own_metrics_from_the_start(process: str) -> None:
    exposed = generate_latest(Metrics(process).registry).decode()  # type: ignore[arg-type]
    for spec in CATALOGUE:
        name = spec.name.removesuffix("_total") if spec.kind == "counter" else spec.name
        assert (f"# HELP {name}" in exposed) == spec.name.startswith(f"nowrank_{process}_"), spec.name


def test_a_metric_cannot_be_fed_as_another_kind() -> None:
    with pytest.raises(TypeError, match="nowrank_worker_deltas_total is a counter, not a gauge"):
        Metrics("worker").set("nowrank_worker_deltas_total", 1.0)


def test_only_gauges_say_what_several_processes_say_together() -> None:
    assert {spec.kind for spec in CATALOGUE if spec.together != "sum"} == {"gauge"}


def test_page_of_metrics_is_the_catalogue() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page(), "write it anew: make docs"
