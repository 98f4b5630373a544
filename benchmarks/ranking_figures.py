"""The measurements of the scorer under load: latency over the floor, against the straightforward one, by candidates.

Enters: ports of running scorers, the floor, questions. Leaves: figures. Called by `serving.py`. What is compared is
interleaved: one request of each in turn, so that both meet the same machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.floor import Floor
from benchmarks.http_load import Connection, keep_asking
from benchmarks.probes import percentile
from benchmarks.processes import Usage
from benchmarks.questions import Question
from infra.errors import NowrankError

PERCENTS = (50, 95, 99)
WARM_UP = 20
TOP = 10
# Rows are read some milliseconds apart, and Feast's on-demand view shows a part of the longest rows.
AGREEMENT_LIMIT = 0.05


@dataclass(slots=True)
class OverFloor:
    """Milliseconds of each request and of the two bare steps beside it."""

    rank_ms: list[float]
    redis_ms: list[float]
    model_ms: list[float]


def time_over_floor(port: int, floor: Floor, questions: Sequence[Question], number: int) -> OverFloor:
    """One request, one bare round trip and one bare run in turn, `number` times."""
    prepared = [(question.body(), floor.prepare(question)) for question in questions]
    times = OverFloor([], [], [])
    with Connection(port) as connection:
        for place in range(WARM_UP + number):
            body, bare = prepared[place % len(prepared)]
            taken = connection.time(body), floor.time_redis(bare), floor.time_model(bare)
            if place >= WARM_UP:
                for values, ms in zip((times.rank_ms, times.redis_ms, times.model_ms), taken, strict=True):
                    values.append(ms)
    return times


def summarise_floor(times: OverFloor) -> dict[str, Any]:
    """The ratio of the medians, and what it is made of."""
    floor_ms = [redis_ms + model_ms for redis_ms, model_ms in zip(times.redis_ms, times.model_ms, strict=True)]
    parts = {"rank": times.rank_ms, "floor": floor_ms, "redis": times.redis_ms, "onnx": times.model_ms}
    return {
        "ratio": round(median(times.rank_ms) / median(floor_ms), 3),
        **{f"{name}_ms": percentiles(values) for name, values in parts.items()},
        "requests": len(times.rank_ms),
    }


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99."""
    return {f"p{percent}": percentile(values, percent) for percent in PERCENTS}


def check_agreement(ours: int, theirs: int, questions: Sequence[Question]) -> dict[str, Any]:
    """Ask both the same; raises `NowrankError` when they do not score the same model."""
    pairs, fresh = [], 0
    with Connection(ours) as our_connection, Connection(theirs) as their_connection:
        for question in questions:
            body = question.body(limit=len(question.items), log=False)
            answers = our_connection.ask_json(body), their_connection.ask_json(body)
            pairs.append(tuple({item["item_id"]: item["score"] for item in answer["items"]} for answer in answers))
            fresh += answers[0]["status"]["user"] == "fresh"
    agreement = summarise_agreement([(one, other) for one, other in pairs]) | {"users_with_rows": fresh}
    if not agreement["median_difference"] <= AGREEMENT_LIMIT:
        raise NowrankError(
            f"the two scorers differ by {agreement['median_difference']:.3f} in the median score; at most "
            f"{AGREEMENT_LIMIT} may come of what Feast cannot give: they do not score the same model"
        )
    return agreement


def summarise_agreement(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
    """How far the scores (log-odds) of the same candidates are apart, and how many of the first TOP are the same."""
    differences = sorted(abs(one[item_id] - other[item_id]) for one, other in pairs for item_id in one)
    shared = [len(_first(one) & _first(other)) / min(TOP, len(one)) for one, other in pairs]
    return {
        "questions": len(pairs),
        "median_difference": round(median(differences), 9),
        "p99_difference": round(differences[math.ceil(0.99 * len(differences)) - 1], 9),
        "same_of_first_ten": round(sum(shared) / len(shared), 3),
    }


def _first(scores: Mapping[str, float]) -> set[str]:
    return set(sorted(scores, key=lambda item_id: (-scores[item_id], item_id))[:TOP])


def compare_latency(ours: int, theirs: int, questions: Sequence[Question], number: int) -> dict[str, Any]:
    """The ratio of their median to ours, one request of each in turn."""
    bodies = [question.body() for question in questions]
    our_ms, their_ms = [], []
    with Connection(ours) as our_connection, Connection(theirs) as their_connection:
        for place in range(number + 2):
            body = bodies[place % len(bodies)]
            taken = our_connection.time(body), their_connection.time(body)
            if place >= 2:
                our_ms.append(taken[0])
                their_ms.append(taken[1])
    return {
        "ratio": round(median(their_ms) / median(our_ms), 2),
        "ours_ms": percentiles(our_ms),
        "theirs_ms": percentiles(their_ms),
        "requests": number,
    }


def compare_throughput(
    ports: tuple[int, int], questions: Sequence[Question], concurrency: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """The median over the rounds of the ratio of requests/s, ours and theirs in turn."""
    bodies = [question.body() for question in questions]
    measured = [tuple(keep_asking(port, bodies, concurrency, seconds).per_s for port in ports) for _ in range(rounds)]
    return {
        "ratio": round(median(our_per_s / their_per_s for our_per_s, their_per_s in measured), 2),
        "ours_per_s": round(median(one[0] for one in measured), 1),
        "theirs_per_s": round(median(one[1] for one in measured), 1),
        "concurrency": concurrency,
        "rounds": rounds,
    }


def measure_cell(
    port: int, usage: Callable[[], Usage], questions: Sequence[Question], concurrency: int, seconds: float
) -> dict[str, Any]:
    """Latency, requests/s and the scorer process' CPU for one number of candidates at one concurrency."""
    bodies = [question.body() for question in questions]
    before = usage()
    timed = keep_asking(port, bodies, concurrency, seconds)
    used = before.until(usage())
    return {
        "candidates": len(questions[0].items),
        "concurrency": concurrency,
        **{f"{name}_ms": value for name, value in percentiles(timed.ms).items()},
        "requests_per_s": round(timed.per_s, 1),
        "cpu_ms_per_request": round(1000 * used.cpu_s / len(timed.ms), 2),
        "requests": len(timed.ms),
    }
