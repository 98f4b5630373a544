"""Networks: one variant with one seed learns from the data set and ranks the recorded requests.

Enters: a data set, recorded requests, a variant. Leaves: `Ranks`, kept as a file beside the weights, so that work that
was interrupted goes on where it stopped. Called by `study.py`.

legend: B requests
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from features.engagement import TASK_NAMES
from model.ablation.requests import Recorded
from model.ablation.variants import FULL, SHUFFLED, Variant
from model.batches import Catalogue, batch_inputs
from model.config import TrainConfig
from model.data_set import DataSet
from model.pretrained import pretrained_titles
from model.progress import Progress, advancing
from model.rank_graph import guarded
from model.ranking_metrics import Rank, rank_of
from model.train import fit_network
from model.unicorn import Unicorn
from model.weights_file import save_weights

# So many candidates at once stay in the processor's caches.
SCORED_AT_ONCE = 2048

Floats = NDArray[np.float64]
# Ranks by variant, (B, 2): what one training gives.
Ranks = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all networks of a study learn from and rank, how, and where they are kept; whether the whole network also
    ranks the requests with shuffled sessions.
    """

    data: DataSet
    recorded: Recorded
    config: TrainConfig
    folder: Path
    with_shuffled: bool

    def names(self, variant: Variant) -> set[str]:
        """What the training of a variant gives the ranks of."""
        return {variant.name} | ({SHUFFLED} if self.with_shuffled and variant.name == FULL else set())


def ranks_of_network(plan: Plan, variant: Variant, seed: int, progress: Progress) -> Ranks:
    """The ranks of one variant and seed, from the folder or from a new training."""
    path = plan.folder / f"{variant.slug}-{seed}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            if plan.names(variant) <= set(arrays):
                return dict(arrays)
    plan.folder.mkdir(parents=True, exist_ok=True)
    ranks = _train_and_rank(plan, variant, seed, progress)
    staging = path.with_suffix(".part.npz")
    np.savez(staging, **ranks)  # type: ignore[arg-type]
    staging.rename(path)
    return ranks


def _train_and_rank(plan: Plan, variant: Variant, seed: int, progress: Progress) -> Ranks:
    recorded = plan.recorded
    config = replace(plan.config, model=variant.sizes(plan.config.model), seed=seed)
    tasks = np.array([int(TASK_NAMES[task]) for task in recorded.names.tasks])
    wanted: list[int | None] = [*sorted(set(tasks.tolist()))] if variant.per_task else [None]
    ranks: Ranks = {name: np.zeros((len(recorded), 2)) for name in sorted(plan.names(variant))}
    for task in wanted:
        data = plan.data if task is None else _of_task(plan.data, task)
        model, catalogue, _ = fit_network(data, config, inf, progress, pretrained_titles(data, config))
        name = f"{variant.slug}-{seed}" if task is None else f"{variant.slug}-{seed}-{task}"
        save_weights(plan.folder / f"{name}.safetensors", model.state_dict(), asdict(config))
        rows = np.arange(len(recorded)) if task is None else np.flatnonzero(tasks == task)
        for variant_name, ranks_B2 in ranks.items():
            progress.step(f"rank {variant_name}, seed {seed}", len(rows))
            shuffled = variant_name == SHUFFLED
            ranks_B2[rows] = list(advancing(progress, _ranks(model, catalogue, recorded, rows, shuffled)))
    return ranks


def _of_task(data: DataSet, task: int) -> DataSet:
    """The data set with nothing but one task's examples."""
    train, middle = (part.take(np.flatnonzero(part.requests["task"] == task)) for part in (data.train, data.middle))
    return replace(data, train=train, middle=middle)


@torch.no_grad()
def _ranks(
    model: Unicorn, catalogue: Catalogue, recorded: Recorded, rows: NDArray[np.int64], shuffled: bool
) -> Iterator[Rank]:
    """Where the right title stands among all candidates, scored as it is served."""
    encoded = catalogue.encode(model)
    for row in rows.tolist():
        examples = recorded.examples(row, shuffled)
        score = partial(guarded, model) if recorded.names.tasks[row] == "search" else model
        logits = [
            score(*batch_inputs(examples.among(slice(begin, begin + SCORED_AT_ONCE)), *encoded)).logits[0].numpy()
            for begin in range(0, examples.slots_BK.shape[1], SCORED_AT_ONCE)
        ]
        yield rank_of(np.concatenate(logits), int(recorded.own_B[row]))
