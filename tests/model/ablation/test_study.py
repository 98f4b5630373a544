"""A whole study on a small log: what it trains, keeps, and takes up again."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.vector import COLUMN_NAMES, COLUMNS
from infra.errors import BadInput
from model.ablation.question import Question
from model.ablation.requests import Recorded, read_recorded
from model.ablation.study import DATA_SET, NETWORKS, REQUESTS, run_study
from model.ablation.variants import FULL, PER_TASK, SHUFFLED
from model.data_set import read_data_set
from model.evaluate import Scope, evaluate_artifact
from model.progress import Lines, Silent
from model.train import train_on_data_set
from streams.labels import Log
from tests.model.conftest import SMALL

pytestmark = pytest.mark.slow

QUESTION = Question(("tasks", "order", "baselines"), seeds=1, max_labels=8, resamples=50, config=SMALL)
IS_SHORT = np.array([column.part == "short" for column in COLUMNS])


@pytest.fixture(scope="module")
def study(small_log: Log, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a study and its result."""
    folder = tmp_path_factory.mktemp("study")
    return folder, run_study(small_log, QUESTION, folder, Silent())


@pytest.fixture(scope="module")
def recorded(study: tuple[Path, dict[str, Any]]) -> Recorded:
    """Its requests."""
    return read_recorded(study[0] / REQUESTS)


def _without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "took_s"}


def test_the_whole_network_ranks_as_its_artifact_does(
    study: tuple[Path, dict[str, Any]], small_log: Log, tmp_path: Path
) -> None:
    folder, result = study
    train_on_data_set(read_data_set(folder / DATA_SET), tmp_path / "artifact", config=SMALL, budget_s=1e9)
    evaluated = evaluate_artifact(small_log, tmp_path / "artifact", Scope(max_labels=8, resamples=10))
    for task, of_task in evaluated["tasks"].items():
        assert result["models"][FULL][task]["ndcg10"] == pytest.approx(of_task["unicorn"]["ndcg10"], abs=1e-6)
        assert result["models"]["blend"][task]["ndcg10"] == pytest.approx(of_task["blend"]["ndcg10"])


def test_one_network_per_task_ranks_every_label(study: tuple[Path, dict[str, Any]], recorded: Recorded) -> None:
    folder, result = study
    assert len(list((folder / NETWORKS).glob("one-network-per-task-0-*.safetensors"))) == len(result["labels"]) == 3
    assert set(result["models"][PER_TASK]) == set(recorded.names.tasks)


def test_a_shuffled_session_holds_the_same_events_and_changes_nothing_else(recorded: Recorded) -> None:
    moved = 0
    for row in range(len(recorded)):
        was, mixed = (recorded.examples(row, shuffled) for shuffled in (False, True))
        # Of a session longer than the network reads, others are the newest; what is counted is counted of the whole.
        for column in ("session_engagements", "session_genres"):
            place = COLUMN_NAMES.index(column)
            assert was.pairs_BKF[..., place] == pytest.approx(mixed.pairs_BKF[..., place], abs=1e-5)
        assert np.array_equal(was.requests["session_gaps_L"], mixed.requests["session_gaps_L"])
        assert np.array_equal(was.pairs_BKF[..., ~IS_SHORT], mixed.pairs_BKF[..., ~IS_SHORT])
        before, after = (one.requests["session_slots_L"][0] for one in (was, mixed))
        if (before > 0).sum() < len(before):
            assert Counter(before.tolist()) == Counter(after.tolist())
        moved += not np.array_equal(before, after)
    assert moved > len(recorded) / 4


def test_a_study_that_is_done_trains_nothing_again(study: tuple[Path, dict[str, Any]], small_log: Log) -> None:
    folder, result = study
    said: list[str] = []
    again = run_study(small_log, QUESTION, folder, Lines(said.append))
    assert not any(line.startswith("epoch") for line in said)
    assert _without_time(again) == _without_time(result)


def test_an_interrupted_study_goes_on_to_the_same_result(study: tuple[Path, dict[str, Any]], small_log: Log) -> None:
    folder, result = study
    (folder / NETWORKS / "full-0.npz").unlink()
    said: list[str] = []
    again = run_study(small_log, QUESTION, folder, Lines(said.append))
    assert sum(line.startswith("epoch 1 ") for line in said) == 1
    assert _without_time(again) == _without_time(result)


def test_shuffled_sessions_are_ranked_only_when_they_are_asked_for(
    study: tuple[Path, dict[str, Any]], small_log: Log
) -> None:
    folder, result = study
    (folder / NETWORKS / "full-0.npz").unlink()
    without = run_study(small_log, replace(QUESTION, groups=("baselines",)), folder, Silent())
    assert SHUFFLED not in without["models"]
    assert _without_time(run_study(small_log, QUESTION, folder, Silent())) == _without_time(result)


def test_another_configuration_is_refused_in_the_same_folder(
    study: tuple[Path, dict[str, Any]], small_log: Log
) -> None:
    other = replace(QUESTION, config=replace(SMALL, learning_rate=0.5))
    with pytest.raises(BadInput, match="another log, configuration or draw"):
        run_study(small_log, other, study[0], Silent())


def test_a_folder_of_other_files_is_left_alone(small_log: Log, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(BadInput, match="holds other files"):
        run_study(small_log, QUESTION, tmp_path, Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
