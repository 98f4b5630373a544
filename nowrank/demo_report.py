"""What a run of the demo measured, as a table and as an exit code.

Enters: the figures of `demo.py`. Leaves: lines on the terminal. Called by `demo.py`.
"""

import sys
from typing import Any


def print_table(figures: dict[str, Any]) -> None:
    """The figures of a run, a line each."""
    freshness, rank_ms, pre_query = (
        figures["freshness_ms"],
        figures["rank_ms"],
        figures["evaluation"]["tasks"]["pre_query"],
    )
    rows = [
        ("events replayed", f"{figures['events_per_s']:,.0f} events/s ({figures['events']:,} events, both stages)"),
        (
            "freshness, session view",
            f"p50 {freshness['p50']:.0f} ms, p99 {freshness['p99']:.0f} ms ({freshness['events']:,} live events)",
        ),
        ("freshness, item view", f"p50 {freshness['target']['p50']:.0f} ms, p99 {freshness['target']['p99']:.0f} ms"),
        *(
            (
                f"/rank, {count} candidates",
                f"p50 {rank_ms[count]['p50']:.1f} ms, p99 {rank_ms[count]['p99']:.1f} ms (client's time)",
            )
            for count in ("100", "500")
        ),
        (
            "NDCG@10, pre-query",
            ", ".join(
                f"{name} {pre_query[name]['ndcg10']:.3f}" for name in pre_query if isinstance(pre_query[name], dict)
            ),
        ),
        (
            "rows that equal the log",
            f"{figures['verify']['rows'] - figures['verify']['differences']:,} of {figures['verify']['rows']:,}",
        ),
        ("titles moved by the scene", f"{figures['moved_items']} (control: {figures['control_moved_items']})"),
        ("whole run", f"{figures['took_s']:.0f} s, {figures['train_s']:.0f} s of it training"),
    ]
    print("\n" + "\n".join(f"{name:<26} {value}" for name, value in rows) + "\n")


def verdict(figures: dict[str, Any]) -> int:
    """Exit code 0 when the main job did what it promises; says what it did not."""
    failures = [
        text
        for is_met, text in (
            (
                figures["ndcg10"]["unicorn"] > figures["ndcg10"]["popularity"],
                "UniCoRn does not rank better than popularity",
            ),
            (
                figures["verify"]["exit_code"] == 0,
                "the store does not equal the log",
            ),
            (figures["moved_items"] >= 1, "no title moved after the scene"),
            (figures["control_moved_items"] == 0, "titles moved without any event between two requests"),
        )
        if not is_met
    ]
    for text in failures:
        print(f"demo: {text}", file=sys.stderr)
    return 1 if failures else 0
