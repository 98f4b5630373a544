"""The serving benchmark's report: the figures as a table, each with its limit.

Enters: figures. Leaves: text. Called by `serving.py`. Pure.
"""

from typing import Any

from benchmarks.report import limited

Line = tuple[str, str, str]
NOT_QUOTED = "a quick run: it shows that everything works; its figures are NOT to be quoted"


def serving_table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    rows = [
        *_floor_rows("/rank, 500 candidates : floor", figures["floor_ratio"], figures["floor"], 1.6),
        *_floor_rows("search by keystroke : floor", figures["search_keystroke"], figures["keystroke"], 2.5),
        *_sdk_rows(figures["vs_sdk"]),
        *_staleness_rows(figures["staleness_ms"]),
        *_memory_rows(figures["memory_mb"], figures["memory"]),
        *(_cell_row(cell) for cell in figures["cells"]),
        (
            "load meanwhile",
            f"{figures['load']['asked_per_s']:,.0f} events/s asked, "
            f"{figures['load']['records_per_s']:,.0f} folded with the rankings",
            f"worker {figures['load']['worker_cores']:.2f} cores, scorer without requests "
            f"{figures['load']['scorer_cores_without_requests']:.2f}",
        ),
        (
            "machine",
            f"{figures['machine']['processor']}, {figures['machine']['cores']} cores",
            f"load average before: {figures['machine']['load_average_before'][0]}",
        ),
        ("command", figures["command"], f"{figures['took_s']:.0f} s"),
    ]
    note = f"{NOT_QUOTED}\n" if figures["quick"] else ""
    return "\n" + note + "\n".join(f"{name:<34} {value:<58}  {rule}".rstrip() for name, value, rule in rows) + "\n"


def _floor_rows(name: str, ratio: float, detail: dict[str, Any], limit: float) -> list[Line]:
    parts = ", ".join(f"{part} {_ms(detail[f'{part}_ms']['p50'])}" for part in ("rank", "floor", "redis", "onnx"))
    phases = ", ".join(f"{phase} {_ms(mean)}" for phase, mean in detail["phases_mean_ms"].items())
    return [
        limited(name, ratio, "at most", limit),
        ("  p50", parts, f"{detail['requests']:,} of each, in turn"),
        ("  the scorer's phases, mean", phases, ""),
    ]


def _sdk_rows(figures: dict[str, Any]) -> list[Line]:
    latency, throughput, same = figures["latency_detail"], figures["throughput_detail"], figures["agreement"]
    return [
        limited("SDK scorer's p50 : ours", figures["latency"], "at least", 8),
        (
            "  p50, theirs and ours",
            f"{_ms(latency['theirs_ms']['p50'])}, {_ms(latency['ours_ms']['p50'])}",
            f"{latency['requests']:,} of each, in turn",
        ),
        limited("our requests/s : SDK scorer's", figures["throughput"], "at least", 6),
        (
            f"  {throughput['concurrency']} at once, ours and theirs",
            f"{throughput['ours_per_s']:,.1f}, {throughput['theirs_per_s']:,.1f} requests/s",
            "",
        ),
        (
            "  the same model: scores differ by",
            f"{same['median_difference']:.2g} in the median, {same['p99_difference']:.2g} at p99",
            f"{100 * same['same_of_first_ten']:.0f} % of the first ten the same",
        ),
    ]


def _staleness_rows(figures: dict[str, Any]) -> list[Line]:
    name, value, rule = limited("near cache's staleness, p99", figures["p99"], "at most", 500)
    return [
        (name, f"{value} ms", rule),
        ("  p50", _ms(figures["p50"]), f"{figures['changes']:,} changes"),
    ]


def _memory_rows(figures: dict[str, Any], detail: dict[str, Any]) -> list[Line]:
    name, value, rule = limited("near cache and index, a million", figures["near_cache_at_a_million"], "at most", 400)
    million, by_size = detail["mb_at_a_million"], detail["bytes"]
    sizes = ", ".join(f"{int(size):,}: {step['rows'] / 1e6:,.0f} MB" for size, step in by_size.items())
    return [
        (name, f"{value} MB", rule),
        ("  measured", sizes, f"the near cache holds at most {detail['near_cache_rows_limit']:,} rows"),
        ("  titles and their index, vectors", f"{million['titles']:,.0f} MB, {million['vectors']:,.0f} MB more", ""),
        ("  formula", detail["formula"], ""),
        ("whole scorer process", f"{figures['scorer_process']:,.0f} MB", f"{figures['titles']:,} titles"),
    ]


def _cell_row(cell: dict[str, Any]) -> Line:
    slowest = " / ".join(_ms(cell[f"p{percent}_ms"]) for percent in (50, 95, 99))
    return (
        f"{cell['candidates']:,} candidates, {cell['concurrency']} at once",
        f"p50 / p95 / p99 {slowest}",
        f"{cell['requests_per_s']:,.1f} requests/s, {cell['cpu_ms_per_request']:.2f} ms CPU each",
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"
