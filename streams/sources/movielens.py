"""MovieLens-100k: its files read into titles, members and ratings, and from those into a log of derived events.

Enters: a folder with GroupLens' own files (`u.data`, `u.item`, `u.user`) or with the same data in RecBole's form
(`ml-100k.inter`, `.item`, `.user`). Leaves: a `Log`. Called by the import command, training and evaluation.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from features.catalogue import Item
from infra.errors import BadInput
from streams.labels import Log
from streams.sources.derive import Member, Rating, derive_labels
from streams.sources.shift import shift_ms

NAME = "movielens-100k"
# What the complete data set holds, by its own README.
RATINGS, ITEMS, MEMBERS = 100_000, 1_682, 943
FIRST_S, LAST_S = 874_724_710, 893_286_638

# The order of the flags in `u.item`.
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
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
    return Log(tables.items, derive_labels(tables.ratings, items, members, by_ms), by_ms)


def read_tables(folder: Path) -> Tables:
    """The tables in a folder, in whichever of the two forms it holds; raises `BadInput` when it holds none or a line
    is damaged.
    """
    if (folder / "u.data").is_file():
        tables = Tables(
            [Rating(user, item, int(stars), int(ts)) for user, item, stars, ts in _lines(folder / "u.data", "\t", 4)],
            [_item_of_flags(cells) for cells in _lines(folder / "u.item", "|", 5 + len(GENRES), "latin-1")],
            [_member(cells) for cells in _lines(folder / "u.user", "|", 5)],
        )
    elif (folder / "ml-100k.inter").is_file():
        tables = Tables(
            [
                Rating(user, item, int(float(stars)), int(float(ts)))
                for user, item, stars, ts in _table(folder / "ml-100k.inter", 4)
            ],
            [_item_of_columns(cells) for cells in _table(folder / "ml-100k.item", 4)],
            [_member(cells) for cells in _table(folder / "ml-100k.user", 5)],
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


def _table(path: Path, columns: int) -> Iterator[list[str]]:
    """The rows of a tab-separated file below its header."""
    rows = _lines(path, "\t", columns)
    next(rows, None)
    return rows


def _lines(path: Path, separator: str, columns: int, encoding: str = "utf-8") -> Iterator[list[str]]:
    try:
        lines = path.read_text(encoding).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("not_found", f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        cells = line.split(separator)
        if len(cells) != columns:
            raise BadInput("malformed_row", f"{path}, line {number}: {len(cells)} columns; there must be {columns}")
        yield cells
