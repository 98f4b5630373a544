"""The truth: does UniCoRn find what is true in a world where that is known?

Enters: the size of a simulated world. Leaves: tables, and JSON. Run as `python -m benchmarks.truth`.

In a world of `nowrank simulate` every latent is written down (decision 13). For each seed the network is trained on the
first lists, with both sides of a member and with either alone, and held against the truth of the last tenth:

gate        the rank correlation (Spearman) of its gate with the true one, beside what could be known at all
            (`benchmarks/gate_ceiling.py`)
calibration the expected calibration error of its probability that a shown title is engaged
order       Kendall's tau, and NDCG@10 by true relevance, of its order of a list's titles with the true one

In the world `no moods` every true gate is 0, and a gain of the session side would be an error. Differences are paired
by list; intervals are drawn by member, over all seeds together, and do not hold the chance of training: take several
seeds. All of it is synthetic.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gate_ceiling import Bayes, seen_by_gate, told_gate
from benchmarks.known_world import (
    SIZES,
    KnownWorld,
    add_world_arguments,
    asked_world,
    fit_in,
    make_known_world,
    true_order_ndcgs,
    true_order_taus,
)
from benchmarks.truth_figures import (
    Compared,
    Probabilities,
    calibration,
    compared,
    correlations,
    probabilities,
    with_interval,
)
from benchmarks.truth_report import holds, tables
from infra.clock import monotonic_s
from model.config import TrainConfig
from model.fit import logits_of
from model.served_examples import ServedExamples
from model.served_fit import ServedFit
from model.simulation.law import MORE_LIKE_THIS, Bools, Floats

WORLDS = {"default": (), "no moods": ("mood_share=0",)}
SIDES = {"blend": SIZES, "history": replace(SIZES, short=False), "session": replace(SIZES, long=False)}
NULL_SIDES = ("blend", "history")
# Without moods a session still says something new of a member who has little history, and a title shown because of its
# source is part of the request: both are kept out there.
LONG_HISTORY = 20

# By which requests, by whose gate: as `correlations` gives it.
Gates = dict[str, dict[str, Floats]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one world and seed gave: figures for the report, and what is taken together over seeds."""

    figures: dict[str, Any]
    compared: Compared
    gates: Gates
    probabilities: Probabilities


def run_trial(world: KnownWorld, config: TrainConfig) -> Trial:
    """Train with both sides and with either, and hold all three against the truth."""
    requests = world.truth_of(world.test)
    sides: dict[str, Any] = {}
    fits: dict[str, ServedFit] = {}
    has_moods = world.plan.law.mood_share > 0
    for side in SIDES if has_moods else NULL_SIDES:
        begin_s = monotonic_s()
        own = replace(config, model=SIDES[side])
        fits[side], losses = fit_in(world, own, "position")
        logits_BK = logits_of(fits[side].model, world.catalogue, world.test.examples)
        taus, ndcgs = true_order_taus(logits_BK, requests), true_order_ndcgs(logits_BK, requests)
        sides[side] = {"tau": taus, "ndcg": ndcgs, "middle_losses": losses[1], "fit_s": monotonic_s() - begin_s}
    figures: dict[str, Any] = {"lists": len(world.train), "tested_lists": len(world.test), "seed": world.plan.seed}
    said = probabilities(fits["blend"], world, requests)
    figures["calibration"] = calibration([said])
    figures["sides"] = {side: {name: sides[side][name] for name in ("middle_losses", "fit_s")} for side in sides}
    gates = _gates(fits["blend"], world, config.seed) if has_moods else {}
    figures["gate"] = _intervals(gates)
    chosen = both_sides(world.test) if has_moods else both_sides(world.test) & _is_null_case(world.test)
    users = np.char.add(f"{world.plan.seed}:", world.test.users_B)
    gains = {side: {name: sides[side][name] for name in ("tau", "ndcg")} for side in sides}
    return Trial(figures, Compared(gains, users).take(chosen), gates, said)


def both_sides(served: ServedExamples) -> Bools:
    """Which requests have a session and a history: otherwise there is nothing to blend, and the gate is 0 or 1."""
    requests = served.examples.requests
    has_session_B = (requests["session_slots_L"] > 0).any(axis=1)
    return np.asarray(has_session_B & (requests["history_slots_T"] > 0).any(axis=1))


def _is_null_case(served: ServedExamples) -> Bools:
    requests = served.examples.requests
    is_long_B = (requests["history_slots_T"] > 0).sum(axis=1) >= LONG_HISTORY
    return np.asarray(is_long_B & (requests["task"] != MORE_LIKE_THIS))


def _gates(fit: ServedFit, world: KnownWorld, seed: int) -> Gates:
    """The learned gate and its ceilings, for all requests and for those with both sides."""
    parts = [world.train, world.middle, world.test]
    truths = [world.truth_of(part) for part in parts]
    true = [np.array([request.gate for request in requests]) for requests in truths]
    seen = [seen_by_gate(fit, part) for part in parts]
    bayes = {
        name: Bayes(world, truths[-1], knows_bias=knows_bias)
        for name, knows_bias in (("bayes", False), ("bayes_knows_bias", True))
    }
    rng = np.random.default_rng(seed)
    figures: Gates = {}
    for name, chosen in (
        ("all", [np.ones(len(part), bool) for part in parts]), ("both_sides", [both_sides(part) for part in parts])
    ):  # fmt: skip
        told_parts = [(seen[at][1][torch.from_numpy(chosen[at])], true[at][chosen[at]]) for at in (0, 1)]
        gates = {
            "learned": seen[-1][0][chosen[-1]],
            "told": told_gate(told_parts, seen[-1][1][torch.from_numpy(chosen[-1])], seed),
            **{one: known.expected_ranks(true[-1], chosen[-1]) for one, known in bayes.items()},
        }
        true_B, users_B = true[-1][chosen[-1]], world.test.users_B[chosen[-1]]
        figures[name] = {one: correlations(own, true_B, users_B, rng) for one, own in gates.items()}
    return figures


def _intervals(gates: Gates) -> dict[str, Any]:
    return {name: {one: with_interval(own) for one, own in by.items()} for name, by in gates.items()}


def _mean_gates(parts: Sequence[Gates]) -> Gates:
    """The mean over seeds, whose members are others: so are their resamples."""
    return {
        name: {one: np.mean([part[name][one] for part in parts], axis=0) for one in by} for name, by in parts[0].items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run each world and seed; 0 when what is asked of calibration, order and the null case holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world_arguments(parser, WORLDS, seeds=[1, 2, 3])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begin_s = monotonic_s()
    worlds = {}
    for name in args.worlds:
        trials = []
        for seed in args.seeds:
            plan, config = asked_world(args, seed, WORLDS[name])
            with tempfile.TemporaryDirectory() as folder:
                trials.append(run_trial(make_known_world(plan, Path(folder) / "world"), config))
            print(json.dumps(trials[-1].figures), file=sys.stderr, flush=True)
        worlds[name] = {
            "seeds": [trial.figures for trial in trials],
            "gate": _intervals(_mean_gates([trial.gates for trial in trials])),
            "calibration": calibration([trial.probabilities for trial in trials]),
            "order": compared([trial.compared for trial in trials], np.random.default_rng(0)),
        }
    arguments = {**vars(args), "json": None}
    document = {"synthetic": True, "arguments": arguments, "took_s": monotonic_s() - begin_s, "worlds": worlds}
    if args.json is not None:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(tables(worlds))
    return 0 if holds(worlds) else 1


if __name__ == "__main__":
    sys.exit(main())
