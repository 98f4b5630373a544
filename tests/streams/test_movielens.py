"""MovieLens: both forms of its files give the same log, and one rule makes the events. The sample is made up."""

import io
import itertools
import uuid
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.catalogue import Item
from features.text import normalise_query
from infra.errors import BadInput, NowrankError
from streams.events import Click, Play, Thumb, decode_record, encode_event
from streams.labels import Label
from streams.sources import movielens_files
from streams.sources.derive import (
    NAMESPACE,
    SESSION_GAP_S,
    WATCHED_SHARE,
    Draw,
    Moment,
    Rating,
    country_of_zip,
    derive_label,
    derive_query,
    event_uuid,
    moments,
    title_words,
)
from streams.sources.movielens import FIRST_S, GENRES, ITEMS, LAST_S, MEMBERS, RATINGS, load_movielens, split_title
from streams.sources.shift import NEWEST_AGE_MS, shift_ms

START_S = 880_000_000
# user, item, stars, seconds after the start; the first three share a second, the last comes after a long pause.
SAMPLE = [
    ("1", "10", 5, 0),
    ("1", "11", 3, 0),
    ("1", "12", 1, 0),
    ("2", "10", 4, 0),
    ("1", "10", 2, 1),
    ("1", "13", 4, 1 + SESSION_GAP_S),
    ("1", "11", 4, 2 + 2 * SESSION_GAP_S),
]
TITLES = [
    ("10", "Lamp Post, The", 1995, ["Children's", "Comedy"]),
    ("11", "Café Below (Café en bas, Le)", 1994, ["Drama"]),
    ("12", "unknown", None, ["unknown"]),
    ("13", "Rope: Part III", 1996, ["Sci-Fi", "War"]),
]
PEOPLE = [("1", 30, "F", "other", "T8H1N"), ("2", 40, "M", "writer", "55105")]


@pytest.fixture
def grouplens(tmp_path: Path) -> Path:
    folder = tmp_path / "grouplens"
    folder.mkdir()
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{s}\t{START_S + t}\n" for u, i, s, t in SAMPLE))
    (folder / "u.user").write_text("".join("|".join(map(str, person)) + "\n" for person in PEOPLE))
    lines = []
    for item, title, year, genres in TITLES:
        flags = "|".join("1" if genre in genres else "0" for genre in GENRES)
        video = " (V)" if item == "13" else ""
        shown = f"{title} ({year}){video}" if year else title
        lines.append(f"{item}|{shown}|01-Jan-1995||http://example.org/{item}|{flags}\n")
    (folder / "u.item").write_text("".join(lines), "latin-1")
    return folder


