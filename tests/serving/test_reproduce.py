"""A logged answer, scored again: equal to the last bit, or said to be different."""

import uuid
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from features.catalogue import Item
from features.engagement import Kind, Task
from features.item_table import ItemTable
from features.model_inputs import RequestInputs, pack_inputs, request_inputs, unpack_inputs
from features.vector import COLUMN_NAMES, Context
from infra.clock import now_ms
from infra.errors import NowrankError
from infra.settings import Settings
from model.artifact import load_artifact
from nowrank.cli import main
from serving.fallback import popularity_scores
from serving.process import ScorerProcess
from serving.reproduce import Titles, find_ranking, read_titles, reproduce, reproduce_logged
from streams.audit.log_reader import LogReader
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import World, make_items, running_scorer, wait_for_ranking, wait_until

pytestmark = pytest.mark.slow


def ask_and_log(client: httpx.Client, settings: Settings, **fields: object) -> str:
    """The id of an answer, once it is in the log."""
    ranking_id = str(uuid.uuid4())
    asked = {"user_id": "ann", "task": "pre_query", "id": ranking_id, **fields}
    assert client.post("/rank", json=asked).status_code == 200
    wait_for_ranking(settings, ranking_id)
    return ranking_id


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"task": "search", "query": "Far"},
        {"task": "more_like_this", "source_item_id": "t1"},
        {"items": ["t1", "nobody-knows-this"]},
        {"user_id": "never-seen", "limit": 1},
    ],
)
def test_every_task_gives_the_logged_scores_again(
    client: httpx.Client, world_settings: Settings, fields: dict[str, object]
) -> None:
    ranking_id = ask_and_log(client, world_settings, **fields)
    ranking, scores = reproduce_logged(world_settings, ranking_id)
    assert [one.item_id for one in scores] == [item.item_id for item in ranking.items]
    assert all(one.is_equal for one in scores)


def test_a_score_that_was_logged_otherwise_is_found(client: httpx.Client, world_settings: Settings) -> None:
    ranking_id = ask_and_log(client, world_settings)
    artifact = load_artifact(world_settings.artifact_path)
    with LogReader(world_settings) as reader:
        ranking = find_ranking(reader, ranking_id)
        titles = read_titles(reader, artifact, ranking.event_ts_ms)
    first = msgspec.structs.replace(ranking.items[0], score=np.nextafter(np.float32(ranking.items[0].score), 9).item())
    changed = msgspec.structs.replace(ranking, items=[first, *ranking.items[1:]])
    assert [one.is_equal for one in reproduce(changed, artifact, titles)] == [False] + [True] * 19


def test_a_score_of_a_title_that_has_changed_since_is_told_from_one_that_should_be_equal(
    client: httpx.Client, world_settings: Settings
) -> None:
    ranking_id = ask_and_log(client, world_settings, task="more_like_this", source_item_id="t1")
    artifact = load_artifact(world_settings.artifact_path)
    with LogReader(world_settings) as reader:
        ranking = find_ranking(reader, ranking_id)
        table = read_titles(reader, artifact, ranking.event_ts_ms).table
    first = ranking.items[0].item_id

    def differing(changed: str) -> list[tuple[str, bool]]:
        scores = reproduce(ranking, artifact, Titles(table, {changed}))
        return [(one.item_id, one.has_changed) for one in scores if not one.is_equal]

    assert differing(first) == []  # written again as it was
    table.set_item(Item(item_id=first, title="Something Else Entirely", genres=("Other",)))
    assert differing(first) == [(first, True)]
    assert differing("t-of-another-answer") == [(first, False)]
    table.set_item(Item(item_id="t1", title="Another Source", genres=("Other",)))
    assert all(has_changed for _, has_changed in differing("t1"))  # all titles were compared with it
    assert len(differing("t1")) > 1


def test_another_model_is_refused(client: httpx.Client, world_settings: Settings, tmp_path: Path) -> None:
    ranking_id = ask_and_log(client, world_settings)
    save_untrained_artifact(tmp_path / "other", make_items()[:30])
    with pytest.raises(NowrankError, match="give its folder with --artifact"):
        reproduce_logged(world_settings, ranking_id, tmp_path / "other")


def test_an_answer_without_a_model_is_reproduced_without_one(world_settings: Settings, tmp_path: Path) -> None:
    settings = replace(world_settings, artifact_dir=str(tmp_path / "none"))
    with running_scorer(settings) as (process, client):
        assert isinstance(process, ScorerProcess)
        wait_until(lambda: process.library.titles_count)
        ranking_id = ask_and_log(client, settings)
    ranking, scores = reproduce_logged(settings, ranking_id)
    assert ranking.model == "popularity"
    assert all(one.is_equal for one in scores)


@pytest.mark.parametrize("task", list(Task))
def test_a_title_without_a_model_scores_the_same_whatever_is_scored_with_it(task: Task) -> None:
    pairs_NF = 3 * np.random.default_rng(5).random((500, len(COLUMN_NAMES)), np.float32)
    scores_N = popularity_scores(pairs_NF, task)
    alone = [popularity_scores(pairs_NF[[row]], task)[0] for row in range(500)]
    assert alone == scores_N.tolist()
    assert popularity_scores(np.asfortranarray(pairs_NF[7:10]), task).tolist() == scores_N[7:10].tolist()


def test_the_command_compares_and_names_what_it_cannot_find(
    client: httpx.Client, world_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranking_id = ask_and_log(client, world_settings)
    monkeypatch.setenv("NOWRANK_KAFKA", world_settings.kafka)
    assert main(["reproduce", ranking_id, "--artifact", str(world_settings.artifact_path)]) == 0
    assert "equal, bit for bit" in capsys.readouterr().out
    assert main(["reproduce", "no-such-ranking", "--artifact", str(world_settings.artifact_path)]) != 0
    refused = capsys.readouterr().err
    assert "the log holds no ranking 'no-such-ranking'" in refused
    assert "`nowrank rank` without --log" in refused


def test_inputs_survive_the_log_in_another_table(world: World) -> None:
    table, other = ItemTable(), ItemTable()
    for item in make_items():
        table.set_item(item)
    for item in reversed(make_items()):
        other.set_item(item)
    world.engage("packer", "t50", Kind.CLICK)
    world.engage("packer", "t51")
    context = Context(task=Task.MORE_LIKE_THIS, now_ms=now_ms(), user=world.user("packer"), source_item_id="t5")
    inputs = request_inputs(table, context)
    again = unpack_inputs(other, pack_inputs(table, inputs))
    assert inputs.session_slots_L.any()
    for name, one, two in zip(RequestInputs._fields, inputs, again, strict=True):
        if name.endswith(("slots_L", "slots_T")):
            assert [table.ids[slot] for slot in one] == [other.ids[slot] for slot in two]
        elif name == "source_slot":
            assert (table.ids[one], other.ids[two]) == ("t5", "t5")
        else:
            assert np.array_equal(one, two), name
