"""UniCoRn: one contextual model for search, more-like-this and pre-query recommendation.

Enters: requests (context, session, history), candidates (item vectors and biases) and their columns. Leaves: a logit
per candidate, the gate, the additive long-term and short-term parts and the member's cluster. Called by training and,
inside `rank_graph.py`, by `artifact.py`.

After Bhattacharya, Ostuni, Lamkhede: Joint Modeling of Search and Recommendations Via an Unified Contextual Recommender
(RecSys '24): one network over task, country, query and source entity, missing context imputed, residual connections,
feature crossing, binary cross entropy.

legend: B requests, K candidates, V titles, D = 64 item vector, E text embedding,
        Q/L/T query tokens / session events / history titles,
        F columns, R request part and P candidate part of the joined input X, H deep tower, C context
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from features.engagement import Task
from features.model_inputs import DAYPARTS, SESSION_EVENTS
from features.tokens import COUNTRY_BUCKETS, GENRE_BUCKETS, TEXT_BUCKETS
from features.vector import COLUMN_NAMES
from model.clusters import Clusters
from model.config import Personalisation, UnicornConfig
from model.crossing import CrossLayer, ResidualBlock
from model.encoders import LongTermEncoder, SessionEncoder
from model.gate import Gate
from model.switches import seen_columns

FLAGS = 2
COLUMN_LIMIT = 10.0
DOTS = 4
# Where training begins: about one title in a thousand is the one.
RARE_LOGIT = -7.0
# How far from 0 the embeddings of ids begin.
ID_SCALE = 0.3


class Request(NamedTuple):
    """A batch of requests; items are vectors already. The fields are the names of `rank.onnx`'s inputs."""

    task: Tensor
    country: Tensor
    daypart: Tensor
    query_tokens: Tensor
    query_flags: Tensor
    source_vector: Tensor
    source_known: Tensor
    session_vectors: Tensor
    session_kinds: Tensor
    session_gaps: Tensor
    session_mask: Tensor
    history_vectors: Tensor
    history_weights: Tensor
    history_mask: Tensor


class Candidates(NamedTuple):
    """A batch of candidates for each request: vectors (B, K, D), biases (B, K), columns (B, K, F)."""

    candidate_vectors: Tensor
    candidate_bias: Tensor
    pairs: Tensor


class Member(NamedTuple):
    """What the network knows of the members of a batch: both encoded sides (B, D) with how much they were made of
    (B, 1), and the cluster (B,). Zeros are nobody.
    """

    long: Tensor
    short: Tensor
    long_length: Tensor
    short_length: Tensor
    cluster: Tensor


class Ranking(NamedTuple):
    """Logits, long-term and short-term parts (B, K), the gate and the cluster (B,)."""

    logits: Tensor
    gate: Tensor
    long: Tensor
    short: Tensor
    cluster: Tensor


class TextEncoder(nn.Module):
    """The mean embedding of hashed tokens; token 0 is padding."""

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, width, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.mul_(0.3)

    def forward(self, tokens_BQ: Tensor) -> Tensor:
        """(B, E); zeros for an empty text."""
        count_B1 = (tokens_BQ > 0).float().sum(dim=1, keepdim=True)
        sum_BE: Tensor = self.embedding(tokens_BQ).sum(dim=1)
        return sum_BE / count_B1.clamp(min=1.0)