@pytest.fixture
def recbole(tmp_path: Path) -> Path:
    folder = tmp_path / "recbole"
    folder.mkdir()
    ratings = "".join(f"{u}\t{i}\t{s}\t{START_S + t}\n" for u, i, s, t in SAMPLE)
    (folder / "ml-100k.inter").write_text(f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{ratings}")
    people = "".join("\t".join(map(str, person)) + "\n" for person in PEOPLE)
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (folder / "ml-100k.user").write_text(header + people)
    rows = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"]
    for item, title, year, genres in TITLES:
        shown, year_cell = (f"{title} ({year})", "V") if item == "13" else (title, str(year) if year else "unkonwn")
        rows.append(f"{item}\t{'unkonwn' if title == 'unknown' else shown}\t{year_cell}\t{' '.join(genres)}\n")
    (folder / "ml-100k.item").write_text("".join(rows))
    return folder


def label_of(stars: int, number: int = 0, previous: str | None = "9", title: str = "The Lamp Post") -> Label:
    rating = Rating("1", str(number), stars, START_S)
    return derive_label(rating, Item(item_id=str(number), title=title), Moment(1_000, "s", previous), "US")


def test_both_forms_of_the_files_give_the_same_log(grouplens: Path, recbole: Path) -> None:
    assert load_movielens(grouplens) == load_movielens(recbole)


def test_the_catalogue_has_titles_years_and_genres(grouplens: Path) -> None:
    by_id = {item.item_id: item for item in load_movielens(grouplens).items}
    assert (by_id["10"].title, by_id["10"].year, set(by_id["10"].genres)) == (
        "The Lamp Post",
        1995,
        {"Comedy", "Children's"},
    )
    assert by_id["11"].title == "Café Below (Le Café en bas)"
    assert by_id["12"] == Item(item_id="12", title="unknown")
    assert (by_id["13"].title, by_id["13"].year) == ("Rope: Part III", 1996)


@pytest.mark.parametrize(
    ("raw", "title", "year"),
    [
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly", 1966),
        ("Enfer, L' (1994)", "L'Enfer", 1994),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("Horseman on the Roof, The (Hussard sur le toit, Le) (1995)", None, 1995),
        ("1984", "1984", None),
        ("unknown", "unknown", None),
    ],
)
def test_titles_are_split_and_put_in_order(raw: str, title: str | None, year: int | None) -> None:
    assert split_title(raw) == (title or "The Horseman on the Roof (Le Hussard sur le toit)", year)


@pytest.mark.parametrize(
    ("stars", "thumb", "positive"),
    [(1, "down", False), (2, "down", False), (3, None, True), (4, "up", True), (5, "up", True)],
)
def test_a_rating_is_a_click_a_play_and_for_most_stars_a_thumb(stars: int, thumb: str | None, positive: bool) -> None:
    label = label_of(stars)
    click, play, *thumbs = label.events
    assert isinstance(click, Click)
    assert isinstance(play, Play)
    assert play.watched_ms == round(play.duration_ms * WATCHED_SHARE[stars])
    assert [event.value for event in thumbs if isinstance(event, Thumb)] == ([thumb] if thumb else [])
    assert [event.event_ts_ms for event in label.events] == list(range(1_000, 1_000 + len(label.events)))
    assert label.positive is positive


def test_more_stars_are_a_longer_play() -> None:
    watched = [label_of(stars).events[1].watched_ms for stars in range(1, 6)]  # type: ignore[union-attr]
    assert watched == sorted(set(watched))


def test_every_derived_event_is_valid_and_its_id_is_its_own(grouplens: Path) -> None:
    log = load_movielens(grouplens)
    assert [decode_record(event.topic, encode_event(event)) for event in log.events] == log.events
    event_ids = [event.event_id for event in log.events]
    assert len(set(event_ids)) == len(event_ids)


def test_the_same_rating_always_gives_the_same_ids_whatever_the_shift(grouplens: Path) -> None:
    plain, shifted = load_movielens(grouplens), load_movielens(grouplens, now_ms=2_000_000_000_000)
    ids = [[[event.event_id for event in label.events] for label in log.labels] for log in (plain, shifted)]
    assert ids[0] == ids[1]
    assert [label.session_id for label in plain.labels] == [label.session_id for label in shifted.labels]
    assert {new.ts_ms - old.ts_ms for new, old in zip(shifted.labels, plain.labels, strict=True)} == {shifted.shift_ms}
    assert event_uuid("x") == str(uuid.uuid5(NAMESPACE, "x"))


def test_the_newest_rating_becomes_one_hour_old_and_a_young_log_stays() -> None:
    assert shift_ms(newest_ms=1_000, now_ms=10_000_000) == 10_000_000 - NEWEST_AGE_MS - 1_000
    assert shift_ms(newest_ms=9_000_000, now_ms=10_000_000) == 0
    assert shift_ms(newest_ms=20_000_000, now_ms=10_000_000) == 0


def test_labels_have_one_order_and_a_users_times_strictly_increase(grouplens: Path) -> None:
    labels = load_movielens(grouplens).labels
    assert [(label.ts_ms, label.user_id) for label in labels] == sorted(
        (label.ts_ms, label.user_id) for label in labels
    )
    assert [label.item_id for label in labels if label.user_id == "1"] == ["10", "11", "12", "10", "13", "11"]


@given(st.lists(st.integers(0, 3), max_size=400))
def test_ratings_that_share_seconds_keep_their_order_and_leave_room_for_their_events(gaps: list[int]) -> None:
    seconds = [START_S + sum(gaps[: at + 1]) for at in range(len(gaps))]
    times = [moment.ts_ms for moment in moments(Rating("1", str(at), 3, second) for at, second in enumerate(seconds))]
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(times))
    assert all(time >= second * 1000 for time, second in zip(times, seconds, strict=True))


def test_a_session_ends_with_a_gap_of_more_than_half_an_hour(grouplens: Path) -> None:
    sessions = [label.session_id for label in load_movielens(grouplens).labels if label.user_id == "1"]
    assert Counter(sessions) == {f"1-{START_S}": 5, f"1-{START_S + 2 + 2 * SESSION_GAP_S}": 1}


def test_the_first_title_of_a_session_is_never_more_like_this() -> None:
    first = {label_of(3, number, previous=None).task for number in range(200)}
    later = Counter(label_of(3, number).task for number in range(3_000))
    assert first == {"pre_query", "search"}
    assert all(900 < later[task] < 1_100 for task in ("pre_query", "search", "more_like_this"))


def test_only_search_has_a_query_and_only_more_like_this_a_source() -> None:
    for number in range(300):
        label = label_of(3, number)
        assert (label.query is not None) == (label.task == "search")
        assert (label.source_item_id is not None) == (label.task == "more_like_this")
        assert {(event.task, event.query, event.source_item_id, event.country) for event in label.events} == {
            (label.task, label.query, label.source_item_id, "US")
        }


