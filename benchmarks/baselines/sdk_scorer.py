"""The straightforward scorer: FastAPI, Feast's `get_online_features`, and the network in eager torch.

Enters: a port, an artifact with its weights, settings from the environment. Leaves: `POST /rank` with the candidates
and their scores, the best first. Run by `benchmarks.ranking_processes` as a process of its own: uvicorn, one worker.

The same network with the same weights as `rank.onnx`, fed with the same inputs (`sdk_features.py` says which of them
Feast cannot give). Titles are encoded once, at the start. It reads no answer deadline, logs no ranking, finds no
candidates and explains nothing: all of that is work that only ours does.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from safetensors.torch import load_file

from benchmarks.baselines.sdk_features import FeastReader
from benchmarks.ranking_model import weights_of
from features.catalogue import Item
from features.engagement import Task
from features.feast_repo.apply import open_feast
from features.item_table import ItemTable
from features.model_inputs import request_inputs
from features.vector import Context, Slots, pair_matrix
from infra.clock import now_ms
from infra.embedded.servers import LOOPBACK
from infra.settings import load_settings
from model.artifact import CARD, CATALOGUE, EASE, NEIGHBOURS, Card, request_feed
from model.config import UnicornConfig
from model.neighbours import NeighbourTable, Sources, context_sources, similarities
from model.rank_graph import guarded
from model.unicorn import Candidates, Request, Unicorn


class Asked(BaseModel):
    """The part of our request that it understands."""

    user_id: str
    task: str
    items: list[str]
    query: str | None = None
    source_item_id: str | None = None
    country: str | None = None
    limit: int = 20


class TorchModel:
    """The network, and every title of the catalogue as a vector."""

    def __init__(self, path: Path, table: ItemTable) -> None:
        card = msgspec.json.decode((path / CARD).read_bytes(), type=Card)
        self._network = Unicorn(UnicornConfig(**card.config["model"]), vocabulary=len(card.vocabulary))
        self._network.load_state_dict(load_file(weights_of(path)))
        self._network.eval()
        self._neighbours = NeighbourTable.load(path / NEIGHBOURS)
        self._ease = NeighbourTable.load(path / EASE)
        index = {item_id: place for place, item_id in enumerate(card.vocabulary) if place}
        size = len(table)
        self._index_V = np.fromiter((index.get(item_id, 0) for item_id in table.ids), np.int64, size)
        with torch.inference_mode():
            tokens = (torch.from_numpy(array[:size]).long() for array in (table.title_tokens, table.genre_tokens))
            self._vectors_VD, self._bias_V = self._network.items(torch.from_numpy(self._index_V), *tokens)
            self._vectors_VD[0], self._bias_V[0] = 0.0, 0.0

    def score(self, table: ItemTable, context: Context, slots: Slots) -> list[float]:
        """The logits of the candidates."""
        sources = tuple(
            Sources(self._index_V[source.slots_S], source.weights_S) for source in context_sources(table, context)
        )
        similar = similarities(self._neighbours, self._ease, sources, self._index_V[slots])  # type: ignore[arg-type]
        pairs_NF = torch.from_numpy(pair_matrix(table, slots, context, similar))
        feed = request_feed(request_inputs(table, context), self._vectors_VD.numpy())
        request = Request(**{name: torch.from_numpy(array) for name, array in feed.items()})
        slots_N = torch.from_numpy(slots)
        candidates = Candidates(self._vectors_VD[slots_N][None], self._bias_V[slots_N][None], pairs_NF[None])
        with torch.inference_mode():
            if context.task is Task.SEARCH:
                ranking = guarded(self._network, request, candidates)
            else:
                ranking = self._network(request, candidates)
        logits: list[float] = ranking.logits[0].tolist()
        return logits


def create_app(artifact_path: Path) -> FastAPI:
    """The app; everything is loaded before it listens."""
    torch.set_num_threads(1)
    reader = FeastReader(open_feast(load_settings(running_stack=False)))
    items = msgspec.json.decode((artifact_path / CATALOGUE).read_bytes(), type=list[Item])
    table = ItemTable(capacity=2 * len(items))
    for item in items:
        table.set_item(item)
    model = TorchModel(artifact_path, table)
    priors = reader.read_priors([item.item_id for item in items], now_ms())
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/rank")
    def rank(asked: Asked) -> dict[str, Any]:
        at_ms = now_ms()
        context = reader.read_context(asked.model_dump(), at_ms, priors)
        logits = model.score(table, context, reader.read_items(table, asked.items, at_ms))
        ranked = sorted(zip(logits, asked.items, strict=True), reverse=True)[: asked.limit]
        return {"items": [{"item_id": item_id, "score": score} for score, item_id in ranked]}

    return app


def main(arguments: list[str]) -> None:
    """Serve until told to stop."""
    port, artifact_path = arguments
    uvicorn.run(create_app(Path(artifact_path)), host=LOOPBACK, port=int(port), log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
