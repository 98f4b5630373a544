"""What a rebuild may fold, and what it refuses."""

import pytest

from infra.errors import CheckpointInvalid, NowrankError
from streams.audit.log_reader import LogSpan
from streams.audit.store_snapshot import LAST_ORDINAL, StoreSnapshot
from streams.checkpoints import Checkpoint
from streams.rebuilding.plan import RebuildPlan, plan_rebuild, refuse_strange_deltas

SPANS = {
    "plays-0": LogSpan("plays", 0, 0, 100),
    "clicks-0": LogSpan("clicks", 0, 20, 50),
    "deltas-0": LogSpan("deltas", 0, 0, 10),
}
IDS = {"plays": "p", "clicks": "c", "deltas": "d"}


def live(**changed: Checkpoint) -> StoreSnapshot:
    session = {"plays-0": Checkpoint(90, 0, "p"), "clicks-0": Checkpoint(40, 20, "c")}
    target = {"deltas-0": Checkpoint(9, 0, "d", {"plays-0": (80, 1)})}
    for log, checkpoint in changed.items():
        (target if log.startswith("deltas") else session)[log.replace("_", "-")] = checkpoint
    return StoreSnapshot(b"g", session, target, {})


def test_a_plan_folds_each_log_from_its_first_record() -> None:
    plan = plan_rebuild(live(), SPANS, IDS, None)
    assert plan == RebuildPlan(
        {"plays-0": Checkpoint(0, 0, "p"), "clicks-0": Checkpoint(20, 20, "c")},
        {"deltas-0": Checkpoint(0, 0, "d")},
        frozenset({"plays-0", "clicks-0"}),
    )


def test_a_plan_from_an_offset_makes_earlier_deltas_pass_for_repeats() -> None:
    plan = plan_rebuild(live(), SPANS, IDS, {"plays-0": 30, "clicks-0": 20})
    assert plan.begin == {"plays-0": 30}
    assert plan.session["plays-0"] == Checkpoint(30, 30, "p")
    assert plan.target["deltas-0"].highest == {"plays-0": (29, LAST_ORDINAL)}


def test_without_a_delta_log_that_holds_their_deltas_no_events_are_folded() -> None:
    plan = plan_rebuild(live(), SPANS, {**IDS, "deltas": "new"}, None)
    assert plan.usable == frozenset()
    assert plan.session == {}
    assert "the delta log is a new one" in plan.notes[0]


def test_what_already_stands_in_a_new_delta_log_is_left_out() -> None:
    replaced = {"plays": "new", "clicks": "new", "deltas": "new"}
    assert plan_rebuild(live(), SPANS, replaced, None).target == {"deltas-0": Checkpoint(10, 10, "new")}


def test_an_event_log_made_anew_beside_an_old_delta_log_is_refused() -> None:
    with pytest.raises(NowrankError, match="holds deltas of an earlier log"):
        plan_rebuild(live(), SPANS, {**IDS, "plays": "new"}, None)
    with pytest.raises(NowrankError, match="plays-0 does not hold the event at 200"):
        refuse_strange_deltas({"deltas-0": {"plays-0": (200, 0)}}, SPANS)
    refuse_strange_deltas({"deltas-0": {"plays-0": (200, LAST_ORDINAL), "clicks-0": (49, 3)}}, SPANS)


def test_forgetting_what_the_log_has_lost_must_be_said() -> None:
    held = live(clicks_0=Checkpoint(40, 0, "c"))
    with pytest.raises(NowrankError, match=r"20 records that the log no longer has \(clicks-0\)"):
        plan_rebuild(held, SPANS, IDS, None)
    assert plan_rebuild(held, SPANS, IDS, {"plays-0": 0, "clicks-0": 20}).begin == {}


def test_a_log_whose_checkpoint_is_damaged_is_left_to_the_workers_whose_deltas_are_recognised() -> None:
    held = live(clicks_0=Checkpoint(40, 20, "c"))
    del held.session["clicks-0"]
    held.damaged_checkpoints.append(CheckpointInvalid("of clicks-0", "rubbish"))
    spans = {**SPANS, "clicks-0": LogSpan("clicks", 0, 0, 50)}
    plan = plan_rebuild(held, spans, IDS, None)
    assert plan.session == {"plays-0": Checkpoint(0, 0, "p")}
    assert plan.target == {"deltas-0": Checkpoint(0, 0, "d")}
    assert "the checkpoint of clicks-0 cannot be decoded" in plan.notes[0]


def test_without_any_sound_checkpoint_of_the_delta_log_it_is_folded_from_its_first_record() -> None:
    held = live()
    held.target.clear()
    held.damaged_checkpoints.append(CheckpointInvalid("nowrank:checkpoint:target", "rubbish"))
    plan = plan_rebuild(held, SPANS, IDS, None)
    assert plan.usable == {"plays-0", "clicks-0"}
    assert plan.target == {"deltas-0": Checkpoint(0, 0, "d")}


def test_what_the_rows_may_have_held_of_a_log_with_a_damaged_checkpoint_is_not_forgotten_silently() -> None:
    held = live()
    del held.session["clicks-0"]
    held.damaged_checkpoints.append(CheckpointInvalid("of clicks-0", "rubbish"))
    with pytest.raises(NowrankError, match=r"20 records that the log no longer has \(clicks-0\)"):
        plan_rebuild(held, SPANS, IDS, None)
    assert plan_rebuild(held, SPANS, IDS, {"plays-0": 0, "clicks-0": 20}).session["clicks-0"] == Checkpoint(20, 20, "c")
