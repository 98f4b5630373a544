"""The benchmark of the truth measures what it says: rank correlations, ceilings, gains of a side, and a verdict."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks.gate_ceiling import expected_rank, ranks, told_gate
from benchmarks.known_world import true_order_ndcgs, true_order_taus
from benchmarks.truth import main
from benchmarks.truth_figures import Compared, calibration, compared, correlations, with_interval
from benchmarks.truth_report import holds
from model.simulation.truth import RequestTruth

USERS = np.array([f"u{row % 40}" for row in range(400)])


def test_equal_values_share_their_middle_rank() -> None:
    assert ranks(np.array([0.5, 0.0, 0.0, 0.7])).tolist() == [3.0, 1.5, 1.5, 4.0]
    assert expected_rank(np.array([0.0, 0.0, 0.5, 0.7]), np.array([0.0, 0.6, 0.9])).tolist() == [1.0, 3.0, 4.0]


def test_the_correlation_of_ranks_is_one_for_any_rising_curve_and_near_zero_for_chance() -> None:
    rng = np.random.default_rng(0)
    true_B = rng.random(400)
    assert correlations(np.exp(5 * true_B), true_B, USERS, rng)[0] == pytest.approx(1.0)
    assert correlations(-true_B, true_B, USERS, rng)[0] == pytest.approx(-1.0)
    chance = with_interval(correlations(rng.random(400), true_B, USERS, rng))
    assert chance["low"] < 0 < chance["high"]
    assert chance["low"] < chance["rho"] < chance["high"]
    assert not correlations(np.full(400, 0.3), true_B, USERS, rng).any()


def test_members_with_many_requests_make_the_interval_wide() -> None:
    rng = np.random.default_rng(1)
    of_member = rng.random(40)[np.arange(400) % 40]
    noisy = of_member + rng.random(40)[np.arange(400) % 40]
    by_member = with_interval(correlations(noisy, of_member, USERS, rng))
    by_request = with_interval(correlations(noisy, of_member, np.arange(400).astype(str), rng))
    assert by_member["high"] - by_member["low"] > 2 * (by_request["high"] - by_request["low"])


def test_the_true_order_has_a_tau_and_an_ndcg_of_one_and_its_reverse_a_tau_of_minus_one() -> None:
    utilities = np.random.default_rng(2).normal(size=(6, 12))
    requests = [
        cast(RequestTruth, SimpleNamespace(utilities=row.tolist(), relevances=(1 / (1 + np.exp(-row))).tolist()))
        for row in utilities
    ]
    np.testing.assert_allclose(true_order_taus(utilities, requests), 1.0)
    np.testing.assert_allclose(true_order_taus(-utilities, requests), -1.0)
    np.testing.assert_allclose(true_order_ndcgs(utilities, requests), 1.0)
    assert (true_order_ndcgs(-utilities, requests) < 1.0).all()


@pytest.mark.slow
def test_a_told_gate_finds_what_its_inputs_hold_and_no_more() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(600, 4)
    gates = torch.sigmoid(2 * inputs[:, 0]).double().numpy()
    parts = [(inputs[:300], gates[:300]), (inputs[300:450], gates[300:450])]
    told = told_gate(parts, inputs[450:], seed=0, steps=150)
    assert np.corrcoef(ranks(told), ranks(gates[450:]))[0, 1] > 0.9
    blind = [(part[:, 1:], own) for part, own in parts]
    assert (
        abs(np.corrcoef(ranks(told_gate(blind, inputs[450:, 1:], seed=0, steps=150)), ranks(gates[450:]))[0, 1]) < 0.4
    )


def test_a_side_that_is_better_on_every_list_gains_and_the_same_one_does_not() -> None:
    rng = np.random.default_rng(3)
    tau = rng.random(200)
    parts = [
        Compared({side: {"tau": tau + more, "ndcg": tau} for side, more in (("blend", 0.1), ("history", 0.0))}, users)
        for users in (USERS[:200], np.char.add("2:", USERS[:200]))
    ]
    figures = compared(parts, rng)
    gain = figures["gains"]["blend - history"]
    assert figures["lists"] == 400
    assert gain["tau"]["low"] == pytest.approx(0.1)
    assert (gain["ndcg"]["low"], gain["ndcg"]["high"]) == (0.0, 0.0)


def test_chance_is_in_the_error_against_what_happened_and_not_in_that_against_the_truth() -> None:
    rng = np.random.default_rng(4)
    true = rng.random(300) * 0.2
    happened = (rng.random(300) < true).astype(float)
    parts = [{"search": np.stack([true, happened, true])[:, rows]} for rows in (slice(0, 100), slice(100, None))]
    figures = calibration(parts)["search"]
    assert (figures["titles"], figures["ece_true"]) == (300, 0.0)
    assert figures["ece"] > 0.01


def _world(error: float, low: float) -> dict[str, Any]:
    gains = {f"blend - {side}": {"tau": {"low": low}} for side in ("session", "history")}
    return {"calibration": {"search": {"ece": error, "ece_true": 0.0}}, "order": {"gains": gains}}


def test_the_verdict_asks_for_small_errors_a_gain_with_moods_and_none_without() -> None:
    assert holds({"default": _world(0.01, 0.01), "no moods": _world(0.01, -0.01)})
    assert not holds({"default": _world(0.03, 0.01)})
    assert not holds({"default": _world(0.01, -0.01)})
    assert not holds({"no moods": _world(0.01, 0.01)})
    assert not holds({"no moods": _world(0.01, 0.01) | {"order": {"gains": {}}}})


@pytest.mark.slow
def test_the_command_holds_a_network_against_the_truth(tmp_path: Path) -> None:
    asked = ["--members", "60", "--titles", "80", "--days", "4", "--epochs", "1", "--seeds", "1", "2"]
    main([*asked, "--json", str(tmp_path / "result.json")])
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["synthetic"]
    assert not document["worlds"]["no moods"]["gate"]
    world = document["worlds"]["default"]
    for gates in world["gate"].values():
        assert gates["bayes_knows_bias"]["rho"] > gates["learned"]["rho"]
        for figure in gates.values():
            assert -1 <= figure["low"] <= figure["rho"] <= figure["high"] <= 1
    sides, gains = world["order"]["sides"], world["order"]["gains"]
    expected = sides["blend"]["tau"] - sides["history"]["tau"]
    assert gains["blend - history"]["tau"]["mean"] == pytest.approx(expected)
    assert [seed["seed"] for seed in world["seeds"]] == [1, 2]
