"""A real Prometheus watches the embedded stack: every question of the dashboard and the rules gets an answer."""

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.engagement import TASK_NAMES, Kind
from features.rows import FAMILIES, SHOWN
from infra.clock import now_ms
from infra.embedded import start_stack, stop_stack
from infra.embedded.child import dies_with_parent
from infra.embedded.servers import free_port
from infra.prometheus.config import embedded_config
from infra.settings import Settings
from serving.candidates import SOURCES
from serving.client import Scorer
from serving.experiments import DEFAULT
from serving.guard import CLIENT_GONE
from streams.events import REASONS, Click, Play, Thumb
from streams.producer import Producer, new_event_id
from streams.topics import DELTAS, EVENT_TOPICS, PLAYS
from tests.infra.watched import PHASES, SPECS, Expression, degraded_statuses, expressions, rules
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import TITLES, make_items

pytestmark = [pytest.mark.slow, pytest.mark.alone]

RATE_INTERVAL = "20s"
TIMEOUT_S = 120.0
# Nothing that the test does makes these happen; their panels say "none so far".
QUIET = {
    "panel 'Answers by model variant' B",
    "panel 'Rankings not logged' A",
    "panel 'Refused by reason' A",
    "panel 'Requests by route' B",
    "panel 'Row conflicts by stage' A",
    "panel 'Time of a rebalance, last hour' A",
    "panel 'Time of a rebalance, last hour' B",
}
STATUS_CODES = {str(status.value) for status in HTTPStatus} | {str(CLIENT_GONE)}
ROUTES = {
    "/rank",
    "/events",
    "/items",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/admin/log-level",
    "/admin/reload",
    "unknown",
}
VIEWS = {"session", "item", "query", "source_item", "country"}
REFUSED = {
    "full",
    "queue",
    "token",
    "rate_limit",
    "connections",
    "large_headers",
    "malformed",
    "slow_headers",
    "slow_reader",
}
CLOSED_VALUES = {
    "code": STATUS_CODES,
    "entity": {family.name for family in (*FAMILIES, SHOWN)},
    "kind": {kind.name.lower() for kind in Kind},
    "phase": PHASES,
    "reason": {*REASONS, *REFUSED},
    "result": {"accepted", "rejected", "lost", "logged", "dropped", "seen"},
    "route": ROUTES,
    "source": set(SOURCES),
    "stage": {"session", "target", "labels"},
    "step": {"append", "apply", "write"},
    "status": degraded_statuses(),
    "task": set(TASK_NAMES),
    "topic": {*EVENT_TOPICS, DELTAS},
    "variant": {DEFAULT},
    "view": VIEWS,
}


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S:g} s: {what}"
        time.sleep(0.05)


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=10.0)

    def ready(self) -> bool:
        try:
            return self.http.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The samples that answer now and are numbers; an expression that Prometheus refuses fails the test."""
        answer = self.http.post("/api/v1/query", data={"query": expr.replace("$__rate_interval", RATE_INTERVAL)}).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {expr}"
        assert not answer.get("warnings"), f"{answer['warnings']}: {expr}"
        return [sample for sample in answer["data"]["result"] if math.isfinite(float(sample["value"][1]))]

    def values(self, expr: str, label: str) -> dict[str, float]:
        """The answer by the values of one label."""
        return {sample["metric"].get(label, ""): float(sample["value"][1]) for sample in self.ask(expr)}

    def api(self, path: str, **query: str) -> Any:
        return self.http.get(path, params=query).json()["data"]


class Traffic:
    """Members who click, play, thumb and ask, and callers who get it wrong."""

    def __init__(self, producer: Producer, scorer: Scorer) -> None:
        self._producer, self._scorer = producer, scorer
        self._http = httpx.Client(base_url=scorer.url, trust_env=False, timeout=10.0)
        self.rounds = 0

    def play_round(self) -> None:
        """A few dozen events, right and wrong, then requests of every kind."""
        self.rounds += 1
        events = [event for number in range(10) for event in self._events(number)]
        self._producer.send_many(events)
        self._producer.send(events[0])  # a second time: the rows contain it already
        self._producer.send_record(PLAYS, b"{not json", b"somebody")
        self._producer.flush()
        self._scorer.send_events([self._events(11)[0]])
        for number in range(10):
            user = f"member-{number}"
            self._scorer.rank(user)
            self._scorer.rank(user, "search", query="night")
            self._scorer.rank(user, "more_like_this", source_item_id="t3")
        self._scorer.rank("member-0", items=[f"t{number}" for number in range(TITLES)])
        assert self._http.post("/rank", content=b"{}").is_client_error
        assert self._http.get("/nowhere").status_code == 404

    def _events(self, number: int) -> list[Click | Play | Thumb]:
        member = {"user_id": f"member-{number}", "event_ts_ms": now_ms()}
        item = f"t{(number + self.rounds) % TITLES}"
        return [
            Click(event_id=new_event_id(), item_id=item, task="search", query="night train", country="DE", **member),
            Play(
                event_id=new_event_id(), item_id=item, task="more_like_this", source_item_id="t3",
                watched_ms=80_000, duration_ms=100_000, **member,
            ),
            Thumb(event_id=new_event_id(), item_id=item, value="up", **member),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A whole embedded stack."""
    if shutil.which("prometheus") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("prometheus is not here, and CI=true: .ci/run installs the package prometheus")
        pytest.skip("prometheus is not here: apt-get install prometheus")
    settings = Settings(state_dir=tmp_path_factory.mktemp("watched"), rank_deadline_ms=2_000)
    try:
        yield start_stack(settings, tied=True)
    finally:
        stop_stack(settings)


