"""Windows: which stretches of which histories one epoch of training looks at.

Enters: `Histories`. Leaves: padded batches of inputs and their targets. Called by the training.

Windows off: each user's newest `length` engagements, the same in every epoch; what is older is never seen. Windows on
(the sliding windows of Netflix's foundation model): as many windows as cover the history, and a coin for each user and
epoch says whether they are fixed, end to end from the newest engagement back, or begin at random, so that an old
engagement is seen too, and at many distances from the window's begin.

Stochastic length (HSTU, with its alpha): of a window of n places, more than s = length^(alpha / 2), only s, drawn at
random, are kept with the chance 1 - s^2 / n^2; each place's target stays the engagement that really came next.

legend: W windows, B windows of one batch, T places, U users
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.history.config import TrainingConfig
from model.history.histories import Histories, Ints

Bools = NDArray[np.bool_]

# Windows of like length share a batch, so that little is padding; this many batches are drawn at random, then sorted.
SORTED_BATCHES = 8


class Windows(NamedTuple):
    """Stretches of the one line of engagements: window w has its inputs at begins_W[w] + 0 .. counts_W[w] - 1, and the
    target of each is the next one.
    """

    begins_W: Ints
    counts_W: Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded: item 0 stands after the end of a window. `times_BT` are seconds, None where only order is known."""

    items_BT: Tensor
    targets_BT: Tensor
    times_BT: Tensor | None


def newest_windows(histories: Histories, length: int) -> Windows:
    """Each user's newest `length` places that have a next one; users with a single engagement have none."""
    counts_U = np.minimum(histories.lengths_U - 1, length)
    begins_U = histories.begins_U1[1:] - 1 - counts_U
    return Windows(begins_U[counts_U > 0], counts_U[counts_U > 0])


def sliding_windows(histories: Histories, length: int, rng: np.random.Generator) -> Windows:
    """Fixed and random windows mixed: enough of them for each user to cover the history once."""
    begins, counts = [], []
    fixed_U = rng.random(len(histories.users)) < 0.5
    for first, places, fixed in zip(histories.begins_U1, histories.lengths_U - 1, fixed_U, strict=False):
        if places <= 0:
            continue
        ends = np.arange(places, 0, -length) if fixed else _random_ends(int(places), length, rng)
        starts = np.maximum(0, ends - length)
        begins.append(first + starts)
        counts.append(ends - starts)
    if not begins:
        return Windows(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Windows(np.concatenate(begins), np.concatenate(counts))


def epoch_batches(histories: Histories, config: TrainingConfig, rng: np.random.Generator) -> list[Windows]:
    """The windows of one epoch in batches of like length, in random order."""
    length, size = config.model.length, config.batch
    windows = sliding_windows(histories, length, rng) if config.windows else newest_windows(histories, length)
    order_W = rng.permutation(len(windows.begins_W))
    chunks = []
    for begin in range(0, len(order_W), size * SORTED_BATCHES):
        some = order_W[begin : begin + size * SORTED_BATCHES]
        some = some[np.argsort(windows.counts_W[some], kind="stable")]
        chunks += [some[at : at + size] for at in range(0, len(some), size)]
    return [Windows(windows.begins_W[chunks[i]], windows.counts_W[chunks[i]]) for i in rng.permutation(len(chunks))]


def gather(histories: Histories, windows: Windows, config: TrainingConfig, rng: np.random.Generator) -> Batch:
    """The batch of some windows, padded to the longest of them."""
    places_BT, real_BT = _padded_places(windows)
    if config.stochastic_length is not None:
        places_BT, real_BT = _shortened(windows, config.model.length, config.stochastic_length, rng)
    return Batch(
        items_BT=torch.from_numpy(histories.items_N[places_BT] * real_BT),
        targets_BT=torch.from_numpy(histories.items_N[places_BT + real_BT] * real_BT),
        times_BT=None if histories.times_N is None else torch.from_numpy(histories.times_N[places_BT]),
    )


def newest_batches(histories: Histories, length: int, size: int) -> Iterator[tuple[Ints, Batch]]:
    """(user indices, batch) over all users, each with the newest `length` engagements as inputs; for asking, so there
    are no targets. A user without engagements gets one padding place.
    """
    counts_U = np.minimum(histories.lengths_U, length)
    begins_U = histories.begins_U1[1:] - counts_U
    order_U = np.argsort(counts_U, kind="stable")
    items_N = np.append(histories.items_N, 0)  # there is a place to point at even when the last user has nothing
    times_N = None if histories.times_N is None else np.append(histories.times_N, 0)
    for at in range(0, len(order_U), size):
        users_B = order_U[at : at + size]
        places_BT, real_BT = _padded_places(Windows(begins_U[users_B], counts_U[users_B]))
        items_BT = torch.from_numpy(items_N[places_BT] * real_BT)
        times_BT = None if times_N is None else torch.from_numpy(times_N[places_BT])
        yield users_B, Batch(items_BT, torch.zeros_like(items_BT), times_BT)


def _random_ends(places: int, length: int, rng: np.random.Generator) -> Ints:
    shortest = min(places, length)
    return rng.integers(shortest, places + 1, -(-places // length))


def _padded_places(windows: Windows) -> tuple[Ints, Bools]:
    steps_T = np.arange(max(1, int(windows.counts_W.max(initial=0))))
    real_BT = steps_T[None, :] < windows.counts_W[:, None]
    return windows.begins_W[:, None] + steps_T[None, :] * real_BT, real_BT


def _shortened(windows: Windows, length: int, alpha: float, rng: np.random.Generator) -> tuple[Ints, Bools]:
    kept = max(1, round(length ** (alpha / 2)))
    drawn = []
    for begin, count in zip(windows.begins_W, windows.counts_W, strict=True):
        cut = count > kept and rng.random() < 1 - (kept / count) ** 2
        steps = np.sort(rng.choice(count, kept, replace=False)) if cut else np.arange(count)
        drawn.append(begin + steps)
    real_BT = np.arange(max(map(len, drawn)))[None, :] < np.array([len(one) for one in drawn])[:, None]
    places_BT = np.repeat(windows.begins_W[:, None], real_BT.shape[1], axis=1)
    places_BT[real_BT] = np.concatenate(drawn)
    return places_BT, real_BT
