"""The vector, on values computed by hand."""

from math import log1p, sqrt

import numpy as np
import pytest

from features.catalogue import Item
from features.decay import DAY_MS, HALF_LIVES_MS
from features.engagement import Kind, Task, Thumb
from features.item import SIGNALS, SUMS, ItemState
from features.item_table import ITEM_GENRES, TITLE_TOKENS, ItemTable
from features.query import HALF_LIFE_MS
from features.top_targets import Target, TopTargetsState
from features.user import LogMemory, Moment, ThumbMemory, Title, UserState
from features.vector import COLUMN_NAMES, Context, Similarities, pair_matrix

NOW_MS = 1_750_000_000_000
STAR_WARS, STAR_TREK, ALIEN = "sw", "st", "al"


@pytest.fixture
def table() -> ItemTable:
    """Three titles; only the first has a row."""
    filled = ItemTable(capacity=1)
    filled.set_item(Item(item_id=STAR_WARS, title="Star Wars", genres=("Action", "Sci-Fi")))
    filled.set_item(Item(item_id=STAR_TREK, title="Star Trek", genres=("Sci-Fi",)))
    filled.set_item(Item(item_id=ALIEN, title="Alien", genres=("Horror",)))
    filled.set_state(filled.slot(STAR_WARS), item_state(plays=8.0, completed_plays=4.0, thumbs_up=2.0, clicks=3.0))
    return filled


def item_state(**sums: float) -> ItemState:
    """A row that stands one day before NOW_MS, first seen three days before; the same sum for every half-life."""
    state = ItemState(as_of_ms=NOW_MS - DAY_MS, first_seen_ms=NOW_MS - 3 * DAY_MS)
    for signal, total in sums.items():
        slot = 3 * SIGNALS.index(signal)
        state.sums[slot : slot + 3] = [total] * 3
    return state


def column(table: ItemTable, name: str, context: Context, similarities: Similarities | None = None) -> list[float]:
    """One column for Star Wars, Star Trek, Alien and the null item."""
    slots = np.array([*table.slots([STAR_WARS, STAR_TREK, ALIEN]), 0])
    matrix = pair_matrix(table, slots, context, similarities)
    assert (matrix.shape, matrix.dtype) == ((4, len(COLUMN_NAMES)), np.float32)
    return [float(value) for value in matrix[:, COLUMN_NAMES.index(name)]]


def context(**fields: object) -> Context:
    return Context(**{"task": Task.PRE_QUERY, "now_ms": NOW_MS, **fields})  # type: ignore[arg-type]


def moment(item_id: str, age_ms: int, kind: Kind = Kind.CLICK, value: int = 0) -> Moment:
    return Moment(NOW_MS - age_ms, age_ms, int(kind), item_id, value)


def user(*recent: Moment, titles: dict[str, Title] | None = None, thumbs: dict[str, Thumb] | None = None) -> UserState:
    remembered = {item_id: ThumbMemory(NOW_MS, "e", int(thumb), NOW_MS) for item_id, thumb in (thumbs or {}).items()}
    return UserState(recents={"log": list(recent)} if recent else {}, logs={"log": LogMemory(titles or {}, remembered)})


@pytest.mark.parametrize("half_life", HALF_LIVES_MS)
def test_item_sums_are_decayed_to_now_and_put_on_a_log_scale(table: ItemTable, half_life: str) -> None:
    factor = 2.0 ** (-DAY_MS / HALF_LIVES_MS[half_life])
    assert column(table, f"item_clicks_{half_life}", context()) == pytest.approx([log1p(3 * factor), 0, 0, 0])
    assert column(table, f"item_plays_{half_life}", context()) == pytest.approx([log1p(8 * factor), 0, 0, 0])
    assert column(table, f"item_thumbs_down_{half_life}", context()) == [0, 0, 0, 0]


def test_rates_lean_on_their_prior_until_there_are_plays(table: ItemTable) -> None:
    factor = 2.0 ** (-1 / 14)
    # One title has all the plays, so the catalogue's share is its own, drawn to the first prior.
    prior = (4 * factor + 5) / (8 * factor + 10)
    completion = (4 * factor + 10 * prior) / (8 * factor + 10)
    assert column(table, "item_completion_rate", context()) == pytest.approx([completion, prior, prior, prior])
    prior = (2 * factor + 2) / (8 * factor + 10)
    thumbs_up = (2 * factor + 10 * prior) / (8 * factor + 10)
    assert column(table, "item_thumbs_up_rate", context()) == pytest.approx([thumbs_up, prior, prior, prior])