class TargetEncoder(nn.Module):
    """A title as a vector and a bias: its id (0: unknown to training), the tokens of its title and its genres."""

    def __init__(self, config: UnicornConfig, vocabulary: int, text: TextEncoder) -> None:
        super().__init__()
        self.text = text
        self.item_id = nn.Embedding(vocabulary, config.item_id, padding_idx=0)
        self.genre = TextEncoder(GENRE_BUCKETS, config.genre)
        self.vector = nn.Linear(config.item_id + config.text + config.genre, config.vector)
        self.bias = nn.Linear(config.item_id + config.text + config.genre, 1)
        with torch.no_grad():
            self.item_id.weight.mul_(ID_SCALE)

    def forward(self, index_V: Tensor, title_tokens_VQ: Tensor, genre_tokens_VG: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (V, D) and biases (V,)."""
        x_VI = torch.cat([self.item_id(index_V), self.text(title_tokens_VQ), self.genre(genre_tokens_VG)], dim=1)
        return self.vector(x_VI), self.bias(x_VI).squeeze(1)


class Unicorn(nn.Module):
    """The whole network; `column_mean` and `column_scale` standardise the columns (a column that never varied, or that
    is switched off, has scale 0: no weight).

    What is switched off stays in place and is masked: one code path.
    """

    column_mean: Tensor
    column_scale: Tensor
    seen_F: Tensor

    def __init__(self, config: UnicornConfig, vocabulary: int) -> None:
        super().__init__()
        columns = len(COLUMN_NAMES)
        self.config = config
        self.register_buffer("column_mean", torch.zeros(columns))
        self.register_buffer("seen_F", torch.from_numpy(seen_columns(config)).float())
        self.register_buffer("column_scale", self.seen_F.clone())
        self.text = TextEncoder(TEXT_BUCKETS, config.text)
        self.items = TargetEncoder(config, vocabulary, self.text)
        self.task = nn.Embedding(len(Task), config.task)
        self.country = nn.Embedding(COUNTRY_BUCKETS, config.country)
        self.daypart = nn.Embedding(DAYPARTS, config.daypart)
        self.query = nn.Linear(config.text, config.vector)
        self.no_source_D = nn.Parameter(torch.zeros(config.vector))
        self.history = LongTermEncoder(config.vector, config.heads)
        self.session = SessionEncoder(config.vector, config.heads, SESSION_EVENTS, config.session_form)
        self.clusters = Clusters(config.clusters, config.vector)
        self.cluster = nn.Embedding(1 + config.clusters, config.cluster, padding_idx=0)
        self.gate = Gate(config.vector, config.task)
        request = config.task + config.country + config.daypart + config.cluster + FLAGS + 3 + 3 * config.vector
        candidate = 2 * config.vector + DOTS + columns
        self.cross = nn.ModuleList(
            CrossLayer(request + candidate, config.cross_rank)
            for _ in range(config.cross_layers if config.crossing else 0)
        )
        self.deep_request = nn.Linear(request, config.deep)
        self.deep_candidate = nn.Linear(candidate, config.deep, bias=False)
        self.deep = nn.Sequential(*(ResidualBlock(config.deep, config.dropout) for _ in range(config.deep_blocks)))
        self.out = nn.Linear(request + candidate + config.deep, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, RARE_LOGIT)

    def forward(self, request: Request, candidates: Candidates) -> Ranking:
        """Score every candidate of every request."""
        return self.score(request, self.member(request), candidates)

    def member(self, request: Request) -> Member:
        """What the configuration lets the network know of each request's member."""
        config = self.config
        sees_sides = config.personalisation == Personalisation.FULL
        sees_cluster = config.long and config.personalisation != Personalisation.NONE
        long_mask_BT = request.history_mask * float(sees_sides and config.long)
        short_mask_BL = request.session_mask * float(sees_sides and config.short)
        return Member(
            self.history(request.history_vectors, request.history_weights, long_mask_BT),
            self.session(request.session_vectors, request.session_kinds, request.session_gaps, short_mask_BL),
            long_mask_BT.sum(dim=1, keepdim=True),
            short_mask_BL.sum(dim=1, keepdim=True),
            self.clusters(request.history_vectors, request.history_weights, request.history_mask * float(sees_cluster)),
        )

    def score(self, request: Request, member: Member, candidates: Candidates) -> Ranking:
        """Score every candidate for these members; of the requests only the context is read."""
        e_BKD = candidates.candidate_vectors
        pairs_BKF = ((candidates.pairs - self.column_mean) * self.column_scale).clamp(-COLUMN_LIMIT, COLUMN_LIMIT)
        context_BC, source_BD, q_BD, task_BC = self._context(request)
        g_B1, u_BD, long_BD, short_BD = self.gate(
            member.long, member.short, task_BC, member.long_length, member.short_length
        )
        lengths_B2 = torch.log1p(torch.cat([member.long_length, member.short_length], dim=1))
        request_BR = torch.cat([context_BC, self.cluster(member.cluster), lengths_B2, u_BD, q_BD, source_BD], dim=1)

        def dot(vector_BD: Tensor) -> Tensor:
            product_BK: Tensor = (e_BKD * vector_BD[:, None]).sum(dim=-1) / e_BKD.shape[-1] ** 0.5
            return product_BK

        long_BK, short_BK = dot(long_BD), dot(short_BD)
        dots_BK4 = torch.stack([long_BK, short_BK, dot(request.source_vector), dot(q_BD)], dim=-1)
        candidate_BKP = torch.cat([e_BKD, u_BD[:, None] * e_BKD, dots_BK4, pairs_BKF], dim=-1)
        x0_BKX = torch.cat([request_BR[:, None].expand(-1, e_BKD.shape[1], -1), candidate_BKP], dim=-1)
        x_BKX = x0_BKX
        for layer in self.cross:
            x_BKX = layer(x0_BKX, x_BKX)
        h_BKH = self.deep(self.deep_request(request_BR)[:, None] + self.deep_candidate(candidate_BKP))
        joint_BK = self.out(torch.cat([x_BKX, h_BKH], dim=-1)).squeeze(-1)
        logits_BK = joint_BK + long_BK + short_BK + candidates.candidate_bias
        return Ranking(logits_BK, g_B1.squeeze(1), long_BK, short_BK, member.cluster)

    def _context(self, request: Request) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What depends on neither the candidates nor the member: the context's own part, the source, the query and the
        task.
        """
        config = self.config
        task_BC = self.task(request.task) * float(config.task_feature)
        given_B1 = 1 - request.query_flags[:, 1:] * float(not config.imputation)
        q_BD = self.query(self.text(request.query_tokens * given_B1.long()))
        missing_B1 = (1 - request.source_known) * float(config.imputation)
        source_BD = request.source_vector + missing_B1 * self.no_source_D
        context_BC = torch.cat(
            [
                task_BC,
                self.country(request.country),
                self.daypart(request.daypart),
                request.query_flags * given_B1,
                request.source_known,
            ],
            dim=1,
        )
        return context_BC, source_BD, q_BD, task_BC
