"""What was shown and what became of it: attribution, versions, and what a row forgets."""

import random

import msgspec

from features.engagement import Engagement, Kind, Thumb
from features.shown import KEPT_MS, REACTION_CAPACITY, SHOWN_CAPACITY, ListOutcome, ShownState, fold_shown, join_state

BEGIN_MS = 1_700_000_000_000
WINDOW_MS = 1_800_000
MINUTE_MS = 60_000


def engagement(kind: Kind, name: str, at_ms: int, item_id: str = "", **more: object) -> Engagement:
    return Engagement(
        kind=kind, event_id=name, user_id="u", event_ts_ms=BEGIN_MS + at_ms, ingested_ts_ms=BEGIN_MS + at_ms,
        item_id=item_id, **more,  # type: ignore[arg-type]
    )  # fmt: skip


class Member:
    """One user's row, fed by name."""

    def __init__(self) -> None:
        self.state = ShownState()

    def sees(self, name: str, at_ms: int, *item_ids: str) -> None:
        fold_shown(self.state, "rankings-0", engagement(Kind.IMPRESSION, name, at_ms, impressions=item_ids), None)

    def clicks(self, item_id: str, at_ms: int, ranking_id: str | None = None, log: str = "clicks-0") -> None:
        fold_shown(self.state, log, engagement(Kind.CLICK, f"{log}-{item_id}-{at_ms}", at_ms, item_id), ranking_id)

    def plays(self, item_id: str, at_ms: int, watched_ms: int, ranking_id: str | None = None) -> None:
        length = {"watched_ms": watched_ms, "duration_ms": 7_200_000}
        played = engagement(Kind.PLAY, f"play-{item_id}-{at_ms}", at_ms, item_id, **length)
        fold_shown(self.state, "plays-0", played, ranking_id)

    def thumbs(self, item_id: str, at_ms: int, thumb: Thumb, ranking_id: str | None = None) -> None:
        said = engagement(Kind.THUMB, f"thumb-{item_id}-{at_ms}", at_ms, item_id, thumb=thumb)
        fold_shown(self.state, "thumbs-0", said, ranking_id)

    def outcomes(self) -> dict[str, ListOutcome]:
        return join_state(self.state, WINDOW_MS)


def test_a_click_belongs_to_the_newest_list_that_showed_its_title_before_it() -> None:
    member = Member()
    member.sees("r1", 0, "a", "b")
    member.sees("r2", MINUTE_MS, "a", "c")
    member.sees("r3", 2 * MINUTE_MS, "c")
    member.sees("r4", 4 * MINUTE_MS, "a")
    member.clicks("a", 3 * MINUTE_MS)
    outcomes = member.outcomes()
    assert outcomes["r2"].items["a"].clicked
    assert [name for name, outcome in outcomes.items() if outcome.items] == ["r2"]


def test_a_click_that_names_its_list_belongs_there_even_after_the_window() -> None:
    member = Member()
    member.sees("r1", 0, "a")
    member.sees("r2", MINUTE_MS, "a")
    member.clicks("a", 5 * WINDOW_MS, ranking_id="r1")
    member.clicks("a", 6 * WINDOW_MS, ranking_id="elsewhere")
    outcomes = member.outcomes()
    assert outcomes["r1"].items["a"].clicked
    assert not outcomes["r2"].items


def test_a_click_after_the_window_and_one_for_a_title_that_was_not_shown_belong_to_nobody() -> None:
    member = Member()
    member.sees("r1", 0, "a")
    member.clicks("a", WINDOW_MS + 1)
    member.clicks("z", 1)
    member.clicks("z", 2, ranking_id="r1")
    assert member.outcomes()["r1"].items == {}
    assert member.outcomes()["r1"].version == 1
    member.clicks("a", WINDOW_MS)
    assert member.outcomes()["r1"].items["a"].clicked


