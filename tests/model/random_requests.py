"""A network that nobody trained and requests of random items, for tests of the network's form.

Enters: sizes and seeds. Leaves: a `Unicorn`, and feeds as `rank.onnx` takes them. Called by this folder's tests.
"""

import numpy as np
import torch

from features.model_inputs import QUERY_TOKENS, SESSION_EVENTS, RequestInputs
from features.vector import COLUMN_NAMES, HISTORY_TITLES
from model.artifact import request_feed
from model.config import UnicornConfig
from model.rank_graph import RankGraph
from model.unicorn import Candidates, Ranking, Request, Unicorn

TITLES = 40
Feed = dict[str, np.ndarray]


def loud_model(config: UnicornConfig | None = None) -> Unicorn:
    """A network of which no part is silent because it begins at zero; members fall into different clusters."""
    torch.manual_seed(0)
    model = Unicorn(config or UnicornConfig(), TITLES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        model.clusters.fit(torch.randn(300, model.config.vector))
    return model


def random_inputs(session: int = 3, history: int = 5, source: int = 7, seed: int = 0, query: int = 4) -> RequestInputs:
    """A search; `query` counts tokens."""
    rng = np.random.default_rng(seed)

    def padded(length: int, used: int, high: int) -> np.ndarray:
        array = np.zeros(length, np.int64)
        array[:used] = rng.integers(1, high, used)
        return array

    return RequestInputs(
        task=1,
        country=3,
        daypart=2,
        query_tokens_Q=np.where(np.arange(QUERY_TOKENS) < query, 1 + np.arange(QUERY_TOKENS) * 37 % 999, 0),
        query_flags_2=np.array([0.2, 0.0], np.float32),
        source_slot=source,
        session_slots_L=padded(SESSION_EVENTS, session, TITLES),
        session_kinds_L=padded(SESSION_EVENTS, session, 4),
        session_gaps_L=rng.random(SESSION_EVENTS).astype(np.float32),
        history_slots_T=padded(HISTORY_TITLES, history, TITLES),
        history_weights_T=rng.random(HISTORY_TITLES).astype(np.float32),
    )


def to_feed(inputs: RequestInputs, count: int = 6) -> Feed:
    """The inputs of the graph, with random candidates of which none is exactly what was asked for."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(TITLES, 64)).astype(np.float32)
    vectors[0] = 0
    feed = request_feed(inputs, vectors) | {
        "candidate_vectors": rng.normal(size=(count, 64)).astype(np.float32),
        "candidate_bias": rng.normal(size=count).astype(np.float32),
        "pairs": rng.normal(size=(count, len(COLUMN_NAMES))).astype(np.float32),
    }
    feed["pairs"][:, COLUMN_NAMES.index("title_exact")] = 0.0
    return feed


def run_graph(model: Unicorn, feed: Feed) -> Ranking:
    """What the graph answers, in torch."""
    with torch.no_grad():
        return Ranking(
            *RankGraph(model)(*(torch.from_numpy(feed[name]) for name in (*Request._fields, *Candidates._fields)))
        )
