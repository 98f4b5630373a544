from dataclasses import replace
from math import exp

import numpy as np
import pytest

from features.decay import MINUTE_MS
from features.delta import Entity
from features.engagement import Coordinate
from features.item_columns import recent_engagement
from features.rows import FOLDS, TARGET_FAMILIES
from features.top_targets import RETENTION_MS
from features.user import UserState, fold_user
from infra.errors import BadInput
from model.examples import Examples, Split, build_examples, split_by_time
from model.negatives import NegativeSampler, TitleIndex
from model.progress import Silent
from model.replay import Replay
from streams.events import to_engagement
from streams.labels import Log
from tests.model.small_log import BEGIN_MS, make_items, make_label, make_log

EVERYTHING = {"train": 1.0, "middle": 1.0, "calibration": 1.0}


def _train_examples(log: Log) -> Examples:
    return build_examples(Replay(log), split_by_time(log), EVERYTHING, (20, 20), np.random.default_rng(0), Silent())[0]


def test_a_label_is_seen_before_any_of_its_own_events() -> None:
    log = make_log(users=5)
    replay = Replay(log)
    for label in replay.labels_until(log.labels[-1].ts_ms + 1):
        recent = replay.context(label).user.recent
        assert all(moment.event_ts_ms < label.ts_ms for moment in recent)
        assert label.item_id not in {moment.item_id for moment in recent}


def test_the_replay_folds_as_the_stream_does() -> None:
    log = make_log(users=8)
    replay = Replay(log)
    replay.fold_until(log.events[-1].event_ts_ms + 1)
    users: dict[str, UserState] = {}
    rows: dict[tuple[Entity, str], object] = {}
    offsets: dict[str, int] = {}
    for event in log.events:
        at = f"{event.topic}-0"
        offsets[at] = offsets.get(at, -1) + 1
        engagement = to_engagement(event, event.event_ts_ms)
        for delta in fold_user(
            users.setdefault(event.user_id, UserState()), Coordinate(at, offsets[at]), engagement
        ).deltas:
            row = rows.setdefault((delta.entity, delta.key), TARGET_FAMILIES[delta.entity].new_state())
            FOLDS[delta.entity](row, delta)
    assert replay.users == users
    assert {
        (entity, key): row for entity, of_entity in replay.targets.items() for key, row in of_entity.items()
    } == rows
    slot = replay.table.slot_by_id["t3"]
    sums = np.array(rows[(Entity.ITEM, "t3")].sums, np.float32)  # type: ignore[attr-defined]
    assert replay.table.sums[slot].tolist() == sums.tolist()


def test_a_context_has_no_row_that_readers_count_as_stale() -> None:
    first = make_label("early", "t1", BEGIN_MS, task="more_like_this", source="t0")
    last_ms = BEGIN_MS + 1 + RETENTION_MS  # the play is the newest that the row of t0 holds
    for asked_ms, titles in ((last_ms, ["t0"]), (last_ms + 1, [])):
        asked = make_label("ann", "t2", asked_ms, task="more_like_this", source="t0")
        replay = Replay(Log(make_items(3), [first, asked]))
        assert [list(replay.context(label).source_rows) for label in replay.labels_until(asked_ms + 1)] == [[], titles]


