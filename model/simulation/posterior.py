"""The posterior of the gate: how well could anybody know it who sees only what members search and click?

Enters: the requests of one session in their order, with the truth of everything but its mood. Leaves, at each request
and before its list is answered, how probable each gate is. Called by the benchmark of the truth as its ceiling.

By Bayes' rule, over MOODS_OF_A_GENRE moods drawn by the law for each genre, over no mood, and, where the member's bias
is not known either, over a grid of biases. It knows the law, every vector, the member's taste, every list with what was
clicked, and the title in mind of each search; how long a title was watched and thumbs it does not look at.

legend: G gates that are possible (no mood first, then one for each bias), S moods, H biases, T titles, K places
"""

from collections.abc import Sequence

import numpy as np

from model.simulation.law import GENRES, TASK_NAMES, Floats, Ints, sigmoid, unit
from model.simulation.truth import RequestTruth
from model.simulation.truth_reader import TruthFolder

MOODS_OF_A_GENRE = 16
BIASES = 7


class Posterior:
    """Possible moods and biases of one world."""

    def __init__(self, truth: TruthFolder, genres_GD: Floats, seed: int = 0) -> None:
        law = truth.law
        rng = np.random.default_rng(seed)
        noise_SD = rng.normal(size=(len(GENRES) * MOODS_OF_A_GENRE, law.dimensions)) / np.sqrt(law.dimensions)
        moods_SD = unit(np.repeat(genres_GD, MOODS_OF_A_GENRE, axis=0) + law.mood_noise * noise_SD)
        nodes_H, weights_H = np.polynomial.hermite_e.hermegauss(BIASES)
        self._truth = truth
        self._mood_match_TS = truth.vectors_TD @ moods_SD.T
        self._biases_H = law.gate_bias + law.gate_spread * nodes_H
        self._weights_H = weights_H / weights_H.sum()

    def gates(self, requests: Sequence[RequestTruth], bias: float | None = None) -> list[tuple[Floats, Floats]]:
        """The possible gates (G,) and their probabilities (G,) at each of a session's first requests, from what was
        before it and from its own search; `bias` is the member's, where that is known.
        """
        truth, law = self._truth, self._truth.law
        session = truth.sessions[requests[0].session_id]
        biases_H = self._biases_H if bias is None else np.array([bias])
        weights_H = self._weights_H if bias is None else np.ones(1)
        taste_D = np.array(session.taste)
        moods = self._mood_match_TS.shape[1]
        # The last axis is every (mood, bias), then no mood.
        with np.errstate(divide="ignore"):
            log_X = np.log(np.append(np.tile(law.mood_share * weights_H / moods, moods), 1 - law.mood_share))
        answers = []
        for request in requests:
            gate_H = sigmoid(biases_H + law.gate_growth * request.session_position)
            if request.target_item_id is not None:
                log_X = log_X + self._search(request, taste_D, gate_H)
            share_X = np.exp(log_X - log_X.max())
            share_X /= share_X.sum()
            mood_H = share_X[:-1].reshape(moods, -1).sum(axis=0)
            answers.append((np.append(0.0, gate_H), np.append(share_X[-1], mood_H)))
            log_X = log_X + self._clicks(request, taste_D, gate_H)
        return answers

    def _matches(self, titles: Ints, taste_D: Floats, gate_H: Floats) -> Floats:
        """`match_weight` x (title . what is wanted) for each possibility, (K, X)."""
        taste_K1 = self._truth.vectors_TD[titles] @ taste_D[:, None]
        wanted_KSH = taste_K1[..., None] + gate_H * (self._mood_match_TS[titles] - taste_K1)[..., None]
        wanted_KX = np.concatenate([wanted_KSH.reshape(len(titles), -1), taste_K1], axis=1)
        return np.asarray(self._truth.law.match_weight * wanted_KX)

    def _search(self, request: RequestTruth, taste_D: Floats, gate_H: Floats) -> Floats:
        """The log-probability that this title is the one in mind, (X,)."""
        truth = self._truth
        available = np.flatnonzero(truth.is_available(request))
        target = np.array([truth.index[request.target_item_id or ""]])
        appeal_T = truth.appeal(truth.sessions[request.session_id].drift_ms)
        wish_TX = self._matches(available, taste_D, gate_H) + appeal_T[available, None]
        most = wish_TX.max()
        mass_X = np.log(np.exp(wish_TX - most).sum(axis=0)) + most
        return np.asarray((self._matches(target, taste_D, gate_H) - mass_X)[0])

    def _clicks(self, request: RequestTruth, taste_D: Floats, gate_H: Floats) -> Floats:
        """The log-likelihood of what was clicked, (X,); only the match depends on what is not known."""
        truth, law = self._truth, self._truth.law
        shown = np.array([truth.index[item_id] for item_id in request.items])
        mood = truth.sessions[request.session_id].mood
        want_D = taste_D if mood is None else (1 - request.gate) * taste_D + request.gate * np.array(mood)
        beside_K = np.array(request.utilities) - law.match_weight * truth.vectors_TD[shown] @ want_D
        margin_KX = self._matches(shown, taste_D, gate_H) + beside_K[:, None]
        clicked_KX = sigmoid(margin_KX - law.thresholds[TASK_NAMES.index(request.task)])
        clicked_KX *= np.array(request.examine_probabilities)[:, None]
        was_K1 = np.array(request.clicked)[:, None]
        return np.asarray(np.log(np.where(was_K1, clicked_KX, 1 - clicked_KX)).sum(axis=0))
