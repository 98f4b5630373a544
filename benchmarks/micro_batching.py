"""Would scoring several requests in one run of the graph be quicker than one run each?

Enters: an artifact. Leaves: CPU milliseconds of a run by the number of candidates, and what a batch of BATCH requests
could gain at most. Called by people: `python -m benchmarks.micro_batching ARTIFACT`.

A run over BATCH x N candidates of one request is the quickest that a run over BATCH requests of N could ever be: it
encodes one session and one history instead of BATCH. Its cost beside that of BATCH runs over N is thus the upper bound
of the gain, before anybody has waited for the batch to fill.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import machine, publish
from features.catalogue import Item
from features.engagement import Task
from features.item_table import ItemTable
from features.model_inputs import RequestInputs, request_inputs
from features.vector import COLUMN_NAMES, Context
from infra.clock import monotonic_s, thread_cpu_s
from infra.errors import NowrankError
from infra.settings import load_settings
from model.artifact import Artifact, ItemVectors, load_artifact

BATCH = 8
CANDIDATES = (10, 20, 50, 100, 200, 500)
RUNS, QUICK_RUNS = 40, 4
TITLES = BATCH * max(CANDIDATES)


def measure(artifact: Artifact, runs: int) -> dict[str, Any]:
    """The medians over `runs` turns; in each turn every number of candidates is scored once."""
    table = ItemTable()
    for number in range(TITLES):
        table.set_item(Item(item_id=f"title-{number}", title=f"Title {number}"))
    encoded = artifact.encode_items(table)
    inputs = request_inputs(table, Context(task=Task.PRE_QUERY, now_ms=0))
    draw = np.random.default_rng(0)
    sizes = sorted({*CANDIDATES, *(BATCH * number for number in CANDIDATES)})
    pairs = draw.standard_normal((max(sizes), len(COLUMN_NAMES))).astype(np.float32)
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(1 + runs):
        for size in sizes:
            taken[size].append(_run_ms(artifact, encoded, inputs, size, pairs))
    ms = {size: median(values[1:]) for size, values in taken.items()}
    return {
        "batch": BATCH,
        "run_ms": {str(size): round(value, 3) for size, value in ms.items()},
        "gain_at_most": {str(number): round(BATCH * ms[number] / ms[BATCH * number], 3) for number in CANDIDATES},
        "runs": runs,
    }


def _run_ms(artifact: Artifact, encoded: ItemVectors, inputs: RequestInputs, size: int, pairs_NF: Any) -> float:
    began_s = thread_cpu_s()
    artifact.score(encoded, inputs, np.arange(1, size + 1), pairs_NF[:size])
    return 1000 * (thread_cpu_s() - began_s)


def table_of(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'candidates':>10}  {'one run, ms':>11}  {f'{BATCH} in one run, ms':>18}  {'gain at most':>12}"]
    for number, gain in figures["gain_at_most"].items():
        together = figures["run_ms"][str(BATCH * int(number))]
        lines.append(f"{number:>10}  {figures['run_ms'][number]:>11.2f}  {together:>18.2f}  {gain:>12.2f}")
    lines += [
        "",
        f"machine  {figures['machine']['processor']}",
        f"command  {figures['command']}  {figures['took_s']:.0f} s",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro_batching", description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path, help="a folder (default: where the scorer looks)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    parser.add_argument("--quick", action="store_true", help="a second that shows that it works; no figures to quote")
    given = parser.parse_args(arguments)
    began_s = monotonic_s()
    try:
        artifact = load_artifact(given.artifact or load_settings(running_stack=False).artifact_path)
    except NowrankError as error:
        print(f"benchmarks.micro_batching: {error}", file=sys.stderr)
        return 1
    figures = measure(artifact, QUICK_RUNS if given.quick else RUNS) | {"machine": machine(os.getloadavg())}
    words = sys.argv[1:] if arguments is None else arguments
    figures |= {
        "command": " ".join(("python -m benchmarks.micro_batching", *words)),
        "took_s": round(monotonic_s() - began_s, 1),
    }
    publish(figures, table_of(figures), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
