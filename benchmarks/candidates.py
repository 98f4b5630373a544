"""Candidate finding: titles by what was typed so far, and titles near to others, by the number of titles.

Enters: a number of titles. Leaves: CPU milliseconds of each way, the share of what it should find, seconds and memory
of what it needs. Called by people: `python -m benchmarks.candidates --titles 10000`.

Nothing is downloaded and no server started: titles are made of a Zipf vocabulary of syllables, vectors lie in groups
(as those of a trained model do) or, with `--vectors random`, anywhere, which is the hardest for a graph. The baselines
are in the same run: a look at every title (`rapidfuzz.process.extract`) and a product with every vector.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import psutil
from rapidfuzz.fuzz import partial_ratio
from rapidfuzz.process import extract

from benchmarks.probes import percentile
from benchmarks.report import MB, machine, publish
from benchmarks.synthetic_titles import VECTOR, Floats, make_titles, make_vectors, typed
from infra.clock import monotonic_s, thread_cpu_s
from serving.title_index import TYPO_MIN_CHARS, TitleIndex
from serving.vector_index import GRAPH_FROM_TITLES, VectorIndex

PACKAGES = ("tantivy", "usearch", "rapidfuzz", "numpy")
TYPED_CHARS = (1, 2, 3, 4, 6, 9, 12)
WANTED_TITLES, WANTED_NEAR = 200, 100
QUERIES, QUICK_QUERIES = 200, 20
# A look at every title takes a second with a million: fewer of them then.
BASELINE_QUERIES, BASELINE_TITLES = 10, 500_000
BASELINE_CUTOFF = 70
GRAPH_TIMEOUT_S = 3_600.0


def measure_titles(titles: Sequence[str], queries: int) -> dict[str, Any]:
    """The index's seconds and bytes, and the milliseconds of keystrokes of every length."""
    before_bytes, began_s = _rss_bytes(), monotonic_s()
    index = TitleIndex(titles)
    built_s = monotonic_s()
    again = [*titles[:-1], f"{titles[-1]} again"]
    index.put(again)
    changed_s = monotonic_s()
    strength_V = np.random.default_rng(7).random(len(titles), np.float32)
    by_slot = dict(enumerate(again))
    keystrokes = [
        _measure_keystroke(index, by_slot, strength_V, typed(again, chars, typo, queries)) | {"chars": chars} | kind
        for typo, kind in ((False, {"typo": False}), (True, {"typo": True}))
        for chars in TYPED_CHARS
        if chars > TYPO_MIN_CHARS or not typo
    ]
    return {
        "build_s": round(built_s - began_s, 3),
        "one_title_changed_s": round(changed_s - built_s, 3),
        "mb": round((_rss_bytes() - before_bytes) / MB, 1),
        "keystrokes": keystrokes,
    }


def measure_nearest(vectors_VD: Floats, queries: int, with_graph: bool) -> dict[str, Any]:
    """The product and the graph over the same vectors: milliseconds, and how many of the nearest the graph finds."""
    slots = np.random.default_rng(11).integers(0, len(vectors_VD), queries).tolist()
    exact, graph = VectorIndex(graph_from=len(vectors_VD) + 1), VectorIndex(graph_from=1)
    exact.put(vectors_VD)
    exact_ms, right = _time(partial(_ask_nearest, exact), slots)
    figures = {"exact_ms": round(median(exact_ms), 4), "graph_is_used": len(vectors_VD) >= GRAPH_FROM_TITLES}
    if not with_graph:
        return figures
    before_bytes, began_s = _rss_bytes(), monotonic_s()
    graph.put(vectors_VD)
    graph.wait_for_graph(GRAPH_TIMEOUT_S)
    built_s, grown_bytes = monotonic_s() - began_s, _rss_bytes() - before_bytes
    graph_ms, found = _time(partial(_ask_nearest, graph), slots)
    return figures | {
        "graph_ms": round(median(graph_ms), 4),
        "graph_recall": round(mean(len(a & b) / max(1, len(a)) for a, b in zip(right, found, strict=True)), 4),
        "graph_build_s": round(built_s, 2),
        "graph_mb": round(grown_bytes / MB, 1),
    }


