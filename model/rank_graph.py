"""The graph that serves: the network for one request, with a guard over searches.

Enters: one request and its candidates. Leaves: logits, gate, parts and cluster. Exported to `rank.onnx` by `export.py`;
training calibrates what `guarded` gives.

Somebody who searches says what they want, and the more they have typed the better. So in a search, by each title alone:

- what the member's own sides move is at most WIDEST * 2^(-(tokens - 1) / HALVED_BY) on either side of the score that
  anybody would get (the cluster, the history, the session and their columns are the member's own);
- a title that is the query, letter by letter, scores above EXACT and every other one below, each group in its own
  order. Because the score of a title never depends on the others, an answer can be scored again from any part of it.

legend: B rows (the member, and nobody beside for a search), K candidates, F columns
"""

from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from features.engagement import Task
from features.vector import COLUMN_NAMES, COLUMNS
from model.unicorn import Candidates, Member, Ranking, Request, Unicorn

OUTPUTS = ("logits", "gate", "long", "short", "cluster")
# A query of one letter has two tokens, and each further letter adds one.
WIDEST, HALVED_BY = 4.0, 4.0
# Where, in log-odds, exact titles are parted from others; scores far below it are changed by less than they can show.
EXACT = 4.0
_TITLE_EXACT = COLUMN_NAMES.index("title_exact")
_IS_CONTEXT = tuple(float(column.part == "context") for column in COLUMNS)


def search_bound(query_tokens_BQ: Tensor) -> Tensor:
    """(B, 1) how far a member's own sides may move a score of a search."""
    typed_B1 = (query_tokens_BQ > 0).float().sum(dim=1, keepdim=True)
    bound_B1: Tensor = WIDEST * torch.exp((typed_B1 - 1).clamp(min=0.0) * (-log(2) / HALVED_BY))
    return bound_B1


def guard_search(whole_BK: Tensor, anybody_BK: Tensor, request: Request, pairs_BKF: Tensor) -> Tensor:
    """The logits `whole_BK`; in searches not farther from `anybody_BK` than the bound, and exact titles above all."""
    bound_B1 = search_bound(request.query_tokens)
    moved_BK = anybody_BK + torch.minimum(torch.maximum(whole_BK - anybody_BK, -bound_B1), bound_B1)
    above_BK = EXACT + softplus((moved_BK - EXACT) / 4)
    below_BK = EXACT - softplus(EXACT - moved_BK)
    parted_BK = torch.where(pairs_BKF[..., _TITLE_EXACT] > 0.5, above_BK, below_BK)
    return torch.where((request.task == int(Task.SEARCH))[:, None], parted_BK, whole_BK)


def guarded(model: Unicorn, request: Request, candidates: Candidates) -> Ranking:
    """A whole batch's ranking as it is served; nobody is scored beside each member."""
    member = model.member(request)
    ranking = model.score(request, member, candidates)
    knows_B1 = torch.zeros(len(request.task), 1)
    nobody = _known(member, knows_B1)
    anybody_BK = model.score(request, nobody, _own_columns(candidates, knows_B1)).logits
    return ranking._replace(logits=guard_search(ranking.logits, anybody_BK, request, candidates.pairs))


class RankGraph(nn.Module):
    """One request and its N candidates, as `rank.onnx` takes them."""

    def __init__(self, model: Unicorn) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The request's tensors with a batch axis of 1, then the candidates' without one -> logits (N,), gate (1,),
        long (N,), short (N,), cluster (1,).

        Only a search is scored a second time, for nobody: the number of rows depends on the task.
        """
        request = Request(*inputs[: len(Request._fields)])
        candidates = Candidates(*(tensor[None] for tensor in inputs[len(Request._fields) :]))
        is_search_1 = request.task == int(Task.SEARCH)
        rows_B = torch.nonzero(torch.cat([torch.ones_like(is_search_1), is_search_1])).squeeze(1)
        knows_B1 = 1 - rows_B[:, None].float()

        def repeated(tensor: Tensor) -> Tensor:
            return tensor[rows_B * 0]

        member = self.model.member(request)
        ranking = self.model.score(
            Request(*map(repeated, request)),
            _known(Member(*map(repeated, member)), knows_B1),
            _own_columns(Candidates(*map(repeated, candidates)), knows_B1),
        )
        # Without a second row the first is also the last, and the guard changes nothing.
        logits_1N = guard_search(ranking.logits[:1], ranking.logits[-1:], request, candidates.pairs)
        return logits_1N[0], ranking.gate[:1], ranking.long[0], ranking.short[0], member.cluster


def _known(member: Member, knows_B1: Tensor) -> Member:
    """The members where `knows_B1` is 1, nobody where it is 0."""
    long_BD, short_BD, long_length_B1, short_length_B1 = (part * knows_B1 for part in member[:-1])
    cluster_B = member.cluster * knows_B1.squeeze(1).long()
    return Member(long_BD, short_BD, long_length_B1, short_length_B1, cluster_B)


def _own_columns(candidates: Candidates, knows_B1: Tensor) -> Candidates:
    """The candidates without the columns of the member where `knows_B1` is 0."""
    keep_BF = torch.maximum(knows_B1, torch.tensor(_IS_CONTEXT))
    return candidates._replace(pairs=candidates.pairs * keep_BF[:, None])
