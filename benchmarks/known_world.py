"""A simulated world to train in: its lists cut by time, and the truth of those that are tested.

Enters: a plan and an empty folder. Leaves: `KnownWorld`, networks fitted in it, and how near an order is to the true
one. Called by the benchmarks of position bias and of the truth. All of it is synthetic.
"""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.batches import Catalogue
from model.checkpoint import Losses
from model.config import TrainConfig, UnicornConfig
from model.fit import standardise
from model.position_bias import Correction
from model.progress import Silent
from model.promotion import list_ndcg
from model.served_examples import ServedExamples, build_served, replay_of
from model.served_fit import ServedFit
from model.simulation.files import write_simulation
from model.simulation.law import Floats, law_with
from model.simulation.served import read_simulated
from model.simulation.simulator import Plan
from model.simulation.truth import RequestTruth
from model.simulation.truth_reader import TruthFolder
from model.train_served import split_served
from model.unicorn import Unicorn

# A small network, and steps enough: a world has some hundred titles.
SIZES = UnicornConfig(text=16, item_id=16, genre=8, deep=64, deep_blocks=1, cross_rank=16, cross_layers=1)


@dataclass(frozen=True, slots=True)
class KnownWorld:
    """80 % of the lists by time to train on, 10 % to stop and calibrate by, 10 % to test on."""

    plan: Plan
    truth: TruthFolder
    catalogue: Catalogue
    vocabulary: int
    train: ServedExamples
    middle: ServedExamples
    test: ServedExamples

    def truth_of(self, served: ServedExamples) -> list[RequestTruth]:
        """The truth of some lists, in their order."""
        found = {request.ranking_id: request for request in self.truth.requests()}
        return [found[ranking_id] for ranking_id in served.ranking_ids]


def add_world_arguments(parser: argparse.ArgumentParser, worlds: Collection[str], seeds: Sequence[int]) -> None:
    """How large the worlds are, which ones, how long is learned in them, and where the figures go."""
    parser.add_argument("--members", type=int, default=600)
    parser.add_argument("--titles", type=int, default=400)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--worlds", nargs="+", choices=worlds, default=list(worlds))
    parser.add_argument("--json", type=Path, metavar="FILE")


def asked_world(args: argparse.Namespace, seed: int, changes: tuple[str, ...]) -> tuple[Plan, TrainConfig]:
    """The plan of a world whose law has these changes, and how to train in it."""
    plan = Plan(args.members, args.titles, args.days, seed, law=law_with(changes))
    return plan, TrainConfig(model=SIZES, epochs=args.epochs, patience=2, learning_rate=2e-3, threads=1, seed=seed)


def make_known_world(plan: Plan, folder: Path) -> KnownWorld:
    """Simulate into the folder and compute every list's features from the events before it."""
    write_simulation(plan, folder)
    served = read_simulated(folder)
    replay = replay_of(served)
    data = build_served(served, replay, Silent(), replay_others=True)
    split, train, middle = split_served(data)
    test = data.take(np.flatnonzero(data.times_ms_B >= split.middle_end_ms))
    return KnownWorld(plan, TruthFolder(folder), Catalogue.of(replay.table), len(replay.table), train, middle, test)


def fit_in(world: KnownWorld, config: TrainConfig, correction: Correction) -> tuple[ServedFit, Losses]:
    """A network that has learned from the world's first lists; the same seed begins with the same weights."""
    torch.manual_seed(config.seed)
    model = Unicorn(config.model, vocabulary=world.vocabulary)
    standardise(model, world.train.examples)
    fit = ServedFit(model, world.catalogue, config, correction)
    return fit, fit.run(world.train, world.middle, float("inf"), Silent())


def numbered(users: NDArray[np.str_]) -> NDArray[np.int64]:
    """Members as numbers, as `paired_interval` takes them."""
    return np.asarray(np.unique(users, return_inverse=True)[1], np.int64)


def true_order_taus(scores_BK: Floats, requests: list[RequestTruth]) -> Floats:
    """Kendall's tau of each list: the share of pairs in the true order minus the share of those that are not."""
    taus = []
    for row, request in enumerate(requests):
        true_K = np.array(request.utilities)
        scores_K = scores_BK[row, : len(true_K)]
        first, second = np.triu_indices(len(true_K), 1)
        agree = np.sign(scores_K[first] - scores_K[second]) * np.sign(true_K[first] - true_K[second])
        taus.append(agree.mean())
    return np.array(taus)


def true_order_ndcgs(scores_BK: Floats, requests: list[RequestTruth]) -> Floats:
    """NDCG@10 of each list, where a title is worth its true relevance."""
    gains = [np.array(request.relevances) for request in requests]
    return np.array([list_ndcg(scores_BK[row, : len(gain_K)], gain_K) for row, gain_K in enumerate(gains)])