@pytest.mark.slow
def test_a_planted_future_event_changes_no_earlier_example() -> None:
    log = make_log()
    split = split_by_time(log)
    planted = make_label(log.labels[0].user_id, "t1", split.middle_end_ms + 5, task="search", query="nig")
    later = Log(log.items, sorted([*log.labels, planted], key=lambda label: label.ts_ms))
    plain, with_future = (
        build_examples(Replay(one), split, EVERYTHING, (8, 12), np.random.default_rng(0), Silent())
        for one in (log, later)
    )
    assert np.array_equal(plain.co_vectors_VD, with_future.co_vectors_VD)
    for before, after in zip(plain[:3], with_future[:3], strict=True):
        assert np.array_equal(before.pairs_BKF, after.pairs_BKF)
        assert np.array_equal(before.slots_BK, after.slots_BK)
        for one, other in zip(before.requests, after.requests, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.slow
def test_a_planted_past_event_does_change_later_examples() -> None:
    log = make_log()
    split = split_by_time(log)
    planted = make_label(log.labels[-1].user_id, "t1", log.labels[0].ts_ms + 5)
    earlier = Log(log.items, sorted([*log.labels, planted], key=lambda label: label.ts_ms))
    plain, with_past = (
        build_examples(Replay(one), split, EVERYTHING, (8, 12), np.random.default_rng(0), Silent())[1]
        for one in (log, earlier)
    )
    assert not np.array_equal(plain.pairs_BKF, with_past.pairs_BKF)


def test_negatives_are_different_titles_that_the_user_has_not_engaged() -> None:
    log = make_log(users=10)
    replay = Replay(log)
    sampler = NegativeSampler(replay, np.random.default_rng(0))
    for label in replay.labels_until(log.labels[-1].ts_ms):
        for drawn in (sampler.mixed(label, 16), sampler.uniform(label, 40)):
            own, *negatives = drawn.slots_K.tolist()
            assert own == replay.table.slot(label.item_id)
            assert len(negatives) == len(set(negatives)) > 0
            assert not set(negatives) & ({own, 0} | replay.engaged.get(label.user_id, set()))


def _log_at(*times_ms: int) -> Log:
    labels = [make_label(f"u{place % 7}", f"t{place % 11}", time_ms) for place, time_ms in enumerate(times_ms)]
    return Log(make_log().items[:11], labels)


def test_a_log_is_cut_at_the_times_of_the_labels_that_stand_at_the_shares() -> None:
    log = make_log()
    at = [log.labels[round(share * len(log.labels))].ts_ms for share in (0.2, 0.8, 0.9)]
    assert split_by_time(log) == Split(*at)


def test_days_that_hold_many_labels_leave_no_part_empty() -> None:
    days = [day * 86_400_000 for day in range(5) for _ in range(80)]
    assert split_by_time(_log_at(*days)) == Split(86_400_000, 3 * 86_400_000, 4 * 86_400_000)
    # Both cuts fall on the third time: the later one moves on.
    assert split_by_time(_log_at(*[1] * 3, *[2] * 3, *[3] * 13, 4)) == Split(2, 3, 4)
    # There is no later time to move on to: the earlier ones move back.
    assert split_by_time(_log_at(1, 2, *[3] * 20)) == Split(1, 2, 3)


def test_a_log_of_fewer_times_than_parts_is_refused() -> None:
    with pytest.raises(BadInput, match="have 2 different times"):
        split_by_time(_log_at(*[1] * 20, *[2] * 20))
    with pytest.raises(BadInput, match="have 0 different times"):
        split_by_time(_log_at())


@pytest.mark.parametrize("titles", [12, 60, 400])
def test_uniform_negatives_stand_for_all_titles_that_could_have_been_drawn(titles: int) -> None:
    log = make_log(users=6, titles=titles, labels_per_user=10)
    replay = Replay(log)
    sampler = NegativeSampler(replay, np.random.default_rng(0))
    for label in replay.labels_until(log.labels[-1].ts_ms + 1):
        drawn = sampler.uniform(label, 100)
        possible = titles - len(replay.engaged.get(label.user_id, set()) | {replay.table.slot(label.item_id)})
        assert (1 / drawn.rates_K[1:]).sum() == pytest.approx(possible)
        assert drawn.rates_K.min() > 0
        assert drawn.rates_K.max() <= 1


def test_where_no_title_is_left_to_draw_the_own_one_stands_alone() -> None:
    replay = Replay(make_log(users=1, titles=1, labels_per_user=1))
    drawn = NegativeSampler(replay, np.random.default_rng(0)).uniform(
        make_log(titles=1, labels_per_user=1).labels[0], 9
    )
    assert (drawn.slots_K.tolist(), drawn.rates_K.tolist()) == ([1], [1.0])


def test_the_stated_rates_are_how_often_titles_are_drawn() -> None:
    log = make_log(users=20, titles=200)
    replay = Replay(log)
    replay.fold_until(log.events[-1].event_ts_ms + 1)
    newcomer = replace(log.labels[0], user_id="newcomer", task="search", query="nig", item_id="t1")
    sampler = NegativeSampler(replay, np.random.default_rng(0))
    draws = [sampler.mixed(newcomer, 16) for _ in range(1500)]
    drawn = np.bincount(np.concatenate([draw.slots_K[1:] for draw in draws]), minlength=201) / len(draws)
    stated = {
        slot: rate for draw in draws for slot, rate in zip(draw.slots_K.tolist(), draw.rates_K.tolist(), strict=True)
    }
    hard = set(TitleIndex(replay.table).matches("nig").tolist())
    for group in (hard, set(stated) - hard):
        slots = sorted(group - {replay.table.slot("t1")})
        assert sum(drawn[slot] for slot in slots) == pytest.approx(sum(stated[slot] for slot in slots), rel=0.1)


def test_a_quarter_of_the_negatives_are_what_is_clicked_and_played_just_now() -> None:
    log = make_log(users=10, titles=400)
    replay = Replay(log)
    newcomer = replace(log.labels[0], user_id="newcomer", task="pre_query", query=None, source_item_id=None)
    now_ms = log.events[-1].event_ts_ms + 30 * MINUTE_MS
    replay.fold_until(now_ms)
    recent = recent_engagement(replay.table, np.arange(len(replay.table)), now_ms)
    hottest = int(recent.argmax())
    sampler = NegativeSampler(replay, np.random.default_rng(0))
    draws = [sampler.mixed(replace(newcomer, ts_ms=now_ms), 16) for _ in range(500)]
    rates = [rate for draw in draws for rate in draw.rates_K[draw.slots_K == hottest].tolist()]
    assert rates
    assert min(rates) == pytest.approx(1 - exp(-4 * recent[hottest] / recent.sum()), rel=0.2)
    held = sum(hottest in draw.slots_K for draw in draws) / len(draws)
    assert held == pytest.approx(float(np.mean(rates)), rel=0.2)


def test_search_negatives_match_what_was_typed() -> None:
    log = make_log(titles=200)
    replay = Replay(log)
    matches = TitleIndex(replay.table).matches("nig").tolist()
    assert matches
    assert all(any(word.startswith("nig") for word in replay.table.titles[slot].split()) for slot in matches)
    label = replace(log.labels[0], task="search", query="nig", item_id="t1")
    drawn = NegativeSampler(replay, np.random.default_rng(0)).mixed(label, 40).slots_K.tolist()
    assert len(set(drawn) & set(matches)) >= 5


def test_examples_hold_one_label_and_pad_with_the_null_title() -> None:
    examples = _train_examples(make_log(users=20, titles=24, labels_per_user=5))
    assert len(examples) > 0
    assert not examples.labels_BK[:, 1:].any()
    assert 0 < examples.labels_BK[:, 0].mean() < 1
    padded = examples.slots_BK == 0
    assert padded.any()
    assert not examples.pairs_BKF[padded].any()


def test_the_split_is_by_time_and_in_the_stated_shares() -> None:
    log = make_log()
    split = split_by_time(log)
    times = np.array([label.ts_ms for label in log.labels])
    assert (times < split.train_end_ms).mean() == pytest.approx(0.8, abs=0.01)
    assert (times < split.middle_end_ms).mean() == pytest.approx(0.9, abs=0.01)
    assert split.warm_up_end_ms < split.train_end_ms < split.middle_end_ms
