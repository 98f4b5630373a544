"""The vector, for any rows and contexts: what it holds is what plain arithmetic gives, title by title."""

from collections import Counter
from math import log1p, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import country, query, source_item
from features.catalogue import Item
from features.decay import DAY_MS, HALF_LIVES_MS
from features.engagement import Kind, Task, Thumb
from features.item import SUMS, ItemState
from features.item_table import ItemTable
from features.tokens import genre_token
from features.top_targets import Target, TopTargetsState
from features.user import TITLE_HALF_LIFE_MS, LogMemory, Moment, ThumbMemory, Title, UserState
from features.vector import COLUMN_NAMES, Context, Similarities, pair_matrix
from model.neighbours import NeighbourTable, Sources, row_begins

NOW_MS = 1_750_000_000_000
GENRES = ("Action", "Comedy", "Drama", "Horror", "Sci-Fi")
IDS = ("a", "b", "c", "d", "e", "unknown", "not there either")
FAMILIES = {"query": query.HALF_LIFE_MS, "source_item": source_item.HALF_LIFE_MS, "country": country.HALF_LIFE_MS}

single = st.floats(-2.0, 10_000.0, width=32)
# Rows may be older than any half-life matters, and ahead of the request's time.
ages_ms = st.one_of(st.integers(-DAY_MS, 30 * DAY_MS), st.just(10**12))
item_states = st.builds(
    lambda age_ms, seen_ms, sums: ItemState(as_of_ms=NOW_MS - age_ms, first_seen_ms=seen_ms, sums=sums),
    ages_ms,
    st.one_of(st.just(0), st.integers(NOW_MS - 900 * DAY_MS, NOW_MS + DAY_MS)),
    st.lists(single, min_size=len(SUMS), max_size=len(SUMS)),
)
target_states = st.builds(
    lambda targets: TopTargetsState(as_of_ms=NOW_MS, targets=targets),
    st.dictionaries(
        st.sampled_from(IDS),
        st.builds(
            lambda age_ms, sums: Target(NOW_MS - age_ms, [], sums), ages_ms, st.lists(single, min_size=3, max_size=3)
        ),
    ),
)
# Whole half-lives and weights that float32 holds, so that likes and dislikes of a genre cancel exactly or not at all.
titles = st.dictionaries(
    st.sampled_from(IDS),
    st.builds(
        lambda lives, weight: Title(NOW_MS - lives * TITLE_HALF_LIFE_MS, weight),
        st.integers(-1, 3),
        st.sampled_from((-2.0, -0.5, 0.0, 1.0, 1.5)),
    ),
)
moments = st.lists(
    st.tuples(st.sampled_from(IDS), st.sampled_from((Kind.CLICK, Kind.PLAY, Kind.THUMB)), st.sampled_from((-1, 0, 1))),
    max_size=6,
)


@st.composite
def tables(draw: st.DrawFn) -> ItemTable:
    """Up to five titles, with and without genres and rows."""
    table = ItemTable(capacity=1)
    for item_id in IDS[: draw(st.integers(0, 5))]:
        slot = table.set_item(
            Item(item_id=item_id, title=item_id, genres=draw(st.lists(st.sampled_from(GENRES)).map(tuple)))
        )
        state = draw(st.none() | item_states)
        if state is not None:
            table.set_state(slot, state)
    return table


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    """Requests with every part there or missing."""
    recent = [
        Moment(NOW_MS - 60_000 * (9 - place), place, int(kind), item_id, value)
        for place, (item_id, kind, value) in enumerate(draw(moments))
    ]
    thumbs = {item_id: ThumbMemory(NOW_MS, "e", thumb, NOW_MS) for item_id, thumb in draw(
        st.dictionaries(st.sampled_from(IDS), st.sampled_from([int(thumb) for thumb in Thumb]))
    ).items()}  # fmt: skip
    return Context(
        task=draw(st.sampled_from(Task)),
        now_ms=NOW_MS,
        user=UserState(
            recents={"log": recent} if recent else {},
            logs={"a": LogMemory(draw(titles), thumbs), "b": LogMemory(draw(titles))},
        ),
        source_item_id=draw(st.none() | st.sampled_from(IDS)),
        query_targets=draw(st.none() | target_states),
        source_rows=draw(st.dictionaries(st.sampled_from(IDS), target_states)),
        country_targets=draw(st.none() | target_states),
        priors=draw(st.just(()) | st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0, 1e6)] * 2)),
    )


