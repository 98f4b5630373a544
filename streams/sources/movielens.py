"""MovieLens-100k: its files read into titles, members and ratings, and from those into a log of derived events.

Enters: a folder with GroupLens' own files (`u.data`, `u.item`, `u.user`) or with the same data in RecBole's form
(`ml-100k.inter`, `.item`, `.user`). Leaves: a `Log`. Called by the import command, training and evaluation.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from features.catalogue import Item
from infra.errors import BadInput
from streams.labels import Log
from streams.sources.derive import WATCHED_SHARE, Member, Rating, derive_labels
from streams.sources.shift import shift_ms

T = TypeVar("T")

NAME = "movielens-100k"
DERIVED = "clicks, plays, thumbs, tasks and queries of this log are derived from ratings"
# What the complete data set holds, by its own README.
RATINGS, ITEMS, MEMBERS = 100_000, 1_682, 943
FIRST_S, LAST_S = 874_724_710, 893_286_638

# The order of the flags in `u.item`.
GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
UNKNOWN_GENRE = "unknown"
UNKNOWN_TITLES = frozenset({"unknown", "unkonwn"})
ARTICLES = "The|A|An|Il|La|Le|Les|L'|Lo|Das|Der|Die|El|Los|Las|Un|Une"

_TITLE_YEAR = re.compile(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\))?\s*(?:\(V\))?\s*$")
_LATE_ARTICLE = re.compile(rf"(?P<lead>^|\()(?P<rest>[^()]+), (?P<article>{ARTICLES})(?=\s*(?:\(|\)|$))")


@dataclass(frozen=True, slots=True)
class Tables:
    """The three tables of the data set."""

    ratings: list[Rating]
    items: list[Item]
    members: list[Member]


def load_movielens(folder: Path, now_ms: int | None = None) -> Log:
    """The log in a folder, moved so that its newest rating is one hour old at `now_ms` (None: not moved); raises
    `BadInput`.
    """
    tables = read_tables(folder)
    newest_ms = max(rating.ts_s for rating in tables.ratings) * 1000
    by_ms = 0 if now_ms is None else shift_ms(newest_ms, now_ms)
    items = {item.item_id: item for item in tables.items}
    members = {member.user_id: member for member in tables.members}
    return Log(tables.items, derive_labels(tables.ratings, items, members, by_ms), by_ms, DERIVED)


def holds_movielens(folder: Path) -> bool:
    """Whether the folder holds the ratings, in either of the two forms."""
    return any((folder / name).is_file() for name in ("u.data", "ml-100k.inter"))


def read_tables(folder: Path) -> Tables:
    """The tables in a folder, in whichever of the two forms it holds; raises `BadInput` when it holds none or a line
    is damaged.
    """
    if (folder / "u.data").is_file():
        tables = Tables(
            _read(folder / "u.data", _rating, 4),
            _read(folder / "u.item", _item_of_flags, 5 + len(GENRES), "|", "latin-1"),
            _read(folder / "u.user", _member, 5, "|"),
        )
    elif (folder / "ml-100k.inter").is_file():
        tables = Tables(
            _read(folder / "ml-100k.inter", _rating, 4, header=True),
            _read(folder / "ml-100k.item", _item_of_columns, 4, header=True),
            _read(folder / "ml-100k.user", _member, 5, header=True),
        )
    else:
        raise BadInput("not_found", f"{folder} holds no MovieLens-100k; `nowrank data get {NAME}` gets it")
    unknown = {rating.item for rating in tables.ratings} - {item.item_id for item in tables.items}
    if not tables.ratings or unknown:
        raise BadInput(
            "invalid_field",
            f"{folder} is incomplete: {len(tables.ratings)} ratings, {len(unknown)} titles of them unknown",
        )
    return tables


def check_complete(tables: Tables) -> None:
    """Raise `BadInput` unless these are the whole MovieLens-100k: its counts, its first and its last second."""
    seconds = [rating.ts_s for rating in tables.ratings]
    seen = (len(tables.ratings), len(tables.items), len(tables.members), min(seconds), max(seconds))
    if seen != (RATINGS, ITEMS, MEMBERS, FIRST_S, LAST_S):
        raise BadInput(
            "invalid_field",
            f"ratings, titles, members, first and last second are {seen}; MovieLens-100k has other figures",
        )


def make_item(item_id: str, raw_title: str, genres: Iterable[str]) -> Item:
    """The title as the catalogue has it: `Usual Suspects, The (1995)` is The Usual Suspects of 1995."""
    title, year = split_title(raw_title)
    return Item(
        item_id=item_id, title=title, year=year, genres=tuple(genre for genre in genres if genre != UNKNOWN_GENRE)
    )


def split_title(raw: str) -> tuple[str, int | None]:
    """A title with its articles in front, and the year that stood behind it, if one did."""
    match = _TITLE_YEAR.match(raw.strip())
    title, year = (match["title"], match["year"]) if match else (raw, None)
    if title in UNKNOWN_TITLES or not title:
        return "unknown", None
    return _LATE_ARTICLE.sub(_article_first, title), int(year) if year else None


def _article_first(match: re.Match[str]) -> str:
    space = "" if match["article"].endswith("'") else " "
    return f"{match['lead']}{match['article']}{space}{match['rest']}"


def _item_of_flags(cells: list[str]) -> Item:
    flags = cells[5:]
    return make_item(cells[0], cells[1], [genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1"])


def _item_of_columns(cells: list[str]) -> Item:
    item_id, title, year, genres = cells
    return make_item(item_id, f"{title} ({year})" if year.isdigit() else title, genres.split())


def _member(cells: list[str]) -> Member:
    user_id, age, gender, occupation, zip_code = cells
    return Member(user_id, int(age), gender, occupation, zip_code)


def _rating(cells: list[str]) -> Rating:
    user, item, stars, ts = cells
    rating = Rating(user, item, int(float(stars)), int(float(ts)))
    if rating.stars not in WATCHED_SHARE:
        raise ValueError(f"{stars} stars; there are 1 to 5")
    return rating


def _read(
    path: Path,
    make: Callable[[list[str]], T],
    columns: int,
    separator: str = "\t",
    encoding: str = "utf-8",
    header: bool = False,
) -> list[T]:
    """What `make` makes of each line; raises `BadInput` with the line's number."""
    try:
        lines = path.read_text(encoding).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("not_found", f"{path} cannot be read: {error}") from error
    made = []
    for number, line in enumerate(lines, start=1):
        if not line or (header and number == 1):
            continue
        cells = line.split(separator)
        if len(cells) != columns:
            raise BadInput("malformed_row", f"{path}, line {number}: {len(cells)} columns; there must be {columns}")
        try:
            made.append(make(cells))
        except (ValueError, OverflowError) as error:
            raise BadInput("malformed_row", f"{path}, line {number}: {error}") from error
    return made
