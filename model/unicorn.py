"""UniCoRn: one contextual model for search, more-like-this and pre-query recommendation.

Enters: requests (context, session, history), candidates (item vectors and biases) and their columns. Leaves: a logit
per candidate, the gate and the additive long-term and short-term parts. Called by training and, as ONNX, by
`artifact.py`.

After Bhattacharya, Ostuni, Lamkhede: Joint Modeling of Search and Recommendations Via an Unified Contextual Recommender
(RecSys '24): one network over task, country, query and source entity, missing context imputed, residual connections,
feature crossing, binary cross entropy.

legend: B requests, K candidates, V titles, D = 64 item vector, E text embedding,
        Q/L/T query tokens / session events / history titles,
        F columns, R request part and P candidate part of the joined input X, H deep tower
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from features.engagement import Task
from features.model_inputs import DAYPARTS, SESSION_EVENTS
from features.tokens import COUNTRY_BUCKETS, GENRE_BUCKETS, TEXT_BUCKETS
from features.vector import COLUMN_NAMES
from model.config import UnicornConfig
from model.crossing import CrossLayer, ResidualBlock
from model.encoders import HistoryEncoder, SessionEncoder
from model.gate import Gate

FLAGS = 2
COLUMN_LIMIT = 6.0
DOTS = 4
# Where training begins: about one title in a thousand is the one.
RARE_LOGIT = -7.0


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


class Ranking(NamedTuple):
    """Logits, long-term and short-term parts (B, K), and the gate (B,)."""

    logits: Tensor
    gate: Tensor
    long: Tensor
    short: Tensor


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
            self.item_id.weight.mul_(0.3)

    def forward(self, index_V: Tensor, title_tokens_VQ: Tensor, genre_tokens_VG: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (V, D) and biases (V,)."""
        x_VI = torch.cat([self.item_id(index_V), self.text(title_tokens_VQ), self.genre(genre_tokens_VG)], dim=1)
        return self.vector(x_VI), self.bias(x_VI).squeeze(1)


class Unicorn(nn.Module):
    """The whole network; `column_mean` and `column_scale` standardise the columns (a column that never varied has scale
    0: no weight).
    """

    column_mean: Tensor
    column_scale: Tensor

    def __init__(self, config: UnicornConfig, vocabulary: int) -> None:
        super().__init__()
        columns = len(COLUMN_NAMES)
        self.register_buffer("column_mean", torch.zeros(columns))
        self.register_buffer("column_scale", torch.ones(columns))
        self.text = TextEncoder(TEXT_BUCKETS, config.text)
        self.items = TargetEncoder(config, vocabulary, self.text)
        self.task = nn.Embedding(len(Task), config.task)
        self.country = nn.Embedding(COUNTRY_BUCKETS, config.country)
        self.daypart = nn.Embedding(DAYPARTS, config.daypart)
        self.query = nn.Linear(config.text, config.vector)
        self.no_source_D = nn.Parameter(torch.zeros(config.vector))
        self.history = HistoryEncoder(config.vector, config.heads)
        self.session = SessionEncoder(config.vector, config.heads, SESSION_EVENTS)
        self.gate = Gate(config.vector, config.task)
        request = config.task + config.country + config.daypart + FLAGS + 3 + 3 * config.vector
        candidate = 2 * config.vector + DOTS + columns
        self.cross = nn.ModuleList(
            CrossLayer(request + candidate, config.cross_rank) for _ in range(config.cross_layers)
        )
        self.deep_request = nn.Linear(request, config.deep)
        self.deep_candidate = nn.Linear(candidate, config.deep, bias=False)
        self.deep = nn.Sequential(*(ResidualBlock(config.deep, config.dropout) for _ in range(config.deep_blocks)))
        self.out = nn.Linear(request + candidate + config.deep, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, RARE_LOGIT)

    def forward(self, request: Request, candidates: Candidates) -> Ranking:
        """Score every candidate of every request."""
        e_BKD = candidates.candidate_vectors
        pairs_BKF = ((candidates.pairs - self.column_mean) * self.column_scale).clamp(-COLUMN_LIMIT, COLUMN_LIMIT)
        request_BR, u_BD, sides, q_BD = self._encode(request)
        g_B1, long_BD, short_BD = sides

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
        return Ranking(joint_BK + long_BK + short_BK + candidates.candidate_bias, g_B1.squeeze(1), long_BK, short_BK)

    def _encode(self, request: Request) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
        """What does not depend on the candidates, once per request: the request part, u, (g, (1-g) u_L, g u_S) and the
        query.
        """
        task_BC = self.task(request.task)
        long_length_B1 = request.history_mask.sum(dim=1, keepdim=True)
        short_length_B1 = request.session_mask.sum(dim=1, keepdim=True)
        long_BD = self.history(request.history_vectors, request.history_weights, request.history_mask)
        short_BD = self.session(
            request.session_vectors, request.session_kinds, request.session_gaps, request.session_mask
        )
        g_B1, u_BD, long_BD, short_BD = self.gate(long_BD, short_BD, task_BC, long_length_B1, short_length_B1)
        q_BD = self.query(self.text(request.query_tokens))
        source_BD = request.source_vector + (1 - request.source_known) * self.no_source_D
        lengths_B2 = torch.log1p(torch.cat([long_length_B1, short_length_B1], dim=1))
        request_BR = torch.cat(
            [
                task_BC,
                self.country(request.country),
                self.daypart(request.daypart),
                request.query_flags,
                request.source_known,
                lengths_B2,
                u_BD,
                q_BD,
                source_BD,
            ],
            dim=1,
        )
        return request_BR, u_BD, (g_B1, long_BD, short_BD), q_BD


class RankGraph(nn.Module):
    """One request and its N candidates, as `rank.onnx` takes them."""

    def __init__(self, model: Unicorn) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The request's tensors with a batch axis of 1, then the candidates' without one -> logits (N,), gate (1,),
        long (N,), short (N,).
        """
        request, candidates = Request(*inputs[: len(Request._fields)]), inputs[len(Request._fields) :]
        ranking = self.model(request, Candidates(*(tensor[None] for tensor in candidates)))
        return ranking.logits[0], ranking.gate, ranking.long[0], ranking.short[0]