def test_a_play_belongs_to_the_list_before_its_beginning_however_long_it_is() -> None:
    member = Member()
    member.sees("r1", 0, "a")
    member.plays("a", at_ms=3 * WINDOW_MS, watched_ms=3 * WINDOW_MS - MINUTE_MS)
    assert member.outcomes()["r1"].items["a"].watched_percent == 74


def test_a_play_does_not_belong_to_a_list_that_was_shown_while_it_ran() -> None:
    member = Member()
    member.sees("before", 0, "a")
    member.sees("while", 2 * MINUTE_MS, "a", "b")
    member.plays("a", at_ms=10 * MINUTE_MS, watched_ms=9 * MINUTE_MS)
    member.plays("b", at_ms=10 * MINUTE_MS, watched_ms=9 * MINUTE_MS)
    outcomes = member.outcomes()
    assert outcomes["before"].items["a"].watched_percent == 8
    assert (outcomes["while"].version, outcomes["while"].items) == (1, {})
    assert outcomes["before"].rivals == set()


def test_the_newest_thumb_counts_in_whatever_order_they_come() -> None:
    for order in ((1, 2), (2, 1)):
        member = Member()
        member.sees("r1", 0, "a")
        for at_ms in order:
            member.thumbs("a", at_ms, Thumb.UP if at_ms == 1 else Thumb.NONE)
        assert member.outcomes()["r1"].items["a"].thumb == Thumb.NONE


def test_a_late_click_raises_the_version_and_a_repeated_one_does_not() -> None:
    member = Member()
    member.sees("r1", 0, "a")
    assert member.outcomes()["r1"].version == 1
    member.clicks("a", MINUTE_MS)
    member.clicks("a", MINUTE_MS)
    assert member.outcomes()["r1"].version == 2


def test_a_later_list_takes_a_click_away_with_a_higher_version() -> None:
    member = Member()
    member.sees("r1", 0, "a")
    member.clicks("a", 2 * MINUTE_MS)
    before = member.outcomes()["r1"]
    member.sees("r2", MINUTE_MS, "a")
    after = member.outcomes()["r1"]
    assert (before.items["a"].clicked, after.items) == (True, {})
    assert after.version > before.version


def test_the_logs_interleaving_does_not_matter() -> None:
    rng = random.Random(4)
    calls = [(rng.choice("cpt"), rng.choice("abc"), rng.randrange(90) * MINUTE_MS + n) for n in range(60)]
    lists = [(f"r{n}", n * 3 * MINUTE_MS, rng.sample("abc", 2)) for n in range(30)]
    states = []
    for seed in range(5):
        queues: dict[str, list[object]] = {"lists": list(lists)}
        for call in calls:
            queues.setdefault(call[0], []).append(call)
        member, draw = Member(), random.Random(seed)
        while queues := {name: queue for name, queue in queues.items() if queue}:
            name = draw.choice(sorted(queues))
            entry: tuple[str, ...] = queues[name].pop(0)  # type: ignore[assignment]
            if name == "lists":
                member.sees(entry[0], int(entry[1]), *entry[2])
            elif name == "c":
                member.clicks(entry[1], int(entry[2]))
            elif name == "p":
                member.plays(entry[1], int(entry[2]), watched_ms=1000)
            else:
                member.thumbs(entry[1], int(entry[2]), Thumb.UP)
        states.append({name: (one.version, one.items) for name, one in member.outcomes().items()})
    assert all(state == states[0] for state in states)
    assert any(items for _, items in states[0].values())


def test_a_row_stays_small_and_survives_its_bytes() -> None:
    member = Member()
    for number in range(3 * REACTION_CAPACITY):
        member.sees(f"r{number}", number * 1000, "a", "b")
        member.clicks("a", number * 1000 + 1)
    assert len(member.state.lists["rankings-0"]) == SHOWN_CAPACITY
    assert len(member.state.reactions["clicks-0"]) == REACTION_CAPACITY
    member.sees("next day", KEPT_MS + 3 * REACTION_CAPACITY * 1000, "a")
    assert [shown.ranking_id for shown in member.state.lists["rankings-0"]] == ["next day"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(member.state), type=ShownState) == member.state
