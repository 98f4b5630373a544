"""Export: the trained network as two ONNX graphs.

Enters: a `Unicorn`. Leaves: `items.onnx` and `rank.onnx` in a folder. Called by training; the artifact reads what is written here.
"""

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from features.item_table import ITEM_GENRES, TITLE_TOKENS
from features.model_inputs import HISTORY_TITLES, QUERY_TOKENS, SESSION_EVENTS, RequestInputs
from features.vector import COLUMN_NAMES
from model.artifact import ITEMS_GRAPH, RANK_GRAPH, request_feed
from model.unicorn import Candidates, RankGraph, Request, Unicorn

OPSET = 18


def write_graphs(model: Unicorn, folder: Path) -> None:
    """Write both graphs; V and N are dynamic, the batch axis of the request is 1."""
    model.eval()
    items = (
        torch.zeros(3, dtype=torch.int64), torch.zeros((3, TITLE_TOKENS), dtype=torch.int64), torch.zeros((3, ITEM_GENRES), dtype=torch.int64)
    )  # fmt: skip
    _export(
        model.items,
        items,
        folder / ITEMS_GRAPH,
        ["index", "title_tokens", "genre_tokens"],
        ["vectors", "bias"],
        {"V": _all_inputs(3)},
    )
    request = _blank_request(model)
    width = request["source_vector"].shape[1]
    candidates = (torch.zeros((3, width)), torch.zeros(3), torch.zeros((3, len(COLUMN_NAMES))))
    inputs = tuple(request[name] for name in Request._fields) + candidates
    _export(
        RankGraph(model), inputs, folder / RANK_GRAPH, [*Request._fields, *Candidates._fields], ["logits", "gate", "long", "short"],
        {"N": range(len(Request._fields), len(inputs))},
    )  # fmt: skip


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    input_names: list[str],
    output_names: list[str],
    dynamic: dict[str, range],
) -> None:
    axes = {input_names[index]: {0: axis} for axis, indices in dynamic.items() for index in indices}
    axes |= {name: {0: axis} for axis in dynamic for name in output_names if name != "gate"}
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,
            input_names=input_names,
            output_names=output_names,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    path.write_bytes(buffer.getvalue())


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


def _all_inputs(count: int) -> range:
    return range(count)
