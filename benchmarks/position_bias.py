"""Position bias: does a correction find the true order of titles better than none?

Enters: the size of a simulated world. Leaves: a table, and JSON. Run as `python -m benchmarks.position_bias`.

In a world of `nowrank simulate` the true utility of every shown title is known, and so is that members look at the top
of a list more often (decision 13). The same network is trained on the same lists without a correction and with each
one; then it orders the titles of later lists without knowing their positions. The figure is Kendall's tau between that
order and the true one, the mean over lists; differences are paired by list and drawn by member.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.known_world import (
    add_world_arguments,
    asked_world,
    fit_in,
    make_known_world,
    numbered,
    true_order_taus,
)
from features.engagement import TASK_NAMES
from infra.clock import monotonic_s
from model.config import TrainConfig
from model.fit import logits_of
from model.intervals import paired_interval
from model.position_bias import CORRECTIONS, Correction
from model.served_fit import ServedFit
from model.simulation.law import Floats, Law
from model.simulation.simulator import Plan

# By the default of the simulator the policy is mostly right about its members; in the other world it also promotes
# titles for reasons of its own.
WORLDS = {"default": (), "promoted": ("promotion_spread=1.5",)}
PLACES = 12
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Trial:
    """One world and how to train in it."""

    plan: Plan
    config: TrainConfig
    corrections: Sequence[Correction] = field(default=CORRECTIONS)


def run_trial(trial: Trial, folder: Path) -> dict[str, Any]:
    """Every correction's tau on the last tenth of the lists, and its paired difference from no correction."""
    world = make_known_world(trial.plan, folder)
    test, requests = world.test, world.truth_of(world.test)
    taus: dict[str, Floats] = {}
    learned: dict[str, Any] = {}
    for correction in trial.corrections:
        begin_s = monotonic_s()
        fit, losses = fit_in(world, trial.config, correction)
        taus[correction] = true_order_taus(logits_of(fit.model, world.catalogue, test.examples), requests)
        learned[correction] = {"middle_losses": losses[1], "fit_s": monotonic_s() - begin_s}
        if correction in ("position", "examination"):
            learned[correction] |= _positions(fit, trial.plan.law)
    users = numbered(test.users_B)
    rng = np.random.default_rng(trial.config.seed)
    result: dict[str, Any] = {"lists": len(world.train), "tested_lists": len(test), "seed": trial.plan.seed}
    for name, own in taus.items():
        low, high, _ = paired_interval(own - taus["none"], users, RESAMPLES, rng)
        result[name] = {"tau": float(own.mean()), "gain": float((own - taus["none"]).mean())}
        result[name] |= {"gain_low": low, "gain_high": high} | learned[name]
    return result


def _positions(fit: ServedFit, law: Law) -> dict[str, Any]:
    """The learned part of each place, and the logarithm of the true P(examined) for comparison."""
    log_examined = -law.etas[:, None] * np.log(np.arange(1, PLACES + 1))
    return {
        "learned": dict(zip(TASK_NAMES, fit.learned_positions(PLACES), strict=True)),
        "true_log_examined": dict(zip(TASK_NAMES, log_examined.round(3).tolist(), strict=True)),
    }


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| world | seed | lists | correction | tau with the true order | gain over none, 95 % interval |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for correction in (one for one in CORRECTIONS if one in result):
            own = result[correction]
            gain = f"{own['gain']:+.4f} ({own['gain_low']:+.4f} .. {own['gain_high']:+.4f})"
            cells = (result["world"], result["seed"], f"{result['lists']:,}", correction, f"{own['tau']:.4f}", gain)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run each world and seed; 0 when the first correction gains in the promoted world, each interval above zero."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world_arguments(parser, WORLDS, seeds=[1])
    parser.add_argument("--corrections", nargs="+", choices=CORRECTIONS[1:], default=CORRECTIONS[1:])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begin_s = monotonic_s()
    corrections: tuple[Correction, ...] = ("none", *args.corrections)
    results = []
    for world, seed in product(args.worlds, args.seeds):
        plan, config = asked_world(args, seed, WORLDS[world])
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(plan, config, corrections)
            results.append({"world": world} | run_trial(trial, Path(folder) / "world"))
        print(_table(results[-1:]), file=sys.stderr)
    document = {
        "synthetic": True,
        "arguments": {**vars(args), "json": None},
        "took_s": monotonic_s() - begin_s,
        "results": results,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(_table(results))
    promoted = [result for result in results if result["world"] == "promoted"]
    return 0 if all(result[name]["gain_low"] > 0 for result in promoted for name in corrections[1:2]) else 1


if __name__ == "__main__":
    sys.exit(main())
