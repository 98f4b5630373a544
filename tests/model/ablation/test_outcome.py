from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from model.ablation.networks import Ranks
from model.ablation.outcome import outcome
from model.ablation.report import comparisons_table, models_table, write_study
from model.ablation.requests import Names, Recorded
from model.ablation.variants import FULL, LONG_ONLY, RETURNING, SHORT_ONLY, SHUFFLED

USERS, EACH = 40, 4
COUNT = USERS * EACH


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Half of the labels are searches; users with an odd number return; `good` beats `bad`, searches have `own` too."""
    tasks = ["search" if row % 2 else "pre_query" for row in range(COUNT)]
    users = [f"u{row // EACH}" for row in range(COUNT)]
    slices = [[RETURNING] if row // EACH % 2 else [] for row in range(COUNT)]
    names = Names(users, tasks, slices, {"pre_query": ["bad", "good"], "search": ["bad", "good", "own"]}, {}, 50, 0)
    nothing: Any = np.zeros(0)
    ranks_BM2 = np.tile([[30.0], [3.0], [0.0]], (COUNT, 1, 2))
    return Recorded(names, {}, {}, nothing, nothing, nothing, nothing, np.zeros(COUNT, np.int64), ranks_BM2)


def _ranks(**by_name: float | np.ndarray) -> Ranks:
    return {name.replace("_", " "): np.zeros((COUNT, 2)) + np.reshape(rank, (-1, 1)) for name, rank in by_name.items()}


def _found(recorded: Recorded, ranks: list[Ranks], *groups: str) -> dict[str, Any]:
    return outcome(recorded, ranks, groups, 2000, np.random.default_rng(0))


def test_a_real_difference_is_found_and_a_difference_by_chance_is_not(recorded: Recorded) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (2, COUNT)).astype(float)
    ranks = [_ranks(full=noise[0], long_only=20.0, short_only=noise[1])]
    found = {(one["minus"], one["inside"]): one for one in _found(recorded, ranks, "sides")["comparisons"]}
    for inside in (None, RETURNING):
        worse, same = found[LONG_ONLY, inside], found[SHORT_ONLY, inside]
        assert worse["significant"]
        assert 0 < worse["low"] <= worse["difference"] <= worse["high"]
        assert not same["significant"]
        assert same["low"] <= 0 <= same["high"]
    assert found[LONG_ONLY, RETURNING]["labels"] == found[LONG_ONLY, None]["labels"] / 2
    assert found[LONG_ONLY, RETURNING]["users"] == USERS / 2


def test_seeds_are_averaged_by_label_before_they_are_paired(recorded: Recorded) -> None:
    # The seeds differ by a lot and in opposite ways; their mean is the same everywhere, so nothing is uncertain.
    ranks = [_ranks(full=first, session_shuffled=2.0) for first in (0.0, 20.0)]
    result = _found(recorded, ranks, "order")
    one = result["comparisons"][0]
    assert (one["of"], one["minus"]) == (FULL, SHUFFLED)
    assert one["low"] == pytest.approx(one["high"]) == pytest.approx(0.5 - 0.5)
    assert result["models"][FULL]["search"]["by_seed"] == [1.0, 0.0]
    assert result["models"][FULL]["search"]["deviation"] == pytest.approx(0.5**0.5)


def test_the_other_metrics_are_paired_too(recorded: Recorded) -> None:
    ranks = [_ranks(full=first, long_only=20.0, short_only=1.0) for first in (0.0, 3.0)]
    result = _found(recorded, ranks, "sides")
    assert result["models"][FULL]["search"]["hr10"] == 1.0
    assert result["models"][FULL]["search"]["mrr"] == pytest.approx((1 + 1 / 4) / 2)
    worse = result["comparisons"][0]
    assert {name: one["difference"] for name, one in worse["metrics"].items()} == {
        "hr10": pytest.approx(1.0),
        "mrr": pytest.approx((1 + 1 / 4) / 2 - 1 / 21),
    }
    [line] = [
        line for line in comparisons_table(_reported(recorded)).splitlines() if "pre_query | full - long only |" in line
    ]
    assert line.endswith("| +1.000 .. +1.000 | +0.452 .. +0.452 |")


def test_the_correction_is_over_all_differences_of_the_study(recorded: Recorded) -> None:
    result = _found(recorded, [_ranks(full=1.0, long_only=2.0, short_only=2.0, session_shuffled=2.0)], "sides", "order")
    assert len(result["comparisons"]) == 2 * 5
    for one in result["comparisons"]:
        assert one["p_holm"] == pytest.approx(10 * one["p"])


def test_the_baselines_compared_are_the_tasks_own_the_strongest_first(recorded: Recorded) -> None:
    result = _found(recorded, [_ranks(full=0.0)], "baselines")
    assert [(one["task"], one["minus"]) for one in result["comparisons"]] == [
        ("pre_query", "good"), ("pre_query", "bad"), ("search", "own"), ("search", "good"), ("search", "bad"),
    ]  # fmt: skip
    assert "pre_query" not in result["models"]["own"]


def _reported(recorded: Recorded) -> dict[str, Any]:
    result = _found(recorded, [_ranks(full=1.0, long_only=20.0, short_only=1.0)], "sides")
    return result | {"derived": "", "train_labels": 9, "epochs": 1, "seeds": 1, "catalogue": 50, "resamples": 2000}


def test_the_report_says_plainly_what_is_not_significant(recorded: Recorded) -> None:
    lines = comparisons_table(_reported(recorded)).splitlines()
    assert sum("not significant" in line for line in lines) == 4
    assert all("not significant" in line for line in lines if "short only" in line)


@pytest.mark.slow
def test_the_folder_holds_the_result_as_json_and_as_tables(recorded: Recorded, tmp_path: Path) -> None:
    result = _reported(recorded)
    assert {"result.json", "result.md"} <= set(write_study(result, tmp_path))
    assert msgspec.json.decode((tmp_path / "result.json").read_bytes())["comparisons"] == result["comparisons"]
    text = (tmp_path / "result.md").read_text()
    assert comparisons_table(result) in text
    assert models_table(result) in text
    assert "lucky" in text