def test_priors_of_a_request_hold_over_those_of_the_table(table: ItemTable) -> None:
    assert column(table, "item_completion_rate", context(priors=(0.25, 0.75, 0.0, 0.0)))[1:] == [0.25] * 3
    assert column(table, "item_thumbs_up_rate", context(priors=(0.25, 0.75, 0.0, 0.0)))[1:] == [0.75] * 3


def test_a_share_is_of_what_the_whole_catalogue_was_engaged_with(table: ItemTable) -> None:
    of_each = (8 + 3) / 2  # the plays and clicks of Star Wars, a day old
    table.set_state(table.slot(STAR_TREK), ItemState(as_of_ms=NOW_MS, sums=[of_each / 2] * len(SUMS)))
    shares = column(table, "item_share_1d", context())
    assert shares == pytest.approx([log1p(1e4 * of_each / (2 * of_each + 1))] * 2 + [0, 0], rel=1e-5)
    given = column(table, "item_share_1d", context(priors=(0.5, 0.5, 0.0, 99.0)))
    assert given[0] == pytest.approx(log1p(1e4 * of_each / 100), rel=1e-5)


def test_the_trend_is_what_the_last_half_hour_holds_of_the_day(table: ItemTable) -> None:
    state = ItemState(as_of_ms=NOW_MS)
    for signal in ("clicks", "plays"):
        slot = 3 * SIGNALS.index(signal)
        state.sums[slot : slot + 3] = [2.0, 10.0, 50.0]
    table.set_state(table.slot(STAR_TREK), state)
    assert column(table, "item_trend", context())[1:] == pytest.approx([log1p(8) - log1p(20), 0, 0], rel=1e-5)


def test_age_counts_from_the_first_engagement(table: ItemTable) -> None:
    assert column(table, "item_age_days", context()) == pytest.approx([log1p(3), 0, 0, 0])


def test_an_item_row_ahead_of_now_is_read_as_it_stands(table: ItemTable) -> None:
    early = Context(task=Task.PRE_QUERY, now_ms=NOW_MS - 2 * DAY_MS)
    assert column(table, "item_clicks_30m", early)[0] == pytest.approx(log1p(3))


def test_the_targets_of_the_query_are_decayed_to_now(table: ItemTable) -> None:
    targets = TopTargetsState(
        as_of_ms=NOW_MS,
        targets={
            STAR_WARS: Target(NOW_MS - HALF_LIFE_MS, [0, 4, 2], [0.0, 4.0, 2.0]),
            "not in the catalogue": Target(NOW_MS, [0, 9, 9], [0.0, 9.0, 9.0]),
        },
    )
    asked = context(query="star", query_targets=targets)
    assert column(table, "query_clicks", asked) == pytest.approx([log1p(2), 0, 0, 0])
    assert column(table, "query_plays", asked) == pytest.approx([log1p(1), 0, 0, 0])
    share = log1p(100 * 3 / (3 + 18 + 1))
    assert column(table, "query_share", asked) == pytest.approx([share, 0, 0, 0])
    assert column(table, "source_item_clicks", asked) == column(table, "country_plays", asked) == [0, 0, 0, 0]


def test_what_came_next_is_added_up_over_the_newest_titles_of_the_open_session(table: ItemTable) -> None:
    def row(**clicks: float) -> TopTargetsState:
        targets = {item: Target(NOW_MS, [0, 1, 0], [9.0, count, 0.0]) for item, count in clicks.items()}
        return TopTargetsState(as_of_ms=NOW_MS, targets=targets)

    rows = {"a": row(sw=3, st=1), "c": row(sw=1, gone=7), "d": row(al=99), "yesterday": row(al=99)}
    session = [moment("yesterday", DAY_MS), *(moment(item, 90 - place) for place, item in enumerate("dcba"))]
    asked = context(user=user(*session), source_rows=rows)
    # `a` is the newest title, `b` has no row, `c` the third; `d` is too long ago.
    expected = [log1p(100 * (3 / 5 + 0.64 * 1 / 9)), log1p(100 * 1 / 5), 0, 0]
    assert column(table, "session_next", asked) == pytest.approx(expected)
    assert column(table, "source_item_share", asked) == [0, 0, 0, 0]
    assert column(table, "session_next", context(user=user(*session))) == [0, 0, 0, 0]


