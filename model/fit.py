"""Fitting: the network learns from examples.

Enters: `Examples` of the training and the middle part. Leaves: a fitted `Unicorn`, its losses, its calibration. Called
by `train.py`.
"""

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from features.engagement import Task
from infra import clock
from infra.errors import NowrankError
from model.batches import Catalogue, batch_inputs, drop_sides, with_id_dropout
from model.calibration import fit_platt
from model.checkpoint import Checkpoint, Losses, Training
from model.clusters import member_means
from model.config import TrainConfig
from model.examples import Examples
from model.progress import Progress
from model.rank_graph import guarded
from model.ranking_metrics import ndcg, ranks_of
from model.unicorn import Unicorn
from model.weight_average import WeightAverage

LEAST_SCALE = 1e-4
LAST_RATE = 0.05
GRADIENT_LIMIT = 5.0
EVALUATED_AT_ONCE = 500
CLUSTERED = 4_000
# What the softmax weighs beside the binary cross entropy, and the logit of a place without a title.
LISTWISE = 1.0
PADDED = -1e9


def standardise(model: Unicorn, train: Examples) -> None:
    """Set the columns' mean and scale from the training examples; a column that never varied, or that is switched off,
    gets scale 0.
    """
    columns_XF = torch.from_numpy(train.pairs_BKF[train.slots_BK > 0])
    mean_F, deviation_F = columns_XF.mean(dim=0), columns_XF.std(dim=0)
    model.column_mean.copy_(mean_F)
    scale_F = torch.where(deviation_F > LEAST_SCALE, 1 / deviation_F.clamp(min=LEAST_SCALE), 0.0)
    model.column_scale.copy_(scale_F * model.seen_F)


def fit(
    model: Unicorn,
    catalogue: Catalogue,
    parts: tuple[Examples, Examples],
    config: TrainConfig,
    deadline_s: float,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Losses:
    """Adam on `batch_loss` until the middle part's loss stops falling; the best weights stay, each the mean of the
    newest steps.

    `parts` are the training and the middle part. No epoch but the first begins that would not end before `deadline_s`
    of the monotonic clock. With a `checkpoint` it goes on where that was left. Returns both losses by epoch; raises
    `NowrankError` when no epoch ended with a finite loss.
    """
    train, middle = parts
    config = with_id_dropout(config, train, middle)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    training = Training(model, WeightAverage(model, config.averaged), optimiser)
    if checkpoint is not None:
        checkpoint.load(training)
    losses = training.losses
    while not _has_ended(losses[1], config):
        begin_s = clock.monotonic_s()
        losses[0].append(_train_epoch(training, catalogue, train, config, progress))
        losses[1].append(mean_loss(training.average.mean, catalogue, middle))
        progress.note(f"loss {losses[0][-1]:.4f}, middle part {losses[1][-1]:.4f}")
        if _best_epoch(losses[1]) == len(losses[1]) - 1:
            training.best = copy.deepcopy(training.average.mean.state_dict())
        if checkpoint is not None:
            checkpoint.save(training)
        now_s = clock.monotonic_s()
        if now_s + (now_s - begin_s) > deadline_s:
            break
    check_finite(losses)
    model.load_state_dict(training.best)
    model.eval()
    return losses


def _best_epoch(middle_losses: list[float]) -> int:
    return int(np.argmin(middle_losses))


def _has_ended(middle_losses: list[float], config: TrainConfig) -> bool:
    """Whether there were epochs enough, or so many in vain that no more are tried."""
    done = len(middle_losses)
    return done >= config.epochs or (done > 0 and done - 1 - _best_epoch(middle_losses) >= config.patience)


def _train_epoch(
    training: Training, catalogue: Catalogue, train: Examples, config: TrainConfig, progress: Progress
) -> float:
    """One look at all examples in random order; the mean loss."""
    model, optimiser, epoch = training.model, training.optimiser, len(training.losses[0])
    batches = max(1, len(train) // config.batch)
    progress.step(f"epoch {epoch + 1}", batches)
    rng = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(rng.integers(2**31)))
    fit_clusters(model, catalogue, train)
    model.train()
    total = 0.0
    for step, rows in enumerate(shuffled_batches(len(train), config.batch, rng), epoch * batches):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * max(LAST_RATE, 1 - step / (batches * config.epochs))
        loss = batch_loss(model, catalogue, train.take(rows), config)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_LIMIT)
        optimiser.step()
        training.average.update(model)
        total += loss.item()
        progress.advance()
    return total / batches


def check_finite(losses: Losses) -> None:
    """Raise `NowrankError` when the middle part's loss was finite after no epoch."""
    if not min(losses[1]) < math.inf:
        raise NowrankError(
            f"training diverged: the middle part's loss was finite after none of {len(losses[1])} epochs, so no "
            "network can be kept; look for extreme or missing numbers in the log, or try another --seed"
        )


