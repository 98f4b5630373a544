"""The weight average: a running mean of the network's weights over the steps of a training.

Enters: a network after each step. Leaves: a network with the mean of its weights, which ranks better than the last ones
do, at no cost but a copy. Called by `fit.py`.

An exponential mean, as the average of Polyak and Juditsky (SIAM Journal on Control and Optimization, 1992) is used for
networks. In short trainings it reaches back over about one part in PARTS of the steps so far, so that the untrained
weights weigh nothing; a third and a tenth were alike (docs/lab-notebook.md).
"""

import copy

import torch

from model.unicorn import Unicorn

PARTS = 3


class WeightAverage:
    """`kept` of the mean stays at each step, less at the beginning; 0 is the last weights. `steps` were taken in."""

    def __init__(self, model: Unicorn, kept: float) -> None:
        self.mean = copy.deepcopy(model)
        self._kept = kept
        self.steps = 0

    @torch.no_grad()
    def update(self, model: Unicorn) -> None:
        """Take in the weights after a step; buffers, such as the clusters, are the newest."""
        kept = min(self._kept, self.steps / (PARTS + self.steps))
        self.steps += 1
        for averaged, weight in zip(self.mean.parameters(), model.parameters(), strict=True):
            averaged.lerp_(weight, 1 - kept)
        for held, value in zip(self.mean.buffers(), model.buffers(), strict=True):
            held.copy_(value)