def test_queries_are_mostly_short_prefixes_of_title_words_sometimes_misspelt_or_a_genre() -> None:
    item = Item(item_id="1", title="The Hunt for Red October", genres=("Action", "Thriller"))
    kinds: Counter[str] = Counter()
    for number in range(4_000):
        query = derive_query(item, Draw(str(number)))
        assert query is not None
        assert query == normalise_query(query)
        if query in {"action", "thriller"}:
            kinds["genre"] += 1
        elif any(word.startswith(query) for word in ("hunt", "red", "october")) and len(query) <= 6:
            kinds["prefix"] += 1
        else:
            kinds["typo"] += 1
            assert 2 <= len(query) <= 6
    assert 0.08 < kinds["genre"] / 4_000 < 0.12
    assert 0.12 < kinds["typo"] / 4_000 < 0.17


@given(st.text(max_size=40), st.integers(0, 1_000))
def test_any_title_gives_a_query_or_none(title: str, number: int) -> None:
    query = derive_query(Item(item_id="1", title=title or "x"), Draw(str(number)))
    assert query is None or query


def test_articles_are_words_only_when_nothing_else_is_left() -> None:
    assert title_words("The Rock") == ("rock",)
    assert title_words("The") == ("the",)
    assert title_words("!!!") == ()


@pytest.mark.parametrize(
    ("zip_code", "country"),
    [
        *(("55105", "US"), ("55105-1234", "US"), ("T8H1N", "CA"), ("v0r 2m0", "CA")),
        *(("00000", None), ("99999", None), ("E1", None), ("SW1A1", None), ("", None), ("٥٥١٠٥", None)),
    ],
)
def test_the_country_comes_from_the_zip_code_where_it_has_one(zip_code: str, country: str | None) -> None:
    assert country_of_zip(zip_code) == country


def test_an_empty_or_damaged_folder_says_what_is_wrong(tmp_path: Path, grouplens: Path) -> None:
    with pytest.raises(BadInput, match="nowrank data get"):
        load_movielens(tmp_path)
    (grouplens / "u.data").write_text("1\t10\t5\n")
    with pytest.raises(BadInput, match=r"u\.data, line 1: 3 columns"):
        load_movielens(grouplens)
    (grouplens / "u.data").write_text("1\t99\t5\t880000000\n")
    with pytest.raises(BadInput, match="unknown"):
        load_movielens(grouplens)
    (grouplens / "u.data").write_text("1\t10\tgood\t880000000\n")
    with pytest.raises(BadInput, match=r"u\.data, line 1"):
        load_movielens(grouplens)


def whole(ratings: int = RATINGS) -> movielens_files.Files:
    """Made-up files with the counts and the first and last second of the real ones."""
    seconds = [FIRST_S, *([FIRST_S + 5] * (ratings - 2)), LAST_S]
    lines = (f"{1 + at % MEMBERS}\t{1 + at % ITEMS}\t3\t{second}\n" for at, second in enumerate(seconds))
    flags = "|".join("0" for _ in GENRES)
    return {
        "u.data": "".join(lines).encode(),
        "u.item": "".join(f"{number}|T (1990)||||{flags}\n" for number in range(1, ITEMS + 1)).encode(),
        "u.user": "".join(f"{number}|1|F|other|55105\n" for number in range(1, MEMBERS + 1)).encode(),
    }


@pytest.mark.slow
def test_the_next_source_serves_when_one_cannot_and_a_second_get_fetches_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    def away() -> movielens_files.Files:
        raise OSError("no route")

    folder = movielens_files.get_movielens(
        tmp_path, said.append, [("one", away), ("two", lambda: whole(99_999)), ("three", whole)]
    )
    assert (folder / "source.json").is_file()
    assert len(load_movielens(folder).labels) == RATINGS
    assert [line.split(":")[0] for line in said[:2]] == ["not from one", "not from two"]
    assert movielens_files.get_movielens(tmp_path, said.append, [("one", away)]) == folder
    assert "already" in said[-1]
    assert list(folder.parent.iterdir()) == [folder]


def test_no_source_at_all_names_every_cause_and_what_to_do(tmp_path: Path) -> None:
    def away() -> movielens_files.Files:
        raise OSError("no route")

    with pytest.raises(NowrankError, match=r"one: no route; two: .*unpack its files into"):
        movielens_files.get_movielens(tmp_path, lambda _line: None, [("one", away), ("two", lambda: {"u.data": b""})])
    assert not movielens_files.is_complete(movielens_files.movielens_folder(tmp_path))


def test_another_archive_than_grouplens_own_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("ml-100k/u.data", "1\t1\t1\t1\n")
    (tmp_path / "ml-100k.zip").write_bytes(archive.getvalue())
    with pytest.raises(BadInput, match="MD5"):
        movielens_files.from_grouplens((tmp_path / "ml-100k.zip").as_uri())