@torch.no_grad()
def fit_clusters(model: Unicorn, catalogue: Catalogue, examples: Examples) -> None:
    """Cluster the members by the newest CLUSTERED examples' histories, with the vectors as they are."""
    model.eval()
    vectors_VD, _ = catalogue.encode(model)
    rows = slice(-CLUSTERED, None)
    slots_BT = torch.from_numpy(examples.requests["history_slots_T"][rows])
    weights_BT = torch.from_numpy(examples.requests["history_weights_T"][rows]).clamp(min=0.0)
    has_history_B = weights_BT.sum(dim=1) > 0
    model.clusters.fit(member_means(vectors_VD[slots_BT[has_history_B]], weights_BT[has_history_B]))


def shuffled_batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows in random order, `size` at a time; the rest that does not fill a batch is left out unless it is all."""
    order = rng.permutation(count)
    for begin in range(0, max(1, count - size + 1), size):
        yield order[begin : begin + size]


def batch_loss(model: Unicorn, catalogue: Catalogue, examples: Examples, config: TrainConfig | None = None) -> Tensor:
    """Mean binary cross entropy over the candidates, and LISTWISE times the cross entropy of the softmax over each
    positive label's list; with a `config`, sides and ids are dropped as in training.

    A title drawn at rate r as a negative has odds of r to 1 too little in the sample; log(r) off its logit puts that
    right, so that the logits themselves are log-odds over the whole catalogue, and the softmax one over the catalogue.
    The softmax orders a request's titles; without the binary part nothing would say at which level they stand from one
    request to the next, and Platt's scaling could not put that right.
    """
    request, candidates = batch_inputs(examples, *catalogue.encode(model, config.id_dropout if config else None))
    if config is not None:
        request, candidates = drop_sides(request, candidates, config.side_dropout)
    logits_BK = model(request, candidates).logits - torch.from_numpy(np.log(examples.rates_BK))
    real_BK = torch.from_numpy(examples.slots_BK > 0).float()
    labels_BK = torch.from_numpy(examples.labels_BK)
    single = binary_cross_entropy_with_logits(logits_BK, labels_BK, real_BK, reduction="sum") / real_BK.sum()
    listed_BK = log_softmax(logits_BK.masked_fill(real_BK == 0, PADDED), dim=1)
    return single - LISTWISE * (listed_BK * labels_BK).sum() / len(examples)


def evaluated_rows(count: int) -> list[NDArray[np.int64]]:
    """All rows in their order, about EVALUATED_AT_ONCE at a time."""
    return np.array_split(np.arange(count), max(1, count // EVALUATED_AT_ONCE))


@torch.no_grad()
def mean_over(count: int, loss_of: Callable[[NDArray[np.int64]], Tensor]) -> float:
    """The mean of a loss by rows over all `count` examples; 0 when there are none, infinite when it is no number."""
    losses = [len(rows) * loss_of(rows).item() for rows in evaluated_rows(count) if len(rows)]
    mean = sum(losses) / max(1, count)
    return mean if math.isfinite(mean) else math.inf  # not NaN: no epoch is better than that one, and none worse


def mean_loss(model: Unicorn, catalogue: Catalogue, examples: Examples) -> float:
    """The loss over all examples, nothing dropped, as `mean_over` gives it."""
    model.eval()
    return mean_over(len(examples), lambda rows: batch_loss(model, catalogue, examples.take(rows)))


@torch.no_grad()
def logits_of(model: Unicorn, catalogue: Catalogue, examples: Examples) -> NDArray[np.float64]:
    """(B, K) logits as they are served: nothing dropped, searches guarded."""
    model.eval()
    encoded = catalogue.encode(model)
    logits = [
        guarded(model, *batch_inputs(examples.take(rows), *encoded)).logits.numpy()
        for rows in evaluated_rows(len(examples))
    ]
    return np.concatenate(logits).astype(np.float64)


def sampled_ndcg(logits_BK: NDArray[np.float64], examples: Examples) -> float:
    """NDCG@10 of the positive labels among their sampled candidates: to compare runs by, not for claims."""
    rows = examples.labels_BK[:, 0] > 0
    scores_BK = np.where(examples.slots_BK > 0, logits_BK, -np.inf)[rows]
    return float(ndcg(ranks_of(scores_BK, 0)).mean()) if rows.any() else 0.0


def calibrate(logits_BK: NDArray[np.float64], examples: Examples) -> tuple[tuple[float, float], ...]:
    """Platt's (a, b) by task, on examples with uniform negatives, each weighing as many titles as it stands for."""
    real_BK = examples.slots_BK > 0
    weights_BK = (1.0 / examples.rates_BK).astype(np.float64)
    weights_BK[:, 0] = 1.0
    fitted = []
    for task in range(len(Task)):
        chosen = (examples.requests["task"] == task)[:, None] & real_BK
        labels = examples.labels_BK[chosen].astype(np.float64)
        fitted.append(fit_platt(logits_BK[chosen], labels, weights_BK[chosen]))
    return tuple(fitted)
