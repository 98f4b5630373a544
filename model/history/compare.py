"""Comparing runs: is one encoder better than another, or was it luck?

Enters: folders of finished runs over the same histories. Leaves: a table with paired intervals, or the same as JSON.
Called by `nowrank evaluate history`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from infra.errors import BadInput
from model.history.config import EncoderConfig
from model.history.run_folder import Result, load_result
from model.intervals import Interval, paired_interval
from model.ranking_metrics import hit, ndcg

Part = Literal["validation", "test"]


class Difference(msgspec.Struct, frozen=True):
    """A mean difference to the first run and its interval by a bootstrap over users."""

    mean: float
    interval: Interval


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A run beside the first one; both differences are None for the first itself."""

    run: str
    part: Part
    result: Result
    hr10: Difference | None
    ndcg10: Difference | None


def compare_runs(folders: Sequence[Path], part: Part, resamples: int, seed: int) -> list[Compared]:
    """Each run's figures on one part, and its differences to the first, user by user; raises `BadInput` when two runs
    saw different histories.
    """
    base, base_ranks = load_result(folders[0])
    found = [Compared(run=folders[0].name, part=part, result=base, hr10=None, ndcg10=None)]
    users = np.arange(base.users)
    for folder in folders[1:]:
        result, ranks = load_result(folder)
        if result.histories != base.histories:
            raise BadInput(
                "other_histories",
                f"{folder} saw histories {result.histories}, {folders[0]} saw {base.histories}; only runs "
                "over the same data and --core can be compared",
            )
        differences = {}
        for name, metric in (("hr10", hit), ("ndcg10", ndcg)):
            difference = metric(ranks[part]) - metric(base_ranks[part])
            interval = paired_interval(difference, users, resamples, np.random.default_rng(seed))
            differences[name] = Difference(float(difference.mean()), interval)
        found.append(Compared(run=folder.name, part=part, result=result, **differences))
    return found


def comparison_table(compared: Sequence[Compared]) -> str:
    """The runs as a Markdown table, by their figures on the part that they were compared on."""
    lines = [
        "| run | encoder | windows | epochs | CPU s | HR@10 | NDCG@10 | HR@10 to the first | NDCG@10 to the first |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for one in compared:
        result = one.result
        metrics = result.test if one.part == "test" else result.validation
        cells = [
            one.run,
            _described(result.config.model),
            "on" if result.config.windows else "off",
            f"{result.best_epoch + 1} of {result.epochs}",
            f"{result.cpu_s:.0f}",
            f"{metrics['hr10']:.4f}",
            f"{metrics['ndcg10']:.4f}",
            _difference(one.hr10),
            _difference(one.ndcg10),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _described(sizes: EncoderConfig) -> str:
    kinds = " + ".join(part.encoder for part in sizes.parts) or sizes.encoder
    return f"{kinds}, {sizes.blocks} blocks, length {sizes.length}"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    low, high, _ = difference.interval
    return f"{difference.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