def candidates_table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    index = figures["titles_index"]
    rows = [f"{figures['titles']:,} titles", ""]
    rows.append(f"{'typed':<24}{'p50 ms':>9}{'p95 ms':>9}{'found':>8}{'meant one':>11}{'every title, ms':>17}")
    for one in index["keystrokes"]:
        name = f"{one['chars']} characters{', a typo' if one['typo'] else ''}"
        every = "-" if one["every_title_ms"] is None else f"{one['every_title_ms']:.2f}"
        rows.append(
            f"{name:<24}{one['p50_ms']:>9.3f}{one['p95_ms']:>9.3f}{one['found']:>8.0f}"
            f"{100 * one['meant_ratio']:>9.0f} %{every:>17}"
        )
    rows += [
        "",
        f"title index              built in {index['build_s']:.2f} s, {index['mb']:,.0f} MB",
        f"  one title changed      {index['one_title_changed_s']:.3f} s",
        *_nearest_rows(figures),
        f"machine                  {figures['machine']['processor']}, {figures['machine']['cores']} cores, "
        f"load average before: {figures['machine']['load_average_before'][0]}",
        f"command                  {figures['command']}  {figures['took_s']:.0f} s",
    ]
    return "\n" + "\n".join(rows) + "\n"


def _nearest_rows(figures: dict[str, Any]) -> list[str]:
    near = figures["nearest"]
    answers = "graph" if near["graph_is_used"] else "product"
    rows = [
        f"{WANTED_NEAR} nearest, product     {near['exact_ms']:.3f} ms",
        f"  vectors                {figures['vectors']}, {VECTOR} numbers; with so many titles the {answers} answers",
    ]
    if "graph_ms" in near:
        rows.insert(
            1,
            f"{WANTED_NEAR} nearest, graph       {near['graph_ms']:.3f} ms, finds {100 * near['graph_recall']:.1f} %, "
            f"built in {near['graph_build_s']:.1f} s, {near['graph_mb']:,.0f} MB more",
        )
    return rows


def _measure_keystroke(
    index: TitleIndex, titles: dict[int, str], strength_V: Floats, questions: list[tuple[str, int]]
) -> dict[str, Any]:
    def ask(query: str) -> list[int]:
        exact, alike = index.find(query, strength_V, WANTED_TITLES)
        return [*exact, *alike]

    def ask_every(query: str) -> object:
        return extract(query, titles, scorer=partial_ratio, score_cutoff=BASELINE_CUTOFF, limit=WANTED_TITLES)

    queries = [query for query, _ in questions]
    took_ms, found = _time(ask, queries)
    looks = min(BASELINE_QUERIES, 1 + BASELINE_TITLES // len(titles))
    every_ms = _time(ask_every, [query for query in queries if len(query) >= TYPO_MIN_CHARS][:looks])[0]
    return {
        "p50_ms": round(median(took_ms), 4),
        "p95_ms": percentile(took_ms, 95),
        "found": mean(map(len, found)),
        "meant_ratio": round(mean(slot in slots for (_, slot), slots in zip(questions, found, strict=True)), 3),
        "every_title_ms": round(median(every_ms), 3) if every_ms else None,
    }


def _ask_nearest(index: VectorIndex, slot: int) -> set[int]:
    return set(islice(index.nearest([slot], WANTED_NEAR), WANTED_NEAR))


def _time(ask: Callable[[Any], Any], questions: Sequence[Any]) -> tuple[list[float], list[Any]]:
    """CPU milliseconds of each question, and its answer; the first one is asked twice, the first time for nothing."""
    taken_ms, answers = list[float](), list[Any]()
    for question in (*questions[:1], *questions):
        began_s = thread_cpu_s()
        answers.append(ask(question))
        taken_ms.append(1000 * (thread_cpu_s() - began_s))
    return taken_ms[1:], answers[1:]


def _rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.candidates", description=__doc__)
    parser.add_argument("--titles", type=int, default=10_000, help="how many titles there are (10,000)")
    parser.add_argument("--vectors", choices=("grouped", "random"), default="grouped", help="how vectors lie (grouped)")
    parser.add_argument("--no-graph", action="store_true", help="only the product: a graph of a million takes minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    parser.add_argument("--quick", action="store_true", help="a few questions, to show that it works")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    given = make_parser().parse_args(arguments)
    began_s, load_before = monotonic_s(), os.getloadavg()
    queries = QUICK_QUERIES if given.quick else QUERIES
    words = sys.argv[1:] if arguments is None else arguments
    figures = {
        "titles": given.titles,
        "vectors": given.vectors,
        "titles_index": measure_titles(make_titles(given.titles), queries),
        "nearest": measure_nearest(make_vectors(given.titles, given.vectors), queries, not given.no_graph),
        "machine": machine(load_before),
        "versions": {name: version(name) for name in PACKAGES},
        "command": " ".join(("python -m benchmarks.candidates", *words)),
        "quick": given.quick,
    }
    figures["took_s"] = round(monotonic_s() - began_s, 1)
    publish(figures, candidates_table(figures), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
