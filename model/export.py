"""Export: the trained network as two ONNX graphs.

Enters: a `Unicorn`. Leaves: `items.onnx` and `rank.onnx` in a folder. Called by training; the artifact reads what is
written here.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from features.item_table import ITEM_GENRES, TITLE_TOKENS
from features.model_inputs import QUERY_TOKENS, SESSION_EVENTS, RequestInputs
from features.vector import COLUMN_NAMES, HISTORY_TITLES
from model.artifact import ITEMS_GRAPH, RANK_GRAPH, request_feed
from model.rank_graph import OUTPUTS, RankGraph
from model.unicorn import Candidates, Request, Unicorn

OPSET = 18
EXAMPLE = 3


def write_graphs(model: Unicorn, folder: Path) -> None:
    """Write both graphs; V and N are dynamic, the batch axis of the request is 1."""
    model.eval()
    items = {
        "index": torch.zeros(EXAMPLE, dtype=torch.int64),
        "title_tokens": torch.zeros((EXAMPLE, TITLE_TOKENS), dtype=torch.int64),
        "genre_tokens": torch.zeros((EXAMPLE, ITEM_GENRES), dtype=torch.int64),
    }
    _export(model.items, items, ("vectors", "bias"), (*items, "vectors", "bias"), folder / ITEMS_GRAPH)
    request = _blank_request(model)
    width = request["source_vector"].shape[1]
    candidates = {
        "candidate_vectors": torch.zeros((EXAMPLE, width)),
        "candidate_bias": torch.zeros(EXAMPLE),
        "pairs": torch.zeros((EXAMPLE, len(COLUMN_NAMES))),
    }
    ordered = {name: (request | candidates)[name] for name in (*Request._fields, *Candidates._fields)}
    dynamic = (*Candidates._fields, "logits", "long", "short")
    _export(RankGraph(model), ordered, OUTPUTS, dynamic, folder / RANK_GRAPH)


def _export(
    module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], dynamic: tuple[str, ...], path: Path
) -> None:
    """Write one graph; the first axis of the tensors in `dynamic` may have any length."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "count"} for name in dynamic},
            opset_version=OPSET,
            dynamo=False,
        )


def _blank_request(model: Unicorn) -> dict[str, Tensor]:
    blank = RequestInputs(
        0, 0, 0, np.zeros(QUERY_TOKENS, np.int64), np.zeros(2, np.float32), 0,
        np.zeros(SESSION_EVENTS, np.int64), np.zeros(SESSION_EVENTS, np.int64), np.zeros(SESSION_EVENTS, np.float32),
        np.zeros(HISTORY_TITLES, np.int64), np.zeros(HISTORY_TITLES, np.float32),
    )  # fmt: skip
    width = model.items.vector.out_features
    return {
        name: torch.from_numpy(array) for name, array in request_feed(blank, np.zeros((1, width), np.float32)).items()
    }
