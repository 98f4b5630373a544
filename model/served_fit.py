"""Fitting on what was served: the network learns from shown titles, corrected for their positions.

Enters: `ServedExamples` of the training and the middle part. Leaves: a fitted `Unicorn` and its losses; what the
correction learned is returned for the card and is no part of the network. Called by `train_served.py`.
"""

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from infra import clock
from model.batches import Catalogue, batch_inputs, drop_sides, with_id_dropout
from model.checkpoint import Losses
from model.config import TrainConfig
from model.fit import GRADIENT_LIMIT, check_finite, fit_clusters, mean_over, shuffled_batches
from model.position_bias import Correction, PositionBias, inverse_propensities
from model.progress import Progress
from model.served_examples import ServedExamples
from model.unicorn import Unicorn

# A position's logit is one number seen in every batch: it may move faster than the network.
POSITION_RATE = 0.03


class ServedFit:
    """One training run: the network, and the correction beside it."""

    def __init__(self, model: Unicorn, catalogue: Catalogue, config: TrainConfig, correction: Correction) -> None:
        self.model, self.catalogue, self.config, self.correction = model, catalogue, config, correction
        self.bias = PositionBias()

    def run(self, train: ServedExamples, middle: ServedExamples, deadline_s: float, progress: Progress) -> Losses:
        """Adam until the middle part's loss stops falling; the best weights stay. Both losses by epoch; raises
        `NowrankError` when no epoch ended with a finite one.
        """
        self.config = with_id_dropout(self.config, train.examples, middle.examples)
        self._begin_at_base_rate(train)
        optimiser = torch.optim.Adam(
            [
                {"params": self.model.parameters(), "lr": self.config.learning_rate},
                {"params": self.bias.parameters(), "lr": POSITION_RATE},
            ]
        )
        rng = np.random.default_rng(self.config.seed)
        losses: Losses = ([], [])
        best = copy.deepcopy(self.model.state_dict())
        for epoch in range(self.config.epochs):
            begin_s = clock.monotonic_s()
            fit_clusters(self.model, self.catalogue, train.examples)
            losses[0].append(self._epoch(train, optimiser, rng, progress, epoch))
            losses[1].append(self.mean_loss(middle))
            progress.note(f"loss {losses[0][-1]:.4f}, middle part {losses[1][-1]:.4f}")
            best_epoch = int(np.argmin(losses[1]))
            if best_epoch == epoch:
                best = copy.deepcopy(self.model.state_dict())
            now_s = clock.monotonic_s()
            if epoch - best_epoch >= self.config.patience or now_s + (now_s - begin_s) > deadline_s:
                break
        check_finite(losses)
        self.model.load_state_dict(best)
        self.model.eval()
        return losses

    def loss(self, served: ServedExamples, *, training: bool) -> Tensor:
        """Mean binary cross entropy over the shown titles; in training sides and ids are dropped."""
        examples = served.examples
        encoded = self.catalogue.encode(self.model, self.config.id_dropout if training else None)
        request, candidates = batch_inputs(examples, *encoded)
        if training:
            request, candidates = drop_sides(request, candidates, self.config.side_dropout)
        logits_BK = self.model(request, candidates).logits
        positions_BK, labels_BK = torch.from_numpy(served.positions_BK), torch.from_numpy(examples.labels_BK)
        is_shown_BK = examples.slots_BK > 0
        weights_BK = torch.from_numpy(is_shown_BK.astype(np.float32))
        if self.correction == "examination":
            losses_BK = self.bias.examined_loss(logits_BK, request.task, positions_BK, labels_BK)
            return (losses_BK * weights_BK).sum() / weights_BK.sum()
        if self.correction == "position":
            logits_BK = logits_BK + self.bias(request.task, positions_BK)
        elif self.correction == "ips":
            weights_BK = torch.from_numpy(inverse_propensities(served.propensities_BK, is_shown_BK))
        total = binary_cross_entropy_with_logits(logits_BK, labels_BK, weights_BK, reduction="sum")
        return total / weights_BK.sum()

    def mean_loss(self, served: ServedExamples) -> float:
        """The loss over all examples, nothing dropped, as `mean_over` gives it."""
        self.model.eval()
        return mean_over(len(served), lambda rows: self.loss(served.take(rows), training=False))

    def learned_positions(self, places: int) -> list[list[float]]:
        """What was learned of the first places, by task: the additive logit, or the logarithm of P(examined); zeros for
        the other corrections.
        """
        bias_TP = self.bias.logit_TP.detach()[:, 1 : places + 1]
        if self.correction == "examination":
            bias_TP = logsigmoid(bias_TP)
        bias_TP = bias_TP.clone()
        bias_TP[:, 0] = 0.0
        return [[round(float(value), 3) for value in of_task] for of_task in bias_TP.tolist()]

    def _epoch(
        self, train: ServedExamples, optimiser: torch.optim.Optimizer, rng: np.random.Generator,
        progress: Progress, epoch: int,
    ) -> float:  # fmt: skip
        batches = max(1, len(train) // self.config.batch)
        progress.step(f"epoch {epoch + 1}", batches)
        self.model.train()
        total = 0.0
        for rows in shuffled_batches(len(train), self.config.batch, rng):
            loss = self.loss(train.take(rows), training=True)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_LIMIT)
            optimiser.step()
            total += loss.item()
            progress.advance()
        return total / batches

    def _begin_at_base_rate(self, train: ServedExamples) -> None:
        """Of shown titles more are engaged than of all titles, where the network begins otherwise."""
        shown = train.examples.slots_BK > 0
        rate = float(np.clip(train.examples.labels_BK[shown].mean(), 1e-4, 1 - 1e-4))
        torch.nn.init.constant_(self.model.out.bias, float(np.log(rate / (1 - rate))))