@pytest.fixture(scope="module")
def prometheus(stack: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus that follows the stack's list of targets."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(embedded_config(Path(stack["state_dir"]), interval_s=1))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=dies_with_parent(signal.SIGKILL))
    try:
        asked = Prometheus(f"http://{address}")
        until(lambda: process.poll() is not None or asked.ready(), "Prometheus is ready")
        assert process.poll() is None, (folder / "log").read_text()
        yield asked
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def traffic(stack: dict[str, Any], prometheus: Prometheus) -> Iterator[Traffic]:
    """Traffic that has gone on until nothing that must be answered is empty; the model comes in the middle of it."""
    with Producer(stack["kafka"]) as producer, Scorer(stack["scorer_url"], timeout_s=10.0) as scorer:
        producer.send_items(make_items())
        producer.flush()
        traffic = Traffic(producer, scorer)
        play_until(
            traffic, prometheus, lambda: prometheus.ask("nowrank_scorer_degraded_total"), "answers without a model"
        )
        save_untrained_artifact(Path(stack["state_dir"]) / "artifact", make_items())
        play_until(traffic, prometheus, lambda: not unanswered(prometheus), lambda: unanswered(prometheus))
        yield traffic


def play_until(
    traffic: Traffic, prometheus: Prometheus, condition: Callable[[], object], empty: Callable[[], list[str]]
) -> None:
    """One round for each scrape, until the condition holds."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"empty after {traffic.rounds} rounds: {empty()}"
        before = scrapes(prometheus)
        traffic.play_round()
        until(lambda before=before: scrapes(prometheus) > before, "Prometheus scrapes")  # type: ignore[misc]


def scrapes(prometheus: Prometheus) -> float:
    """How often both jobs were scraped so far, the slower one."""
    counts = prometheus.values('sum by (job) (count_over_time(up{job=~"worker|scorer"}[1h]))', "job")
    return min(counts.values()) if len(counts) == 2 else 0.0


def must_have_data(expression: Expression) -> bool:
    return not expression.where.startswith(("alert ", "annotation ")) and expression.where not in QUIET


def unanswered(prometheus: Prometheus) -> list[str]:
    return [found.where for found in expressions() if must_have_data(found) and not prometheus.ask(found.expr)]


@pytest.mark.usefixtures("traffic")
def test_every_expression_runs_and_has_data_where_events_make_data(
    prometheus: Prometheus,
) -> None:
    answers = {(found.where, found.expr): len(prometheus.ask(found.expr)) for found in expressions()}
    empty = sorted(where for (where, _), samples in answers.items() if not samples)
    print(f"{len(answers)} expressions ran; no data: {', '.join(empty)}")
    assert not [
        found.where for found in expressions() if must_have_data(found) and not answers[found.where, found.expr]
    ]


@pytest.mark.usefixtures("traffic")
def test_freshness_latency_throughput_and_lag_cover_every_view_task_and_topic(prometheus: Prometheus) -> None:
    panel = {found.where: found.expr for found in expressions()}
    freshness_s = prometheus.values(panel["panel 'Freshness p99 by view' A"], "view")
    assert set(freshness_s) == VIEWS
    assert all(0 < value <= 30 for value in freshness_s.values()), freshness_s
    steps_s = prometheus.values(panel["panel 'Session freshness by step, mean' A"], "step")
    assert set(steps_s) == {"append", "apply", "write"}
    canary_s = prometheus.values(panel["panel 'Canary freshness by view' A"], "view")
    assert set(canary_s) == {"session", "item"}
    assert all(0 < value <= 10 for value in canary_s.values()), canary_s
    assert prometheus.values(panel["panel 'Probe events seen and lost' A"], "result")["lost"] == 0
    rank_s = prometheus.values(panel["panel 'Rank p99 by task' A"], "task")
    assert set(rank_s) == set(TASK_NAMES)
    events = prometheus.values(panel["panel 'Events folded by kind' A"], "kind")
    assert set(events) == {kind.name.lower() for kind in Kind}
    assert all(value > 0 for value in events.values()), events
    assert set(prometheus.values(panel["panel 'Lag by topic' A"], "topic")) == {*EVENT_TOPICS, DELTAS}
    assert prometheus.values(panel["panel 'Processes up' A"], "job") == {"worker": 2.0, "scorer": 1.0, "canary": 1.0}
    assert prometheus.values(panel["panel 'Dead letters by reason' A"], "reason").keys() == {"malformed_json"}


@pytest.mark.usefixtures("traffic")
def test_rules_are_healthy_the_dead_letters_alert_fires_and_nobody_is_woken(prometheus: Prometheus) -> None:
    found = [rule for group in prometheus.api("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(rules())
    assert {(rule["name"], rule.get("lastError", "")) for rule in found if rule["health"] != "ok"} == set()
    assert prometheus.values('ALERTS{alertname="NowrankDeadLetters"}', "alertstate") == {"firing": 1.0}
    assert prometheus.ask('ALERTS{alertstate="firing", severity="page"}') == []


@pytest.mark.usefixtures("traffic")
def test_labels_carry_only_what_the_code_can_name(prometheus: Prometheus) -> None:
    series = prometheus.api("/api/v1/series", **{"match[]": '{__name__=~"nowrank_.+", job=~"worker|scorer|canary"}'})
    for labels in series:
        for label in set(labels) & {label for spec in SPECS.values() for label in spec.labels}:
            assert labels[label] in CLOSED_VALUES[label], labels
