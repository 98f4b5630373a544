"""Values of a table's cells: what a text file's text, and JSON's and Parquet's own values, are as values of our fields.

Enters: a field's name and a cell that is not empty. Leaves: the value as the wire has it, or `InvalidEvent`. Called by
`streams.sources.table`.
"""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from infra.errors import InvalidEvent

WHOLE_NUMBERS = frozenset({"position", "watched_ms", "duration_ms", "year"})
TIMES = frozenset({"event_ts_ms", "available_from_ms"})
LISTS = frozenset({"genres", "people", "countries"})
LIST_SEPARATOR = "|"
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# No time and no count is as great; a float up to the second one has the digits that it was made of.
NUMBER_LIMIT = 2**63
EXACT_FLOAT_LIMIT = 2**53
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
KINDS = {
    bool: "a truth value", bytes: "binary data", list: "a list", dict: "a record", datetime: "a timestamp",
    date: "a date", time: "a time of day", timedelta: "a duration",
}  # fmt: skip
SHOWN_CHARS = 60


def field_value(name: str, value: Any, is_text: bool, times_in_s: bool) -> Any:
    """The value of the field `name`; raises `InvalidEvent`. `is_text`: the file holds nothing but text; `times_in_s`:
    times that are numbers are seconds.
    """
    if name in TIMES:
        return _time_ms(name, value, is_text, times_in_s)
    if name in WHOLE_NUMBERS:
        return _whole_number(name, value, is_text)
    if name in LISTS and is_text:
        return [part.strip() for part in value.split(LIST_SEPARATOR) if part.strip()]
    if name == "deleted" and is_text:
        if value.strip().lower() not in TRUTHS:
            raise InvalidEvent("invalid_field", f"{_described(value)} is neither true nor false", name)
        return TRUTHS[value.strip().lower()]
    # Ids are often numbers in tables; an id is their text, and of text as it is written: 7.0 may be meant.
    return _digits(name, value) if name.endswith("_id") and not isinstance(value, str) else value


def _time_ms(name: str, value: Any, is_text: bool, in_s: bool) -> int:
    """Milliseconds since 1970; a part of one is cut off a timestamp, and rounded off a number of seconds."""
    number = _number(value, is_text)
    if number is not None:
        whole = round(number * 1000 if in_s else number)
        if in_s or whole == number:
            return whole
    elif (moment := _moment(value)) is not None:
        return (moment - EPOCH) // MILLISECOND
    unit = "seconds" if in_s else "whole milliseconds"
    raise InvalidEvent(
        "invalid_field",
        f"{_described(value)} is no time; give {unit} since 1970, a timestamp, or ISO 8601 with Z or an offset",
        name,
    )


def _moment(value: Any) -> datetime | None:
    """The moment that a timestamp, a date or ISO 8601 says: of values without a time zone UTC's, of text without one
    none.
    """
    if isinstance(value, str):
        try:
            told = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        return told if told.tzinfo is not None else None
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if isinstance(value, date) else None


def _whole_number(name: str, value: Any, is_text: bool) -> int:
    number = _number(value, is_text)
    if number is None or round(number) != number:
        raise InvalidEvent("invalid_field", f"{_described(value)} is no whole number", name)
    return round(number)


def _number(value: Any, is_text: bool) -> int | float | Decimal | None:
    """None for what is no number, or too great to be one of ours."""
    if is_text:
        try:
            value = _number_in(value.strip())
        except ValueError:
            return None
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return value if is_number and -NUMBER_LIMIT < value < NUMBER_LIMIT else None


def _number_in(text: str) -> int | float:
    """Raises `ValueError` for what is none, also where Python takes it for one: 1_000, or digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        return float(text)


def _digits(name: str, value: Any) -> str:
    """The digits of a whole number that nothing has been rounded off."""
    match value:
        case bool():
            pass
        case int():
            return str(value)
        case float() if value.is_integer() and abs(value) < EXACT_FLOAT_LIMIT:
            return str(int(value))
        case Decimal() if value == value.to_integral_value():
            return str(int(value))
    raise InvalidEvent("invalid_field", f"{_described(value)} is no id; give text or a whole number", name)


def _described(value: Any) -> str:
    text = KINDS.get(type(value)) or (repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