def test_a_word_of_a_persons_name_counts_as_one_of_the_title(table: ItemTable) -> None:
    table.set_item(Item(item_id=ALIEN, title="Alien", people=("Sigourney Weaver", "Tom Skerritt")))
    assert column(table, "title_word_prefix", context(query="sigourney wea")) == [0, 0, 1, 0]
    assert column(table, "title_word_prefix", context(query="skerritt")) == [0, 0, 1, 0]
    assert column(table, "title_word_prefix", context(query="kerritt")) == [0, 0, 0, 0]
    assert column(table, "title_prefix", context(query="tom")) == [0, 0, 0, 0]


def test_a_query_is_compared_with_the_titles(table: ItemTable) -> None:
    assert column(table, "title_exact", context(query="star wars")) == [1, 0, 0, 0]
    assert column(table, "title_prefix", context(query="star")) == [1, 1, 0, 0]
    assert column(table, "title_word_prefix", context(query="wars")) == [1, 0, 0, 0]
    fuzzy = column(table, "title_fuzzy", context(query="star wasr"))
    assert 1 > fuzzy[0] > fuzzy[2]
    assert column(table, "title_fuzzy", context(query="star wars"))[0] == 1
    assert column(table, "title_fuzzy", context()) == [0, 0, 0, 0]


def test_genres_are_compared_as_unit_vectors(table: ItemTable) -> None:
    from_trek = column(table, "source_genres", context(source_item_id=STAR_TREK))
    assert from_trek == pytest.approx([1 / sqrt(2), 1, 0, 0])
    assert column(table, "source_genres", context(source_item_id="unknown")) == [0, 0, 0, 0]


def test_history_weighs_titles_and_their_genres(table: ItemTable) -> None:
    fan = context(user=user(titles={STAR_TREK: Title(NOW_MS - 14 * DAY_MS, 2.0), "gone": Title(NOW_MS, 5.0)}))
    assert column(table, "user_title_weight", fan) == [0, 1, 0, 0]
    assert column(table, "user_genres", fan) == pytest.approx([1 / sqrt(2), 1, 0, 0])


def test_disliked_titles_count_against_their_genres(table: ItemTable) -> None:
    critic = context(user=user(titles={ALIEN: Title(NOW_MS, -2.0)}, thumbs={ALIEN: Thumb.DOWN, STAR_WARS: Thumb.NONE}))
    assert column(table, "user_thumb", critic) == [0, 0, -1, 0]
    assert column(table, "user_genres", critic) == [0, 0, -1, 0]


def test_which_of_two_logs_has_the_say_about_a_title_does_not_depend_on_which_was_read_first(table: ItemTable) -> None:
    up, down = (user(thumbs={ALIEN: thumb}).logs["log"] for thumb in (Thumb.UP, Thumb.DOWN))
    for logs in ({"thumbs-0": up, "thumbs-1": down}, {"thumbs-1": down, "thumbs-0": up}):
        assert column(table, "user_thumb", context(user=UserState(logs=logs))) == [0, 0, -1, 0]


def test_only_the_open_session_counts_and_a_thumb_down_counts_against(table: ItemTable) -> None:
    busy = context(
        user=user(
            moment(ALIEN, DAY_MS),
            moment(STAR_TREK, 3000),
            moment(STAR_TREK, 2000, Kind.PLAY, 50),
            moment(STAR_WARS, 1000, Kind.THUMB, int(Thumb.DOWN)),
            moment("unknown", 500),
        )
    )
    assert column(table, "session_engagements", busy) == [-1, 2, 0, 0]
    profile = np.array([-1 / sqrt(2), 2 - 1 / sqrt(2)])  # Action, Sci-Fi
    wars = float(profile @ [1 / sqrt(2), 1 / sqrt(2)] / np.linalg.norm(profile))
    trek = float(profile[1] / np.linalg.norm(profile))
    assert column(table, "session_genres", busy) == pytest.approx([wars, trek, 0, 0], abs=1e-6)


