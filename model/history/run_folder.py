"""The folder of a run: what is needed to go on, to use the encoder and to compare it. No pickle anywhere.

Enters: a `Run`. Leaves: files, and the `Run` or the encoder again. Called by `nowrank train history`, and by whoever
uses a trained encoder.

    checkpoint.safetensors   weights, best weights, Adam's moments; configuration and curve as JSON in its header
    encoder.safetensors      the best weights; its header holds configuration and titles
    ranks.safetensors        the rank of the right title by user, on validation and on test
    result.json              configuration, metrics, processor time
    curve.json, curve.md     the learning curve
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from infra.errors import ArtifactInvalid
from model.history.config import TrainingConfig
from model.history.encoder import HistoryEncoder
from model.history.fit import Point, Run, new_encoder, new_run
from model.history.joined import Joined
from model.manifests import indented
from model.weights_file import Weights, load_weights, moments_of, named, put_moments, save_weights, under

CHECKPOINT, ENCODER, RANKS = "checkpoint.safetensors", "encoder.safetensors", "ranks.safetensors"
RESULT, CURVE_JSON, CURVE_MARKDOWN = "result.json", "curve.json", "curve.md"
MADE_BY = "train: nowrank train history"
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
    tensors = named(MODEL, run.model.state_dict()) | named(BEST, run.best) | named(ADAM, moments_of(run.optimiser))
    header = Header(run.config, histories, run.model.item.num_embeddings - 1, run.curve)
    save_weights(folder / CHECKPOINT, tensors, header)
    (folder / CURVE_JSON).write_bytes(indented(run.curve) + b"\n")
    (folder / CURVE_MARKDOWN).write_text(curve_table(run.curve))


def load_checkpoint(folder: Path) -> tuple[Run, str]:
    """The run of a checkpoint and the name of its histories; raises `ArtifactInvalid` when there is none."""
    tensors, header = load_weights(folder / CHECKPOINT, Header, MADE_BY)
    run = new_run(header.config, header.titles)
    run.model.load_state_dict(under(tensors, MODEL))
    run.best, run.curve = under(tensors, BEST), list(header.curve)
    put_moments(run.optimiser, under(tensors, ADAM))
    return run, header.histories


def save_encoder(folder: Path, weights: Weights, card: EncoderCard) -> None:
    """Write the weights of a trained encoder."""
    save_weights(folder / ENCODER, weights, card)


def load_encoder(folder: Path) -> tuple[HistoryEncoder | Joined, EncoderCard]:
    """A trained encoder, ready to encode, and its card; raises `ArtifactInvalid` when there is none."""
    weights, card = load_weights(folder / ENCODER, EncoderCard, MADE_BY)
    sizes, titles = card.config.model, len(card.titles)
    model = Joined(sizes, titles) if sizes.parts else new_encoder(sizes, titles)
    model.load_state_dict(weights)
    model.eval()
    return model, card


def save_result(folder: Path, result: Result, ranks: dict[str, NDArray[np.float64]]) -> None:
    """Write the result, and the ranks of `validation` and `test` by user, (U, 2)."""
    save_weights(folder / RANKS, {name: torch.from_numpy(values) for name, values in ranks.items()}, {})
    (folder / RESULT).write_bytes(indented(result) + b"\n")


def load_result(folder: Path) -> tuple[Result, dict[str, NDArray[np.float64]]]:
    """The result of a finished run and its ranks; raises `ArtifactInvalid` when the run is not finished."""
    ranks, _ = load_weights(folder / RANKS, dict[str, Any], MADE_BY)
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
