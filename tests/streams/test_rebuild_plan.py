"""What a rebuild may fold, and what it refuses."""

import pytest

from infra.errors import NowrankError
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
