"""SASRec as a baseline: the history encoder of `model/history`, by a softmax over the whole catalogue.

Enters: the labels of the training part. Leaves: scores for a user's titles so far. Called by the evaluation of a log
that is not too long.

It learns from the training part only and is not fitted again, as UniCoRn is not; a user's history is live. It stops by
the newest title of each user of the training part. Each setting has at most EPOCHS epochs and BUDGET_S of processor
time. Histories are read in order, without times.

legend: V slots, N candidates, D width
"""

from collections.abc import Iterable

import msgspec
import torch

from features.item_table import ItemTable
from model.baselines import TIE_BREAK, Family, Setting
from model.history.config import EncoderConfig, TrainingConfig
from model.history.encoder import HistoryEncoder
from model.history.fit import fit, new_run
from model.history.histories import Histories, LeaveOneOut
from model.moments import Floats, Moment
from model.progress import Progress
from model.replay import Replay
from streams.labels import Log

LENGTH = 50
EPOCHS, BUDGET_S = 40, 120.0
GRID = ((0.2, None), (0.5, None), (0.5, 0.07))
TRAINING = TrainingConfig(windows=True, epochs=EPOCHS, patience=6, batch=32)


class FittedSasrec:
    """The family, and the encoders that it scores with: none until `fit` was called."""

    def __init__(self, log: Log, train_end_ms: int, seed: int, progress: Progress) -> None:
        self._log, self._train_end_ms, self._seed, self._progress = log, train_end_ms, seed, progress
        self.family = Family("sasrec", ("dropout", "temperature"), GRID, self._scores)
        self._encoders: dict[Setting, HistoryEncoder] = {}
        self._size = 0

    def fit(self, replay: Replay, settings: Iterable[Setting]) -> None:
        """Fit to the training part, the first time that it is called."""
        if self._size:
            return
        self._size = len(replay.table)
        histories = training_histories(self._log, self._train_end_ms, replay.table)
        if histories.users:
            self._encoders = {setting: self._fitted(histories, setting) for setting in settings}

    def _fitted(self, histories: Histories, setting: Setting) -> HistoryEncoder:
        sizes = EncoderConfig(length=LENGTH, dropout=setting[0], temperature=setting[1])
        run = new_run(msgspec.structs.replace(TRAINING, model=sizes, seed=self._seed), len(histories.titles))
        known = histories.without_last(1)
        split = LeaveOneOut(known, histories.last_U(), histories, histories.last_U())
        fit(run, split, BUDGET_S, lambda _run: None, self._progress)
        run.model.load_state_dict(run.best)
        return run.model.eval()

    @torch.no_grad()
    def _scores(self, moment: Moment, *setting: float | None) -> Floats:
        scores_N = TIE_BREAK * moment.plays_N
        newest_first = moment.replay.recent_titles(moment.label.user_id, LENGTH)
        slots = [slot for slot in reversed(newest_first) if slot < self._size]
        encoder = self._encoders.get(setting)
        if encoder is None or not slots:
            return scores_N
        user_1D, items_VD = encoder.encode(torch.tensor([slots])), encoder.item_vectors()
        known_N = moment.slots_N < self._size
        scores_N[known_N] += (items_VD @ user_1D[0]).numpy()[moment.slots_N[known_N]]
        return scores_N


def training_histories(log: Log, end_ms: int, table: ItemTable) -> Histories:
    """Each user's titles before a time, each once, in order, as slots; users of one title are left out."""
    by_user: dict[str, dict[int, None]] = {}
    for label in log.labels:
        if label.ts_ms < end_ms:
            by_user.setdefault(label.user_id, {}).setdefault(table.slot(label.item_id))
    several = {user: [(slot, None) for slot in slots] for user, slots in by_user.items() if len(slots) > 1}
    return Histories.of(several, table.ids[1:])