def faded(total: float, as_of_ms: int, half_life_ms: int) -> float:
    return max(0.0, total * 2.0 ** (-max(0, NOW_MS - as_of_ms) / half_life_ms))


def item_values(table: ItemTable, slot: int, priors: tuple[float, ...]) -> dict[str, float]:
    sums = {
        name: faded(float(table.sums[slot, place]), int(table.as_of_ms[slot]), HALF_LIVES_MS[name.rpartition("_")[2]])
        for place, name in enumerate(SUMS)
    }
    engaged = {name: sums[f"clicks_{name}"] + sums[f"plays_{name}"] for name in HALF_LIVES_MS}
    completion, thumbs_up, total_30m, total_1d = priors
    first_ms = int(table.first_seen_ms[slot])
    plays = sums["plays_14d"]
    return {
        **{f"item_{name}": log1p(total) for name, total in sums.items()},
        "item_share_30m": log1p(1e4 * engaged["30m"] / (total_30m + 1)),
        "item_share_1d": log1p(1e4 * engaged["1d"] / (total_1d + 1)),
        "item_trend": log1p(2 * engaged["30m"]) - log1p(engaged["1d"]),
        "item_completion_rate": (sums["completed_plays_14d"] + 10 * completion) / (plays + 10),
        "item_thumbs_up_rate": (sums["thumbs_up_14d"] + 10 * thumbs_up) / (plays + 10),
        "item_age_days": log1p(max(0, NOW_MS - first_ms) / DAY_MS) if first_ms else 0.0,
    }


def target_values(family: str, state: TopTargetsState | None, item_id: str) -> dict[str, float]:
    targets = {} if state is None else state.targets
    engaged = {
        key: [faded(total, one.as_of_ms, FAMILIES[family]) for total in one.sums[1:]] for key, one in targets.items()
    }
    clicks, plays = engaged.get(item_id, [0.0, 0.0])
    share = 100 * (clicks + plays) / (sum(map(sum, engaged.values())) + 1)
    return {f"{family}_clicks": log1p(clicks), f"{family}_plays": log1p(plays), f"{family}_share": log1p(share)}


def next_value(context: Context, item_id: str) -> float:
    """What members went to from the three newest titles of the session."""
    newest = list(dict.fromkeys(moment.item_id for moment in reversed(context.user.recent)))[:3]
    share = 0.0
    for place, title in enumerate(newest):
        row = context.source_rows.get(title)
        targets = {} if row is None else row.targets
        engaged = {
            key: sum(faded(t, one.as_of_ms, FAMILIES["source_item"]) for t in one.sums[1:])
            for key, one in targets.items()
        }
        share += 0.8**place * engaged.get(item_id, 0.0) / (sum(engaged.values()) + 1)
    return log1p(100 * share)


def likeness(table: ItemTable, item_id: str, weights: dict[str, float]) -> float:
    """The cosine of a title's genres with those of weighed titles."""

    def unit(one: str) -> dict[int, float]:
        item = table.items[table.slot_by_id.get(one, 0)]
        tokens = {genre_token(genre) for genre in item.genres} if item else set()
        return {token: 1 / sqrt(len(tokens)) for token in tokens}

    profile: Counter[int] = Counter()
    for one, weight in weights.items():
        for token, share in unit(one).items():
            profile[token] += weight * share  # type: ignore[assignment]
    length = sqrt(sum(value**2 for value in profile.values()))
    return sum(profile[token] * share for token, share in unit(item_id).items()) / length if length else 0.0


