from dataclasses import replace

import numpy as np
import pytest
import torch

from features.vector import COLUMN_NAMES, COLUMNS
from model.config import SWITCHES, Personalisation, UnicornConfig
from model.switches import seen_columns
from tests.model.random_requests import Feed, loud_model, random_inputs, run_graph, to_feed

WHOLE = UnicornConfig()
IS_OWN = np.array([column.part != "context" for column in COLUMNS])


def _seen(config: UnicornConfig) -> set[str]:
    return {name for name, is_seen in zip(COLUMN_NAMES, seen_columns(config), strict=True) if is_seen}


def _logits(config: UnicornConfig, feed: Feed) -> list[float]:
    logits: list[float] = run_graph(loud_model(config), feed).logits.tolist()
    return logits


def test_each_stage_sees_the_columns_of_the_one_before_it_and_more() -> None:
    none, clusters, scores, full = (_seen(replace(WHOLE, personalisation=stage)) for stage in Personalisation)
    assert none == clusters == {column.name for column in COLUMNS if column.part == "context"}
    assert scores - none == {"user_similarity", "session_similarity", "user_ease", "session_ease"}
    assert full == set(COLUMN_NAMES)


def test_a_side_that_is_left_out_takes_its_columns_along() -> None:
    for side in ("long", "short"):
        gone = set(COLUMN_NAMES) - _seen(replace(WHOLE, **{side: False}))
        assert gone == {column.name for column in COLUMNS if column.part == side}


def test_without_counts_only_what_is_counted_for_anybody_is_gone() -> None:
    gone = set(COLUMN_NAMES) - _seen(replace(WHOLE, streaming_counts=False))
    assert {"item_plays_1d", "item_completion_rate", "query_clicks", "source_item_plays", "session_next"} <= gone
    assert not gone & {"item_age_days", "title_exact", "source_similarity", "user_title_weight", "session_engagements"}


# Where titles begin is a switch of the training.
@pytest.mark.parametrize("switch", sorted({*SWITCHES.values()} - {"co_vectors"}))
def test_every_switch_changes_what_the_network_says(switch: str) -> None:
    feed = to_feed(random_inputs(source=0)._replace(task=2, query_flags_2=np.array([0.2, 1.0], np.float32)))
    assert _logits(replace(WHOLE, **{switch: False}), feed) != pytest.approx(_logits(WHOLE, feed), abs=1e-4)


@pytest.mark.parametrize(("side", "length"), [("long", "history_"), ("short", "session_")])
def test_a_side_that_is_left_out_is_not_read(side: str, length: str) -> None:
    config = replace(WHOLE, **{side: False})
    feed = to_feed(random_inputs())
    other = feed | {name: np.ones_like(feed[name]) for name in feed if name.startswith(length)}
    assert _logits(config, feed) == _logits(config, other)


def test_without_imputation_the_stand_in_for_a_query_is_not_read_but_a_query_is() -> None:
    config = replace(WHOLE, imputation=False)

    def logits(imputed: float, query: int) -> list[float]:
        flags = np.array([0.2, imputed], np.float32)
        return _logits(config, to_feed(random_inputs(query=query)._replace(task=2, query_flags_2=flags)))

    assert logits(1.0, 4) == logits(1.0, 9)
    assert logits(0.0, 4) != logits(0.0, 9)


def test_without_the_task_feature_tasks_differ_in_nothing_but_the_guard() -> None:
    feed = to_feed(random_inputs())
    for task_feature in (False, True):
        config = replace(WHOLE, task_feature=task_feature)
        first, second = (_logits(config, feed | {"task": np.array([task])}) for task in (0, 2))
        assert (first == second) is not task_feature


def test_a_network_without_crossing_has_no_cross_layers() -> None:
    model = loud_model(replace(WHOLE, crossing=False))
    assert len(model.cross) == 0
    assert torch.isfinite(run_graph(model, to_feed(random_inputs())).logits).all()


def test_clusters_give_members_of_one_cluster_the_same_and_others_something_else() -> None:
    model = loud_model(UnicornConfig(personalisation=Personalisation.CLUSTERS))
    by_cluster: dict[int, set[tuple[float, ...]]] = {}
    for seed in range(60):
        feed = to_feed(random_inputs(seed % 4, 1 + seed % 7, seed=seed)._replace(task=0))
        shared = to_feed(random_inputs(seed=0)._replace(task=0))
        members = {name: feed[name] for name in feed if name.startswith(("session_", "history_"))}
        pairs = np.where(IS_OWN, np.float32(seed), shared["pairs"])
        found = run_graph(model, shared | members | {"pairs": pairs})
        by_cluster.setdefault(int(found.cluster[0]), set()).add(tuple(found.logits.tolist()))
    assert len(by_cluster) > 3
    assert all(len(scores) == 1 for scores in by_cluster.values())
    assert len(set.union(*by_cluster.values())) == len(by_cluster)


def test_scores_add_what_other_recommenders_say_and_nothing_else() -> None:
    model = loud_model(UnicornConfig(personalisation=Personalisation.SCORES))
    feed = to_feed(random_inputs()._replace(task=0))
    before = run_graph(model, feed).logits

    def with_column(name: str) -> np.ndarray:
        pairs = feed["pairs"].copy()
        pairs[:, COLUMN_NAMES.index(name)] += 1.0
        return run_graph(model, feed | {"pairs": pairs}).logits

    for name in ("user_ease", "session_ease", "user_similarity", "session_similarity"):
        assert not np.allclose(with_column(name), before, atol=1e-4)
    for name in ("user_genres", "session_engagements", "user_thumb"):
        assert with_column(name).tolist() == before.tolist()
    assert run_graph(model, feed | {"session_vectors": -feed["session_vectors"]}).logits.tolist() == before.tolist()


def test_a_network_that_is_not_personal_gives_everyone_the_same() -> None:
    model = loud_model(UnicornConfig(personalisation=Personalisation.NONE))
    for task in range(3):
        feed = to_feed(random_inputs(seed=1)._replace(task=task))
        masks = {name: np.zeros_like(feed[name]) for name in ("session_mask", "history_mask")}
        other = feed | masks | {"pairs": np.where(IS_OWN, np.float32(9.0), feed["pairs"])}
        first, second = run_graph(model, feed), run_graph(model, other)
        assert first.logits.tolist() == second.logits.tolist()
        assert first.cluster.tolist() == [0]
