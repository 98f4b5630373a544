"""What a member just did is the reason for a row only where it speaks for the title."""

from features.engagement import Kind, Task, Thumb
from features.user import LogMemory, Moment, ThumbMemory, UserState
from features.vector import Context
from serving.grounds import REASONS, last_engaged

NOW_MS = 1_764_000_000_000


def member(*engaged: tuple[str, Kind, int], down: str = "") -> Context:
    """A member with these engagements, one each second up to now, and a thumb down on one title."""
    moments = [
        Moment(NOW_MS - 1000 * (len(engaged) - place), place, int(kind), item_id, value)
        for place, (item_id, kind, value) in enumerate(engaged)
    ]
    thumbs = {down: ThumbMemory(NOW_MS, "e", int(Thumb.DOWN), NOW_MS)} if down else {}
    user = UserState(recents={"plays-0": moments}, logs={"thumbs-0": LogMemory(thumbs=thumbs)})
    return Context(task=Task.PRE_QUERY, now_ms=NOW_MS, user=user)


def test_reasons_are_the_newest_titles_each_with_what_was_done_last() -> None:
    context = member(("a", Kind.PLAY, 90), ("b", Kind.CLICK, 0), ("a", Kind.CLICK, 0), ("c", Kind.THUMB, Thumb.UP))
    assert list(last_engaged(context).items()) == [
        ("c", "Because you liked"),
        ("a", "Because you just looked at"),
        ("b", "Because you just looked at"),
    ]


def test_every_kind_that_is_remembered_is_a_reason() -> None:
    for kind in (kind for kind in Kind if kind is not Kind.IMPRESSION):
        assert list(last_engaged(member(("a", kind, 1)))) == ["a"], kind


def test_there_are_no_more_reasons_than_the_limit() -> None:
    context = member(*((f"t{number}", Kind.PLAY, 50) for number in range(REASONS + 2)))
    assert len(last_engaged(context)) == REASONS


def test_title_with_a_thumb_down_is_no_reason() -> None:
    context = member(("a", Kind.PLAY, 90), ("b", Kind.PLAY, 90), ("a", Kind.THUMB, Thumb.DOWN), down="a")
    assert last_engaged(context) == {"b": "Because you just watched"}


def test_thumb_that_was_taken_back_leaves_what_was_done_before() -> None:
    context = member(("a", Kind.PLAY, 90), ("a", Kind.THUMB, Thumb.NONE))
    assert last_engaged(context) == {"a": "Because you just watched"}


def test_session_that_is_over_gives_no_reason() -> None:
    context = member(("a", Kind.PLAY, 90))
    later = Context(task=Task.PRE_QUERY, now_ms=NOW_MS + 3_600_000, user=context.user)
    assert last_engaged(later) == {}