def expected(table: ItemTable, slot: int, context: Context) -> dict[str, float]:
    """Every column of one candidate but those of its name and the similarities."""
    item_id = table.ids[slot]
    weights: dict[str, float] = {}
    for log in context.user.logs.values():
        for one, title in log.titles.items():
            fade = 2.0 ** (-max(0, NOW_MS - title.as_of_ms) / TITLE_HALF_LIFE_MS)
            weights[one] = weights.get(one, 0.0) + title.weight * fade
    counts: dict[str, float] = {}
    for moment in context.user.recent:
        down = moment.kind == Kind.THUMB and moment.value < 0
        counts[moment.item_id] = counts.get(moment.item_id, 0.0) + (-1 if down else 1)
    thumb = context.user.logs["a"].thumbs.get(item_id)
    return {
        **item_values(table, slot, context.priors or table.totals.priors(NOW_MS)),
        **target_values("query", context.query_targets, item_id),
        **target_values("source_item", context.source_targets, item_id),
        **target_values("country", context.country_targets, item_id),
        "source_genres": likeness(table, item_id, {context.source_item_id or "": 1.0}),
        "user_title_weight": weights.get(item_id, 0.0),
        "user_thumb": 0.0 if thumb is None else thumb.thumb,
        "user_genres": likeness(table, item_id, weights),
        "session_engagements": counts.get(item_id, 0.0),
        "session_genres": likeness(table, item_id, counts),
        "session_next": next_value(context, item_id),
    }


@settings(max_examples=30, deadline=None)
@given(tables(), contexts(), st.data())
def test_the_vector_is_what_plain_arithmetic_gives(table: ItemTable, context: Context, data: st.DataObject) -> None:
    slots = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), max_size=7)), np.int64)
    names = ("source_similarity", "user_similarity", "session_similarity", "source_ease", "user_ease", "session_ease")
    given_NS = np.arange(6 * len(slots), dtype=np.float32).reshape(len(slots), 6)
    matrix = pair_matrix(table, slots, context, Similarities(*given_NS.T))
    assert (matrix.shape, matrix.dtype) == ((len(slots), len(COLUMN_NAMES)), np.float32)
    for row, slot, similar in zip(matrix, slots.tolist(), given_NS.tolist(), strict=True):
        found = dict(zip(COLUMN_NAMES, row.tolist(), strict=True))
        wanted = expected(table, slot, context) | dict(zip(names, similar, strict=True))
        shown = {name: wanted[name] for name in found if not name.startswith("title_")}
        assert {name: found[name] for name in shown} == pytest.approx(shown, rel=2e-5, abs=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(-4, 4, width=16), min_size=6, max_size=6), min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.floats(-2, 2, width=16)), max_size=8),
    st.lists(st.integers(0, 5), max_size=8),
)
def test_neighbours_are_summed_as_a_dense_matrix_says(
    dense: list[list[float]], sources: list[tuple[int, float]], candidates: list[int]
) -> None:
    weights_VV = np.array(dense, np.float32)
    rows, columns = np.nonzero(weights_VV)
    table = NeighbourTable(row_begins(rows, 6), columns.astype(np.int32), weights_VV[rows, columns])
    asked = Sources(
        np.array([slot for slot, _ in sources], np.int64), np.array([weight for _, weight in sources], np.float32)
    )
    found = table.scores(asked, np.array(candidates, np.int64))
    wanted = [sum(weight * dense[slot][candidate] for slot, weight in sources) for candidate in candidates]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_a_sum_that_is_no_number_stays_one() -> None:
    table = ItemTable()
    slot = table.slot("a")
    table.sums[slot], table.as_of_ms[slot] = np.nan, NOW_MS
    matrix = pair_matrix(table, np.array([slot]), Context(task=Task.PRE_QUERY, now_ms=NOW_MS), None)
    assert np.isnan(matrix[0, COLUMN_NAMES.index("item_plays_1d")])
