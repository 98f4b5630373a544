"""Baselines whose model is fitted: what they score with, and what they may have seen."""

from dataclasses import replace

import numpy as np
import pytest

from model.baselines import BUDGET, TIE_BREAK, Fitted
from model.evaluate import Scope, fitted_baselines, log_parts
from model.ials_baseline import FittedIals, Ials
from model.moments import Moment, RecentCounts
from model.progress import Silent
from model.replay import Replay
from model.sasrec_baseline import FittedSasrec, training_histories
from streams.labels import Log
from tests.model.small_log import make_label, make_log

SETTING = (8, 10.0, 1.0)


def moment_at(replay: Replay, user_id: str) -> Moment:
    """A request at the replay's time, with all titles of the catalogue as candidates."""
    label = make_label(user_id, "t0", replay.counted_ms[-1] + 1_000)
    return Moment(replay, RecentCounts(replay), label, replay.context(label), np.arange(1, len(replay.table)))


def folded(log: Log) -> Replay:
    """The whole log."""
    replay = Replay(log)
    replay.fold_until(log.events[-1].event_ts_ms + 1)
    return replay


def test_a_users_factors_are_the_weighted_least_squares_answer() -> None:
    replay = folded(make_log())
    size, engaged = len(replay.table), replay.engaged
    ials = Ials(engaged.values(), size, [SETTING])
    items_VD = ials._models[SETTING].item_factors.astype(np.float64)
    p_V = np.zeros(size)
    p_V[list(engaged["u0"])] = 1.0
    c_V = np.where(p_V > 0, SETTING[1], 1.0)
    gram_DD = items_VD.T @ (c_V[:, None] * items_VD) + SETTING[2] * np.eye(SETTING[0])
    user_D = np.linalg.solve(gram_DD, items_VD.T @ (c_V * p_V))
    moment = moment_at(replay, "u0")
    assert ials.scores(moment, SETTING) == pytest.approx(items_VD[moment.slots_N] @ user_D, abs=1e-4)


def test_factors_find_a_members_taste() -> None:
    replay = folded(make_log())
    moment = moment_at(replay, "u0")
    scores_N = Ials(replay.engaged.values(), len(replay.table), [SETTING]).scores(moment, SETTING)
    genres = [replay.table.items[slot].genres[0] for slot in moment.slots_N]  # type: ignore[union-attr]
    taken = [replay.table.items[slot].genres[0] for slot in replay.engaged["u0"]]  # type: ignore[union-attr]
    own = np.array([genre == max(taken, key=taken.count) for genre in genres])
    assert scores_N[own].mean() > scores_N[~own].mean() + 0.1


def small_sasrec(log: Log, monkeypatch: pytest.MonkeyPatch) -> FittedSasrec:
    """One setting, one epoch."""
    monkeypatch.setattr("model.sasrec_baseline.GRID", ((0.2, None),))
    monkeypatch.setattr("model.sasrec_baseline.BUDGET_S", 0.0)
    return FittedSasrec(log, log_parts(log).train_end_ms, 0, Silent())


@pytest.mark.parametrize("name", ["ials", "sasrec"])
def test_whoever_has_no_title_yet_gets_what_is_popular(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(users=10)
    replay = folded(log)
    fitted: Fitted = FittedIals() if name == "ials" else small_sasrec(log, monkeypatch)
    newcomer, known = moment_at(replay, "newcomer"), moment_at(replay, "u0")
    for _ in range(2):  # before it is fitted, and after
        setting = fitted.family.grid[0]
        assert fitted.family.scores(newcomer, *setting) == pytest.approx(TIE_BREAK * newcomer.plays_N)
        fitted.fit(replay, [setting])
    assert fitted.family.scores(known, *setting) != pytest.approx(TIE_BREAK * known.plays_N)
    assert np.isfinite(fitted.family.scores(known, *setting)).all()
    assert 1 <= len(fitted.family.grid) <= BUDGET


def test_titles_that_came_after_the_fit_score_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(users=10)
    replay = folded(log)
    families = [FittedIals(), small_sasrec(log, monkeypatch)]
    for one in families:
        one.fit(replay, one.family.grid[:1])
    new = replay.table.slot("unheard")
    replay.engaged["u0"].add(new)
    moment = replace(moment_at(replay, "u0"), slots_N=np.array([1, new]))
    for one in families:
        assert one.family.scores(moment, *one.family.grid[0])[1] == 0.0


def test_sasrec_sees_the_training_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(users=10)
    end_ms = log_parts(log).train_end_ms
    planted = make_label("u9", "t5", end_ms)
    later = Log(log.items, sorted([*log.labels, planted], key=lambda label: label.ts_ms))
    plain, with_future = (training_histories(one, end_ms, Replay(one).table) for one in (log, later))
    assert plain.fingerprint() == with_future.fingerprint()
    trained = [label for label in log.labels if label.ts_ms < end_ms]
    titles = dict.fromkeys(plain.titles[item - 1] for item in plain.items_N[: plain.begins_U1[1]])
    assert list(titles) == [label.item_id for label in trained if label.user_id == plain.users[0]]
    sasrec = small_sasrec(log, monkeypatch)
    replay = folded(log)
    moment = moment_at(replay, "u0")
    setting = sasrec.family.grid[0]
    sasrec.fit(replay, [setting])
    before = sasrec.family.scores(moment, *setting)
    sasrec.fit(replay, [setting])
    assert np.array_equal(before, sasrec.family.scores(moment, *setting))


def reasons(log: Log, *without: str) -> tuple[list[str], dict[str, str]]:
    """The names of what is fitted, and why the others are not."""
    fitted, left_out = fitted_baselines(log, log_parts(log), Scope(without=without), Silent())
    return [one.family.name for one in fitted], left_out


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(users=5)
    assert reasons(log) == (["ease", "ials", "sasrec"], {})
    assert reasons(log, "sasrec") == (["ease", "ials"], {"sasrec": "not asked for"})
    assert reasons(log, "ials", "sasrec")[0] == ["ease"]
    monkeypatch.setattr("model.evaluate.MOST_SCORES", 1)
    monkeypatch.setattr("model.ials_baseline.LIBRARY", "no_such_library")
    names, left_out = reasons(log)
    assert names == ["ease"]
    assert "too long" in left_out["sasrec"]
    assert "pip install" in left_out["ials"]
