"""The benchmark of position bias measures what it says: the true order, and a gain in a paired interval."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.position_bias import main, true_order_taus
from model.progress import Silent
from model.served_dataset import build_served, replay_of
from model.simulation.files import write_simulation
from model.simulation.served import read_simulated
from model.simulation.simulator import Plan
from model.simulation.truth_reader import TruthFolder


def test_the_true_order_has_a_tau_of_one_and_its_reverse_of_minus_one(tmp_path: Path) -> None:
    write_simulation(Plan(members=15, titles=60, days=2, seed=3), tmp_path / "world")
    served = read_simulated(tmp_path / "world")
    data = build_served(served, replay_of(served), Silent(), replay_others=True)
    utilities = {request.ranking_id: request.utilities for request in TruthFolder(tmp_path / "world").requests()}
    true_BK = np.array([utilities[ranking_id] for ranking_id in data.ranking_ids])
    np.testing.assert_allclose(true_order_taus(true_BK, data, utilities), 1.0)
    np.testing.assert_allclose(true_order_taus(-true_BK, data, utilities), -1.0)
    assert abs(true_order_taus(np.random.default_rng(0).normal(size=true_BK.shape), data, utilities).mean()) < 0.2


@pytest.mark.slow
def test_the_command_compares_each_correction_with_none(tmp_path: Path) -> None:
    asked = ["--members", "60", "--titles", "80", "--days", "3", "--epochs", "2", "--worlds", "promoted"]
    main([*asked, "--json", str(tmp_path / "result.json")])
    document = json.loads((tmp_path / "result.json").read_text())
    [result] = document["results"]
    assert document["synthetic"]
    assert (result["none"]["gain_low"], result["none"]["gain_high"]) == (0.0, 0.0)
    for name in ("position", "examination", "ips"):
        assert result[name]["gain_low"] <= result[name]["gain"] <= result[name]["gain_high"]
        assert result[name]["tau"] == pytest.approx(result["none"]["tau"] + result[name]["gain"])
