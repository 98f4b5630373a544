"""Clusters: members whose histories are alike, as a number that can be cached.

Enters: item vectors of the history with weights and a mask. Leaves: the number of the nearest of C centroids, from 1; 0
without history. Called by `unicorn.py`; the centroids are buffers of the network, so the graph that serves holds them.

A member is the mean of the titles' vectors by weight, minus the mean of all members, at length 1; the centroids are
those of spherical k-means (Dhillon, Modha: Concept Decompositions, 2001) over the members that training saw.

legend: B requests, T titles of the history, D item vector, C clusters
"""

import torch
from torch import Tensor, nn

STEPS = 10
TINY = 1e-6


class Clusters(nn.Module):
    """The centroids; all members with a history are in cluster 1 before the first `fit`."""

    centre_D: Tensor
    centroids_CD: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("centre_D", torch.zeros(width))
        self.register_buffer("centroids_CD", torch.zeros(count, width))

    def forward(self, vectors_BTD: Tensor, weights_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """(B,) numbers of clusters."""
        weights_BT = weights_BT.clamp(min=0.0) * mask_BT
        members_BD = _unit(member_means(vectors_BTD, weights_BT) - self.centre_D)
        nearest_B = 1 + (members_BD @ self.centroids_CD.T).argmax(dim=1)
        return nearest_B * (weights_BT.sum(dim=1) > 0).long()

    @torch.no_grad()
    def fit(self, means_BD: Tensor) -> None:
        """Move the centroids to `means_BD`, from where they are: a cluster stays about the same from fit to fit while
        the items' vectors learn. Nothing moves without members.
        """
        if not len(means_BD):
            return
        self.centre_D.copy_(means_BD.mean(dim=0))
        members_BD = _unit(means_BD - self.centre_D)
        if not self.centroids_CD.any():
            self.centroids_CD.copy_(members_BD[torch.randint(len(members_BD), (len(self.centroids_CD),))])
        for _ in range(STEPS):
            nearest_B = (members_BD @ self.centroids_CD.T).argmax(dim=1)
            sums_CD = torch.zeros_like(self.centroids_CD).index_add_(0, nearest_B, members_BD)
            is_empty_C = torch.bincount(nearest_B, minlength=len(sums_CD)) == 0
            # A cluster that lost all its members takes one at random.
            sums_CD[is_empty_C] = members_BD[torch.randint(len(members_BD), (int(is_empty_C.sum()),))]
            self.centroids_CD.copy_(_unit(sums_CD))


def member_means(vectors_BTD: Tensor, weights_BT: Tensor) -> Tensor:
    """(B, D) means of the titles by weight; zeros where all weights are 0."""
    total_B1 = weights_BT.sum(dim=1, keepdim=True)
    return (weights_BT[..., None] * vectors_BTD).sum(dim=1) / total_B1.clamp(min=TINY)


def _unit(vectors_BD: Tensor) -> Tensor:
    unit_BD: Tensor = vectors_BD / vectors_BD.norm(dim=1, keepdim=True).clamp(min=TINY)
    return unit_BD
