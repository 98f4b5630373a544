"""A simulated folder read back: the true utility and the true relevance of every title for every request.

Enters: a folder that `files.py` has written. Leaves: its plan's law, requests with their sessions, arrays over all
titles. Called by whoever tests a gate, a calibration, an exploration or a correction against the truth. The formulas
are spelled out for one request, apart from those that drew it; tests hold the two against each other.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from features.catalogue import Item
from infra.errors import BadInput
from model.simulation.files import ITEMS, MANIFEST, TRUTH, TRUTH_SESSIONS, TRUTH_TITLES, Manifest
from model.simulation.law import DAY_MS, TASK_NAMES, Bools, Floats, Law, sigmoid
from model.simulation.queries import WordIndex
from model.simulation.truth import RequestTruth, SessionTruth, TitleTruth

T = TypeVar("T")


class TruthFolder:
    """The truth of one folder; sessions and titles are held in memory, requests are read one by one."""

    def __init__(self, folder: Path) -> None:
        """Open the folder; raises `BadInput` when it has no manifest, so is not or not wholly written."""
        if not (folder / MANIFEST).is_file():
            raise BadInput("not_found", f"{folder} has no {MANIFEST}; `nowrank simulate --out {folder}` writes it last")
        self._folder = folder
        self.manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        self.law = Law(**self.manifest.plan["law"])
        self.items = list(_lines(folder / ITEMS, Item))
        self.sessions = {session.session_id: session for session in _lines(folder / TRUTH_SESSIONS, SessionTruth)}
        self.index = {item.item_id: at for at, item in enumerate(self.items)}
        self._words = WordIndex(self.items)
        titles = list(_lines(folder / TRUTH_TITLES, TitleTruth))
        self.vectors_TD = np.array([title.vector for title in titles])
        self._available_ms_T = np.array([title.available_from_ms for title in titles])
        self._quality_T = np.array([title.quality for title in titles])
        self._swing_T = np.array([title.swing for title in titles])
        self._period_days_T = np.array([title.period_days for title in titles])
        self._phase_rad_T = np.array([title.phase_rad for title in titles])

    def requests(self) -> Iterator[RequestTruth]:
        """The requests in the order of their times."""
        return _lines(self._folder / TRUTH, RequestTruth)

    def is_available(self, request: RequestTruth) -> Bools:
        """Which titles could be shown, (T,): those that were there when the session began."""
        return np.asarray(self._available_ms_T <= self.sessions[request.session_id].begin_ms)

    def utilities(self, request: RequestTruth, gate: float | None = None) -> Floats:
        """The true utility of every title for a request, (T,), in the order of `items`; with another gate than the true
        one, what the member would have wanted then.
        """
        law, session = self.law, self.sessions[request.session_id]
        g = request.gate if gate is None else gate
        mood_D = np.zeros(law.dimensions) if session.mood is None else np.array(session.mood)
        want_D = g * mood_D + (1 - g) * np.array(session.taste)
        utility_T = law.match_weight * self.vectors_TD @ want_D + self.appeal(session.drift_ms)
        if request.source_item_id is not None:
            source_D = self.vectors_TD[self.index[request.source_item_id]]
            utility_T += law.source_weight * self.vectors_TD @ source_D
        if request.target_item_id is not None:
            utility_T[self.index[request.target_item_id]] += law.target_weight
            utility_T += law.closeness_weight * self._words.closeness(request.meant_query or "")
        return np.asarray(utility_T)

    def relevances(self, request: RequestTruth) -> Floats:
        """P(click | examined) of every title for a request, (T,)."""
        return sigmoid(self.utilities(request) - self.law.thresholds[TASK_NAMES.index(request.task)])

    def appeal(self, at_ms: int) -> Floats:
        """What every title has beside its match, (T,), at the time at which what drifts was evaluated."""
        wave_T = np.sin(2 * np.pi * at_ms / DAY_MS / self._period_days_T + self._phase_rad_T)
        age_days_T = np.maximum(0.0, (at_ms - self._available_ms_T) / DAY_MS)
        launch_T = self.law.launch_boost * np.exp(-age_days_T / self.law.launch_days)
        return np.asarray(self._quality_T + self._swing_T * wave_T + launch_T)


def _lines(path: Path, kind: type[T]) -> Iterator[T]:
    decoder: Any = msgspec.json.Decoder(kind)
    with path.open("rb") as stream:
        for line in stream:
            yield decoder.decode(line)
