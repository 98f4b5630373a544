"""The folder of a run: what is needed to go on, to use the encoder and to compare it. No pickle anywhere.

Enters: a `Run`. Leaves: files, and the `Run` or the encoder again. Called by `nowrank train history`, and by whoever
uses a trained encoder.

    checkpoint.safetensors   weights, best weights, Adam's moments; configuration and curve as JSON in its header
    encoder.safetensors      the best weights; its header holds configuration and titles
    ranks.safetensors        the rank of the right title by user, on validation and on test
    result.json              configuration, metrics, processor time
    curve.json, curve.md     the learning curve
"""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from infra.errors import ArtifactInvalid
from model.history.config import TrainingConfig
from model.history.encoder import HistoryEncoder
from model.history.fit import Point, Run, Weights, new_encoder, new_run
from model.history.joined import Joined

T = TypeVar("T")

CHECKPOINT, ENCODER, RANKS = "checkpoint.safetensors", "encoder.safetensors", "ranks.safetensors"
RESULT, CURVE_JSON, CURVE_MARKDOWN = "result.json", "curve.json", "curve.md"
MODEL, BEST, ADAM = "model.", "best.", "adam."


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found. Metrics are of the best epoch on validation; `histories` names the data that it saw."""

    config: TrainingConfig
    histories: str
    users: int
    titles: int
    epochs: int
    best_epoch: int
    cpu_s: float
    validation: dict[str, float]
    test: dict[str, float]


class Header(msgspec.Struct, frozen=True):
    """The JSON in a checkpoint's header."""

    config: TrainingConfig
    histories: str
    titles: int
    curve: list[Point]


class EncoderCard(msgspec.Struct, frozen=True):
    """The JSON in an encoder's header; `titles[i - 1]` is the id of item index i. What it saw came before `before_ms`
    of the log's own time; None: the run did not ask for a cut.
    """

    config: TrainingConfig
    histories: str
    titles: tuple[str, ...]
    before_ms: int | None = None


def save_checkpoint(folder: Path, run: Run, histories: str) -> None:
    """Write the checkpoint, replaced in one step so that a kill leaves the old or the new one, and the curve."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {MODEL + name: value for name, value in run.model.state_dict().items()}
    tensors |= {BEST + name: value for name, value in run.best.items()}
    for place, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"{ADAM}{place}.{name}": value for name, value in moments.items()}
    header = Header(run.config, histories, run.model.item.num_embeddings - 1, run.curve)
    _save(folder / CHECKPOINT, tensors, header)
    (folder / CURVE_JSON).write_bytes(msgspec.json.format(msgspec.json.encode(run.curve), indent=1) + b"\n")
    (folder / CURVE_MARKDOWN).write_text(curve_table(run.curve))


def load_checkpoint(folder: Path) -> tuple[Run, str]:
    """The run of a checkpoint and the name of its histories; raises `ArtifactInvalid` when there is none."""
    tensors, header = _load(folder / CHECKPOINT, Header)
    run = new_run(header.config, header.titles)
    run.model.load_state_dict(_under(tensors, MODEL))
    run.best, run.curve = _under(tensors, BEST), list(header.curve)
    moments: dict[int, Weights] = {}
    for name, value in _under(tensors, ADAM).items():
        place, _, moment = name.partition(".")
        moments.setdefault(int(place), {})[moment] = value
    run.optimiser.load_state_dict({"state": moments, "param_groups": run.optimiser.state_dict()["param_groups"]})
    return run, header.histories


def save_encoder(folder: Path, weights: Weights, card: EncoderCard) -> None:
    """Write the weights of a trained encoder."""
    _save(folder / ENCODER, weights, card)


def load_encoder(folder: Path) -> tuple[HistoryEncoder | Joined, EncoderCard]:
    """A trained encoder, ready to encode, and its card; raises `ArtifactInvalid` when there is none."""
    weights, card = _load(folder / ENCODER, EncoderCard)
    sizes, titles = card.config.model, len(card.titles)
    model = Joined(sizes, titles) if sizes.parts else new_encoder(sizes, titles)
    model.load_state_dict(weights)
    model.eval()
    return model, card


def save_result(folder: Path, result: Result, ranks: dict[str, NDArray[np.float64]]) -> None:
    """Write the result, and the ranks of `validation` and `test` by user, (U, 2)."""
    _save(folder / RANKS, {name: torch.from_numpy(values) for name, values in ranks.items()}, {})
    (folder / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def load_result(folder: Path) -> tuple[Result, dict[str, NDArray[np.float64]]]:
    """The result of a finished run and its ranks; raises `ArtifactInvalid` when the run is not finished."""
    ranks, _ = _load(folder / RANKS, dict[str, Any])
    try:
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactInvalid(f"{folder / RESULT} cannot be read: {error}; finish the run: --resume") from error
    # Runs of before kept the middle of equal scores, one number for each user.
    return result, {name: values.reshape(len(values), -1).expand(-1, 2).numpy() for name, values in ranks.items()}


def curve_table(curve: list[Point]) -> str:
    """The learning curve as Markdown."""
    lines = ["| epoch | loss | validation NDCG@10 | validation HR@10 | CPU s |", "| ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {point.epoch + 1} | {point.loss:.4f} | {point.ndcg10:.4f} | {point.hr10:.4f} | {point.cpu_s:.0f} |"
        for point in curve
    ]
    return "\n".join(lines) + "\n"


def _under(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _save(path: Path, tensors: Weights, header: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    whole = {name: value.contiguous() for name, value in tensors.items()}
    save_file(whole, beside, metadata={"card": msgspec.json.encode(header).decode()})
    os.replace(beside, path)


def _load(path: Path, kind: type[T]) -> tuple[Weights, T]:
    try:
        with safe_open(path, framework="pt") as file:
            header = msgspec.json.decode((file.metadata() or {}).get("card", ""), type=kind)
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError, msgspec.MsgspecError) as error:
        raise ArtifactInvalid(f"{path} cannot be read: {error}; train: nowrank train history") from error
