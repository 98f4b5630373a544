"""Training: an encoder learns to say what comes next at every place of every history.

Enters: `LeaveOneOut`, a configuration, perhaps the checkpoint of an earlier run. Leaves: the best weights by
validation, and the learning curve. Called by `nowrank train history`.

Every epoch draws from a random state made of (seed, epoch), so a checkpoint need not hold one: a run that was stopped
and resumed ends with the same weights as one that was not.

legend: B windows, T places, N places that are not padding
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from infra import clock
from infra.errors import NowrankError
from model.history.config import EncoderConfig, TrainingConfig
from model.history.encoder import HistoryEncoder
from model.history.histories import Histories, LeaveOneOut
from model.history.hstu import HSTU
from model.history.ranking import ranks_of
from model.history.sasrec import SASRec
from model.history.softmax import softmax_loss
from model.history.windows import Batch, epoch_batches, gather
from model.progress import Progress
from model.ranking_metrics import summarise
from model.weights_file import Weights

LAST_RATE = 0.02
WARM_UP_EPOCHS = 1.0
GRADIENT_LIMIT = 5.0


class Point(msgspec.Struct, frozen=True):
    """One epoch of the learning curve; `cpu_s` is the processor time of the run so far, earlier parts included."""

    epoch: int
    loss: float
    ndcg10: float
    hr10: float
    cpu_s: float


@dataclass(slots=True)
class Run:
    """A training under way: all that a checkpoint holds."""

    config: TrainingConfig
    model: HistoryEncoder
    optimiser: torch.optim.Adam
    best: Weights
    curve: list[Point]

    @property
    def best_epoch(self) -> int:
        """The epoch, from 0, with the best NDCG@10 on validation."""
        return int(np.argmax([point.ndcg10 for point in self.curve]))

    @property
    def spent_s(self) -> float:
        """Processor time so far."""
        return self.curve[-1].cpu_s if self.curve else 0.0


def new_encoder(config: EncoderConfig, titles: int) -> HistoryEncoder:
    """An encoder with random weights, from torch's random state."""
    return SASRec(config, titles) if config.encoder == "sasrec" else HSTU(config, titles)


def new_run(config: TrainingConfig, titles: int) -> Run:
    """A run before its first epoch."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = new_encoder(config.model, titles)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    return Run(config, model, optimiser, copied(model), [])


def fit(run: Run, split: LeaveOneOut, budget_s: float, save: Callable[[Run], None], progress: Progress) -> None:
    """Epochs until validation has not improved for `patience` of them, or the next one would end later than `budget_s`
    of processor time; `save` is called after each. The model keeps the last weights, `run.best` the best.

    An epoch whose loss is not finite is the end; raises `NowrankError` when none before it ranked anything right.
    """
    config = run.config
    while len(run.curve) < config.epochs:
        epoch, begin_s = len(run.curve), clock.cpu_s()
        last_s = run.spent_s - run.curve[-2].cpu_s if epoch > 1 else run.spent_s
        if run.curve and (epoch - 1 - run.best_epoch >= config.patience or run.spent_s + last_s > budget_s):
            return
        loss = train_epoch(run, split.train, epoch, progress)
        if not math.isfinite(loss):
            if not any(point.ndcg10 for point in run.curve):
                raise NowrankError(
                    f"training diverged: the loss of epoch {epoch + 1} is {loss}, and nothing was learned before; "
                    "try a smaller --learning-rate"
                )
            progress.note(f"training diverged in epoch {epoch + 1}: the best weights of before stay")
            return
        run.model.eval()
        found = summarise(ranks_of(run.model, split.train, split.validation_U))
        spent_s = run.spent_s + clock.cpu_s() - begin_s
        run.curve.append(Point(epoch, loss, found["ndcg10"], found["hr10"], spent_s))
        if run.best_epoch == epoch:
            run.best = copied(run.model)
        save(run)
        progress.note(f"loss {loss:.4f}, validation NDCG@10 {found['ndcg10']:.4f}, {spent_s:.0f} s of processor time")


def train_epoch(run: Run, train: Histories, epoch: int, progress: Progress) -> float:
    """One epoch over the windows of all users; returns the mean loss by place."""
    config, model = run.config, run.model
    rng = np.random.default_rng([config.seed, epoch])
    torch.manual_seed(int(rng.integers(2**31)))
    batches = epoch_batches(train, config, rng)
    progress.step(f"epoch {epoch + 1}", len(batches))
    model.train()
    total, places = 0.0, 0
    for step, windows in enumerate(batches):
        for group in run.optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_at(epoch + step / len(batches), config.epochs)
        batch = gather(train, windows, config, rng)
        loss = batch_loss(model, batch)
        run.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_LIMIT)
        run.optimiser.step()
        count = int((batch.items_BT > 0).sum())
        total, places = total + loss.item() * count, places + count
        progress.advance()
    return total / max(1, places)


def batch_loss(model: HistoryEncoder, batch: Batch) -> Tensor:
    """Mean cross entropy over the whole catalogue, at every place that is not padding."""
    real_BT = batch.items_BT > 0
    states_BTD = model.states(batch.items_BT, batch.times_BT)
    return softmax_loss(states_BTD[real_BT], model.item_vectors(), batch.targets_BT[real_BT])


def rate_at(epoch: float, epochs: int) -> float:
    """The learning rate's factor: a linear rise over the first epoch, then a cosine down to LAST_RATE."""
    if epoch < WARM_UP_EPOCHS:
        return max(LAST_RATE, epoch / WARM_UP_EPOCHS)
    done = (epoch - WARM_UP_EPOCHS) / max(1.0, epochs - WARM_UP_EPOCHS)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def copied(model: HistoryEncoder) -> Weights:
    """The weights, apart from the model that goes on learning."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