def test_similarities_are_passed_through(table: ItemTable) -> None:
    names = ("source_similarity", "user_similarity", "session_similarity", "source_ease", "user_ease", "session_ease")
    values = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    given = Similarities(*(np.full(4, value, np.float32) for value in values))
    for name, value in zip(names, values, strict=True):
        assert column(table, name, context(), given) == [value] * 4
        assert column(table, name, context()) == [0] * 4


def test_missing_rows_give_finite_numbers_and_no_personal_part(table: ItemTable) -> None:
    for name in COLUMN_NAMES:
        values = column(table, name, context())
        assert np.isfinite(values).all(), name
        if name.startswith(("user_", "session_", "query_", "source_", "country_")):
            assert values == [0, 0, 0, 0], name


def test_no_candidates_give_an_empty_matrix(table: ItemTable) -> None:
    nobody = pair_matrix(table, np.zeros(0, np.int64), context(query="star"), None)
    assert nobody.shape == (0, len(COLUMN_NAMES))


def test_unknown_items_are_slot_zero_and_slot_zero_stays_empty(table: ItemTable) -> None:
    assert table.slots(["unknown", STAR_TREK]).tolist() == [0, 2]
    assert (table.ids[0], table.items[0], len(table)) == ("", None, 4)
    assert not table.sums[0].any()
    assert not table.genre_weight[0].any()


def test_a_table_grows_and_keeps_what_it_holds() -> None:
    table = ItemTable(capacity=1)
    for index in range(100):
        slot = table.set_item(Item(item_id=str(index), title=f"Title {index}", genres=("Drama",)))
        table.set_state(slot, ItemState(as_of_ms=index + 1))
    assert table.slots(str(index) for index in range(100)).tolist() == list(range(1, 101))
    assert table.as_of_ms[1:101].tolist() == list(range(1, 101))
    assert table.titles[100] == "title 99"
    assert len(table) == 101


@pytest.mark.parametrize("total", [np.nan, np.inf, 1e39, -1e39, 1e19, -1e19])
def test_an_item_row_of_sums_that_are_out_of_bounds_is_an_empty_one(table: ItemTable, total: float) -> None:
    alone = ItemTable().totals.priors(NOW_MS)
    table.set_state(table.slot(STAR_WARS), item_state(plays=total, clicks=1.0))
    assert table.totals.priors(NOW_MS) == pytest.approx(alone, abs=1e-6)
    assert column(table, "item_clicks_1d", context()) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["as_of_ms", "first_seen_ms"])
@pytest.mark.parametrize("time_ms", [-1, 10**15, 2**63, 2**64])
def test_an_item_row_with_a_time_that_is_out_of_bounds_is_an_empty_one(
    table: ItemTable, name: str, time_ms: int
) -> None:
    before = table.totals.priors(NOW_MS)
    slot = table.slot("bad")
    table.set_state(slot, ItemState(**{"as_of_ms": NOW_MS, "sums": [5.0] * len(SUMS), name: time_ms}))  # type: ignore[arg-type]
    assert table.totals.priors(NOW_MS) == before
    assert (table.as_of_ms[slot], table.first_seen_ms[slot], table.sums[slot].any()) == (0, 0, False)


def test_an_item_row_with_another_number_of_sums_is_an_empty_one(table: ItemTable) -> None:
    table.set_state(table.slot(STAR_WARS), ItemState(as_of_ms=NOW_MS, sums=[1.0]))
    assert column(table, "item_plays_1d", context()) == [0, 0, 0, 0]


def test_an_item_set_again_replaces_its_title_and_genres(table: ItemTable) -> None:
    slot = table.set_item(Item(item_id=STAR_WARS, title="Solo", genres=()))
    assert (slot, table.titles[slot]) == (1, "solo")
    assert not table.genre_weight[slot].any()
    assert not table.genre_tokens[slot].any()
    assert table.sums[slot].any()


def test_long_titles_and_many_genres_are_cut_to_their_arrays() -> None:
    table = ItemTable()
    genres = tuple(f"genre {index}" for index in range(20))
    slot = table.set_item(Item(item_id="1", title="a very long title " * 20, genres=genres))
    assert np.count_nonzero(table.title_tokens[slot]) == TITLE_TOKENS
    assert np.count_nonzero(table.genre_tokens[slot]) == ITEM_GENRES
