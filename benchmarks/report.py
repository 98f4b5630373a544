"""The report: the figures as a table, with the machine and the versions that they come from.

Enters: figures. Leaves: text. Called by `streams.py` and `serving.py`.
"""

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from infra.embedded.servers import broker_binary, redis_binary

PACKAGES = ("faust-streaming", "aiokafka", "kafka-python", "feast", "redis", "hiredis", "uvloop", "msgspec")
MB = 1_000_000


def publish(figures: dict[str, Any], text: str, path: Path | None) -> None:
    """Print the table; with a path, write every figure there."""
    print(text)
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"the same as JSON: {path}")


def machine(load_before: Sequence[float]) -> dict[str, Any]:
    """What this ran on; a load average above a few tenths before the run says that it was not alone."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "load_average_before": [round(value, 2) for value in load_before],
    }


def versions() -> dict[str, str]:
    """Python, the packages that the measured processes run on, and the two servers."""
    return {
        "python": platform.python_version(),
        "nowrank": version("nowrank"),
        **{name: version(name) for name in PACKAGES},
        "broker": _says([str(broker_binary()), "--version"]),
        "redis-server": _says([str(redis_binary()), "--version"]),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for people: ratios, each with its limit, and what they are made of.

    Freshness is shown of the session view (s), the target view (t), the bare trip (b), and the bare trip with the
    worker's partitions (b+).
    """
    cpu_us, per_s, ratio, ms = (
        figures[name] for name in ("cpu_per_event_us", "events_per_s", "freshness_ratio", "freshness_ms")
    )
    half, ninety, idle = figures["at_50_percent"], figures["at_90_percent"], figures["without_load"]
    rankings, scaling, memory = figures["rankings"], figures["scaling_detail"], figures["memory"]
    rows = [
        ("events", figures["events"], ""),
        limited("CPU per event, worker : bare agent", figures["cpu_per_event_ratio"], "at most", 2.5),
        ("  worker, bare agent", f"{cpu_us['worker']:.1f} us, {cpu_us['bare']:.1f} us", ""),
        limited("events/s, worker : naive agent", figures["vs_naive"], "at least", 20),
        (
            "  worker, bare, naive agent",
            f"{per_s['worker']:,.0f}, {per_s['bare']:,.0f}, {per_s['naive']:,.0f} events/s",
            "",
        ),
        (
            "saturation",
            f"{figures['saturation_per_s']:,.0f} events/s",
            "the greatest load that it keeps up with"
            if figures["saturation_tried"][-1]["kept_up"]
            else "NOT kept up with",
        ),
        limited("freshness, session : bare trip", ratio["session"], "at most", 4),
        limited("freshness, target : bare trip", ratio["target"], "at most", 8),
        ("  p50, session", f"{_ms(ms['session'])}", "aim 60 ms"),
        ("  p50, target", f"{_ms(ms['target'])}", "aim 150 ms"),
        *_freshness_rows("at 50 %", half),
        *_freshness_rows("at 90 %", ninety),
        *_freshness_rows("without load", idle),
        ("two workers : one, 2 partitions", f"{figures['scaling']:.2f}", ""),
        (
            "  one, two",
            f"{scaling['one_events_per_s']:,.0f}, {scaling['two_events_per_s']:,.0f} events/s",
            f"cores used {scaling['cores_used']['one']['together']}, {scaling['cores_used']['two']['together']} "
            f"of {figures['machine']['cores']}",
        ),
        (
            f"rankings of {rankings['impressions_each']}",
            f"{rankings['cpu_per_ranking_us']['worker']:,.0f} us each, "
            f"{rankings['cpu_per_impression_us']:.1f} us an impression",
            f"{rankings['impressions_per_s']:,.0f} impressions/s",
        ),
        *_memory_rows(memory),
        *_growth_rows(figures["growth"]),
        (
            "machine",
            f"{figures['machine']['processor']}, {figures['machine']['cores']} cores",
            f"load average before: {figures['machine']['load_average_before'][0]}",
        ),
        ("command", figures["command"], f"{figures['took_s']:.0f} s"),
    ]
    return "\n" + "\n".join(f"{name:<34} {value:<54}  {note}".rstrip() for name, value, note in rows) + "\n"


def _memory_rows(memory: dict[str, Any]) -> list[tuple[str, str, str]]:
    million = memory["redis_bytes_per_million"]
    return [
        (
            f"Redis, a million {kind}",
            f"{million[kind]['light'] / MB:,.0f} MB with {memory[f'events_per_{entity}']['light']:.0f} events each, "
            f"{million[kind]['mix'] / MB:,.0f} MB with {memory[f'events_per_{entity}']['mix']:.0f}",
            f"from {memory[kind]:,} and the mix",
        )
        for kind, entity in (("users", "user"), ("items", "item"))
    ] + [
        (
            "worker's memory",
            f"{memory['worker_rss_bytes']['no_rows'] / MB:,.0f} MB empty, "
            f"{memory['worker_rss_bytes']['all_rows'] / MB:,.0f} MB measured",
            f"{memory['worker_rss_bytes_at_million'] / MB:,.0f} MB at its cache's limit",
        )
    ]


def _growth_rows(growth: dict[str, Any]) -> list[tuple[str, str, str]]:
    by_memory = growth["redis_primaries_by_memory"]
    return [
        (
            f"{growth['users'] / 1e6:,.0f} M users, {growth['events_per_s'] / 1e6:,.0f} M events/s",
            f"{growth['workers']:,} workers, Redis {growth['redis_primaries_by_cpu']:,} primaries by CPU, "
            f"{by_memory['light']:,} to {by_memory['mix']:,} by memory",
            "arithmetic, not measured",
        ),
        ("one Redis primary", f"{growth['one_primary_events_per_s']:,} events/s", "arithmetic, at half of a core"),
    ]


def limited(name: str, value: float | None, word: str, limit: float) -> tuple[str, str, str]:
    """One ratio beside its limit, and whether it is met."""
    if value is None:
        return name, "not measured: too few probes became readable", f"{word} {limit:g}"
    is_met = value <= limit if word == "at most" else value >= limit
    return name, f"{value:.2f}", f"{word} {limit:g}: {'met' if is_met else 'NOT met'}"


def _freshness_rows(load: str, figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    rate = f"{figures['sent_per_s']:,.0f} events/s, {figures['worker_cores']:.2f} cores"
    behind = "" if figures["kept_up"] else f", {figures['behind_at_the_end']:,} events behind at the end"
    trips = ("session", "target", "bare", "bare_with_workers_partitions")
    medians = " / ".join(_ms(figures[f"{name}_ms"]["p50"]) for name in trips)
    slowest = " / ".join(_ms(figures[f"{name}_ms"]["p99"]) for name in trips)
    return [(f"  {load}, p50: s, t, b, b+", medians, rate + behind), (f"  {load}, p99", slowest, "")]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _says(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else "unknown"
