"""Training from histories to the folder of a run.

Enters: `Histories` and an `Order`. Leaves: the folder (see `run_folder.py`) and a `Result`. Called by `nowrank train
history`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from infra.errors import BadInput
from model.history.config import TrainingConfig
from model.history.fit import Run, fit, new_run
from model.history.histories import Histories, LeaveOneOut, leave_one_out
from model.history.joined import joined_config
from model.history.ranking import ranks_of
from model.history.run_folder import (
    CHECKPOINT,
    ENCODER,
    EncoderCard,
    Result,
    load_checkpoint,
    load_encoder,
    load_result,
    save_checkpoint,
    save_encoder,
    save_result,
)
from model.progress import Progress
from model.ranking_metrics import summarise
from model.weights_file import Weights


@dataclass(frozen=True, slots=True)
class Order:
    """What to train, where, and for how long; `before_ms`: where the histories were cut, if they were."""

    folder: Path
    config: TrainingConfig
    budget_s: float
    resume: bool
    before_ms: int | None = None


def train_and_test(histories: Histories, order: Order, progress: Progress) -> Result:
    """Train on all but two engagements of each user, rank the last, write it all to the folder."""
    split, name = leave_one_out(histories), histories.fingerprint()
    run = _resumed(order, name) if order.resume else _begun(order, histories)
    fit(run, split, order.budget_s, lambda now: save_checkpoint(order.folder, now, name), progress)
    card = EncoderCard(run.config, name, histories.titles, order.before_ms)
    save_encoder(order.folder, run.best, card)
    return _tested(order.folder, split, Spent(len(run.curve), run.best_epoch, run.spent_s))


def join_and_test(histories: Histories, folders: Sequence[Path], out: Path) -> Result:
    """Put the encoders of finished runs over these histories side by side in the folder `out`, and test them as one.
    Epochs and processor time are the sums of theirs.
    """
    if (out / ENCODER).exists():
        raise BadInput("folder_in_use", f"{out} holds a run; give another --out")
    name, spent = histories.fingerprint(), Spent(0, -1, 0.0)
    weights: Weights = {}
    cards: list[EncoderCard] = []
    for place, folder in enumerate(folders):
        (model, card), (result, _) = load_encoder(folder), load_result(folder)
        if card.histories != name:
            raise BadInput(
                "other_histories",
                f"the run in {folder} saw histories {card.histories}, these are {name}; give the same data and --core",
            )
        weights |= {f"parts.{place}.{key}": value for key, value in model.state_dict().items()}
        cards.append(card)
        spent = Spent(
            spent.epochs + result.epochs, spent.best_epoch + result.best_epoch + 1, spent.cpu_s + result.cpu_s
        )
    config = msgspec.structs.replace(cards[0].config, model=joined_config(tuple(card.config.model for card in cards)))
    # The same histories, so where one run was cut all were.
    before_ms = min((card.before_ms for card in cards if card.before_ms is not None), default=None)
    save_encoder(out, weights, EncoderCard(config, name, histories.titles, before_ms))
    return _tested(out, leave_one_out(histories), spent)


class Spent(NamedTuple):
    """What a trained encoder cost."""

    epochs: int
    best_epoch: int
    cpu_s: float


def _tested(folder: Path, split: LeaveOneOut, spent: Spent) -> Result:
    """Test the encoder in a folder; the result is left there too."""
    model, card = load_encoder(folder)
    ranks = {
        "validation": ranks_of(model, split.train, split.validation_U),
        "test": ranks_of(model, split.before_test, split.test_U),
    }
    result = Result(
        config=card.config, histories=card.histories, users=len(split.train.users), titles=len(card.titles),
        validation=summarise(ranks["validation"]), test=summarise(ranks["test"]), **spent._asdict(),
    )  # fmt: skip
    save_result(folder, result, ranks)
    return result


def _resumed(order: Order, name: str) -> Run:
    run, seen = load_checkpoint(order.folder)
    if seen != name:
        raise BadInput(
            "other_histories",
            f"the run in {order.folder} saw histories {seen}, these are {name}; give the same data and --core",
        )
    return run


def _begun(order: Order, histories: Histories) -> Run:
    if (order.folder / CHECKPOINT).exists():
        raise BadInput("folder_in_use", f"{order.folder} holds a run; go on with --resume, or give another --out")
    sizes = msgspec.structs.replace(order.config.model, timed=histories.times_N is not None)
    return new_run(msgspec.structs.replace(order.config, model=sizes), len(histories.titles))
