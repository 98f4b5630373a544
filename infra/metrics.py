"""The metrics catalogue: every metric of every process, in one table.

Enters: observations. Leaves: a Prometheus registry. Called by the workers, the scorer and the canary; dashboards,
alerts and `docs/metrics.md` name only what stands here. Labels come from closed sets: never an id, a query or a count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from infra.shared_metrics import SharedMetrics

FRESHNESS_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
LATENCY_BUCKETS_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)
REBALANCE_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0)
DISTANCE_BUCKETS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 400, 800, 1000, 2000)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric; `buckets` are upper bounds in the metric's own unit.

    `together` is what the gauges of several processes of one scorer say as one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: Sequence[float] = ()
    together: Literal["sum", "min", "max"] = "sum"


CATALOGUE: tuple[MetricSpec, ...] = (
    # stream workers
    MetricSpec("nowrank_worker_records_total", "counter", "Records taken from a topic", ("topic",)),
    MetricSpec("nowrank_worker_events_total", "counter", "Events read from the log, repeated ones too", ("kind",)),
    MetricSpec(
        "nowrank_worker_duplicates_total", "counter", "Records skipped because they are contained already", ("stage",)
    ),
    MetricSpec("nowrank_worker_dead_letters_total", "counter", "Records sent to the dead-letter topic", ("reason",)),
    MetricSpec(
        "nowrank_worker_clamped_events_total", "counter", "Events whose time was ahead of the broker's and was clamped"
    ),
    MetricSpec("nowrank_worker_late_events_total", "counter", "Events that arrived over an hour after they happened"),
    MetricSpec("nowrank_worker_deltas_total", "counter", "Deltas handed from stage 1 to stage 2"),
    MetricSpec("nowrank_worker_rows_written_total", "counter", "Rows written to the online store", ("entity",)),
    MetricSpec(
        "nowrank_worker_row_conflicts_total",
        "counter",
        "Row writes refused because another writer was first",
        ("stage",),
    ),
    MetricSpec("nowrank_worker_row_cache_hits_total", "counter", "Rows found in the worker's cache", ("stage",)),
    MetricSpec("nowrank_worker_row_cache_misses_total", "counter", "Rows read from the online store", ("stage",)),
    MetricSpec(
        "nowrank_worker_freshness_seconds",
        "histogram",
        "Event time to readable in the online store, of events at most 10 s old when produced",
        ("view",),
        FRESHNESS_BUCKETS_S,
    ),
    MetricSpec(
        "nowrank_worker_freshness_step_seconds",
        "histogram",
        "The steps of that freshness: append (event time to broker), apply (broker to folded), write (folded to "
        "readable)",
        ("view", "step"),
        FRESHNESS_BUCKETS_S,
    ),
    MetricSpec(
        "nowrank_worker_backfill_events_total",
        "counter",
        "Events too old when produced to count for freshness",
        ("view",),
    ),
    MetricSpec("nowrank_worker_batch_records", "histogram", "Records in one batch", ("stage",), BATCH_BUCKETS),
    MetricSpec(
        "nowrank_worker_batch_seconds", "histogram", "Time to fold and write one batch", ("stage",), LATENCY_BUCKETS_S
    ),
    MetricSpec(
        "nowrank_worker_lag_records",
        "gauge",
        "Records behind the end of the log, summed over this worker's partitions",
        ("topic",),
    ),
    MetricSpec(
        "nowrank_worker_last_batch_timestamp_seconds",
        "gauge",
        "When the last batch was applied; 0: none since the start",
        ("stage",),
    ),
    MetricSpec("nowrank_worker_row_cache_bytes", "gauge", "Estimated size of the rows in the cache", ("stage",)),
    MetricSpec("nowrank_worker_assigned_partitions", "gauge", "Topic-partitions that this worker reads"),
    MetricSpec(
        "nowrank_worker_rebalance_seconds",
        "histogram",
        "Time from partitions taken away to records flowing again",
        (),
        REBALANCE_BUCKETS_S,
    ),
    MetricSpec(
        "nowrank_worker_unknown_items_total",
        "counter",
        "Events for titles that are not in the catalogue; they are kept",
    ),
    # canary
    MetricSpec(
        "nowrank_canary_freshness_seconds",
        "histogram",
        "Probe event produced to readable through Feast's layout",
        ("view",),
        FRESHNESS_BUCKETS_S,
    ),
    MetricSpec("nowrank_canary_probes_total", "counter", "Probe events by what became of them", ("result",)),
    MetricSpec(
        "nowrank_canary_last_success_timestamp_seconds",
        "gauge",
        "When a probe was last readable in every view; 0: never",
    ),
    # scorer
    MetricSpec(
        "nowrank_scorer_starts_total",
        "counter",
        "Scorer processes that have started; of several on one port, one that is started again counts on",
    ),
    MetricSpec("nowrank_scorer_requests_total", "counter", "HTTP requests", ("route", "code")),
    MetricSpec(
        "nowrank_scorer_rank_seconds", "histogram", "Time to answer a ranking request", ("task",), LATENCY_BUCKETS_S
    ),
    MetricSpec(
        "nowrank_scorer_variant_seconds",
        "histogram",
        "Time to answer a ranking request, by the model variant that answered",
        ("variant",),
        LATENCY_BUCKETS_S,
    ),
    MetricSpec(
        "nowrank_scorer_phase_seconds",
        "histogram",
        "Time in one phase of a ranking request",
        ("phase",),
        LATENCY_BUCKETS_S,
    ),
    MetricSpec(
        "nowrank_scorer_interleaved_items_total",
        "counter",
        "Titles of interleaved answers by the variant whose pick they are",
        ("variant",),
    ),
    MetricSpec("nowrank_scorer_degraded_total", "counter", "Answers given without a part of the features", ("status",)),
    MetricSpec(
        "nowrank_scorer_kendall_distance_ratio",
        "histogram",
        "Pairs of titles that changed their order since the member's last answer to the same question",
        ("task",),
        DISTANCE_BUCKETS,
    ),
    MetricSpec(
        "nowrank_scorer_answer_cache_total",
        "counter",
        "Requests that scores of their member's cluster could serve, by whether they were there",
        ("result",),
    ),
    MetricSpec("nowrank_scorer_candidates_total", "counter", "Candidates by the source that brought them", ("source",)),
    MetricSpec(
        "nowrank_scorer_feature_age_seconds",
        "histogram",
        "Age of the user's newest event when it was scored",
        (),
        FRESHNESS_BUCKETS_S,
    ),
    MetricSpec("nowrank_scorer_near_cache_rows", "gauge", "Item rows in the near cache", together="min"),
    MetricSpec(
        "nowrank_scorer_near_cache_staleness_seconds",
        "histogram",
        "From the earliest possible change of an item row to its refreshed row in the near cache",
        (),
        FRESHNESS_BUCKETS_S,
    ),
    MetricSpec("nowrank_scorer_near_cache_refreshes_total", "counter", "Item rows read again after an invalidation"),
    MetricSpec("nowrank_scorer_events_total", "counter", "Events taken by POST /events", ("result",)),
    MetricSpec("nowrank_scorer_rankings_total", "counter", "Rankings logged or dropped", ("result",)),
    MetricSpec(
        "nowrank_scorer_refused_total",
        "counter",
        "Requests and connections that were refused to protect the others",
        ("reason",),
    ),
    MetricSpec("nowrank_scorer_connections", "gauge", "Open HTTP connections"),
    MetricSpec("nowrank_scorer_unfinished_requests", "gauge", "Ranking requests that wait or are being answered"),
    MetricSpec(
        "nowrank_scorer_store_breaker_open",
        "gauge",
        "1 while requests do not wait for the online store, because it failed too often",
        together="max",
    ),
    MetricSpec("nowrank_scorer_store_up", "gauge", "1 when the online store answered last time", together="min"),
    MetricSpec(
        "nowrank_scorer_model_loaded_timestamp_seconds",
        "gauge",
        "When the default variant's model was loaded; 0: none, trending answers",
        together="min",
    ),
)
_BY_NAME = {spec.name: spec for spec in CATALOGUE}


class Metrics:
    """The live metrics of one process; each metric of the catalogue exists from the start."""

    def __init__(
        self,
        process: Literal["worker", "scorer", "canary"],
        registry: CollectorRegistry | None = None,
        shared: SharedMetrics | None = None,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._shared = shared
        if shared is not None:
            shared.join()
        prefix = f"nowrank_{process}_"
        self._metrics: dict[str, Counter | Gauge | Histogram] = {
            spec.name: _create(spec, self.registry) for spec in CATALOGUE if spec.name.startswith(prefix)
        }
        self._children: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}

    def expose(self) -> bytes:
        """Prometheus' text format: of this process, or of all that share their metrics with it."""
        return generate_latest(self.registry if self._shared is None else self._shared.registry())

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self._child(name, Counter, labels).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        self._child(name, Histogram, labels).observe(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, Gauge, labels).set(value)

    def _child(self, name: str, kind: type, labels: dict[str, str]):  # type: ignore[no-untyped-def]
        key = (name, kind, *labels.values())
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._new_child(name, kind, labels)
        return child

    def _new_child(self, name: str, kind: type, labels: dict[str, str]):  # type: ignore[no-untyped-def]
        metric = self._metrics[name]
        if not isinstance(metric, kind):
            raise TypeError(f"{name} is a {_BY_NAME[name].kind}, not a {kind.__name__.lower()}")
        return metric.labels(**labels) if labels else metric


def _create(spec: MetricSpec, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if spec.kind == "counter":
        return Counter(spec.name, spec.help, spec.labels, registry=registry)
    if spec.kind == "gauge":
        mode: Any = f"live{spec.together}"
        return Gauge(spec.name, spec.help, spec.labels, registry=registry, multiprocess_mode=mode)
    return Histogram(spec.name, spec.help, spec.labels, registry=registry, buckets=tuple(spec.buckets))


def metrics_table() -> str:
    """The Markdown table of `docs/metrics.md`."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{spec.name}` | {spec.kind} | {', '.join(spec.labels) or '-'} | {spec.help} |" for spec in CATALOGUE]
    return "\n".join(lines) + "\n"
