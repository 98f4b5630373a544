"""The posterior of the gate is Bayes' rule: certain where the law is, and right on average where it is not."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from model.simulation.files import write_simulation
from model.simulation.law import law_with, sigmoid
from model.simulation.posterior import Posterior
from model.simulation.simulator import Plan, make_world
from model.simulation.truth import RequestTruth
from model.simulation.truth_reader import TruthFolder


def _sessions(folder: Path, *settings: str) -> tuple[Plan, TruthFolder, list[list[RequestTruth]]]:
    plan = Plan(members=40, titles=60, days=2, seed=5, law=law_with(settings))
    write_simulation(plan, folder)
    truth = TruthFolder(folder)
    sessions: dict[str, list[RequestTruth]] = defaultdict(list)
    for request in truth.requests():
        sessions[request.session_id].append(request)
    return plan, truth, list(sessions.values())


def test_where_the_law_leaves_no_doubt_there_is_none(tmp_path: Path) -> None:
    for share in (0, 1):
        plan, truth, sessions = _sessions(tmp_path / str(share), f"mood_share={share}")
        posterior = Posterior(truth, make_world(plan).genres_GD)
        for gates_G, shares_G in posterior.gates(sessions[0]):
            assert shares_G.sum() == 1.0 or abs(shares_G.sum() - 1.0) < 1e-9
            assert gates_G[0] == 0.0
            assert abs(shares_G[0] - (1 - share)) < 1e-9


def test_a_known_bias_leaves_two_gates_and_the_true_one_is_among_them(tmp_path: Path) -> None:
    plan, truth, sessions = _sessions(tmp_path / "world")
    world = make_world(plan)
    posterior = Posterior(truth, world.genres_GD)
    for own in sessions[:20]:
        bias = float(world.members.gate_bias_M[int(own[0].user_id.removeprefix("sim-m"))])
        for request, (gates_G, shares_G) in zip(own, posterior.gates(own, bias), strict=True):
            assert gates_G.tolist() == [0.0, sigmoid(np.array(bias + 0.3 * request.session_position))]
            assert abs(gates_G - request.gate).min() < 1e-5
            assert shares_G.min() >= 0.0


def test_what_is_clicked_tells_moods_from_none_and_the_probabilities_are_right_on_average(tmp_path: Path) -> None:
    plan, truth, sessions = _sessions(tmp_path / "world", "match_weight=8", "requests_per_session=8", "gate_bias=2")
    posterior = Posterior(truth, make_world(plan).genres_GD)
    said, was = [], []
    for own in sessions[:60]:
        _, shares_G = posterior.gates(own)[-1]
        said.append(1 - shares_G[0])
        was.append(truth.sessions[own[0].session_id].mood is not None)
    probabilities, moods = np.array(said), np.array(was)
    assert probabilities[moods].mean() > probabilities[~moods].mean() + 0.3
    assert abs(probabilities.mean() - moods.mean()) < 0.1
