"""Files of rows: CSV, TSV, JSON lines and Parquet behind one iterator.

Enters: a path. Leaves: the column names, where the format has them, and rows with their number; a row that cannot be
read carries its fault instead of cells. Called by `streams.sources.table`. pyarrow is needed for Parquet alone.
"""

import csv
import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import msgspec

from infra.errors import BadInput, InvalidEvent
from streams.events import MAX_EVENT_BYTES

CSV, TSV = ".csv", ".tsv"
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
BATCH_ROWS = 4096
QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number from 1, its cells by column, or why it has none. Cells of text files are all text."""

    number: int
    cells: dict[str, Any] = field(default_factory=dict)
    is_text: bool = False
    fault: InvalidEvent | None = None


Table = tuple[list[str] | None, Iterator[Row]]


def open_table(path: Path, is_wanted: Callable[[str], bool] = bool) -> Table:
    """The columns (None where each row names its own) and the rows of a file, or of a folder of Parquet files; raises
    `BadInput`, and while the rows are read too. Where columns stand apart, only those that are wanted are read.
    """
    with reading(path):
        columns, rows = _open(path, is_wanted)
    return columns, _rows_of(path, rows)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system refuses while a path is read is `BadInput` that names it."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            "not_readable", f"{path} cannot be read: {error.strerror}; see who may read it, or copy it elsewhere"
        ) from error


def _rows_of(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    with reading(path):
        yield from rows


def _open(path: Path, is_wanted: Callable[[str], bool]) -> Table:
    if parts := parquet_parts(path):
        return _open_parquet(parts, is_wanted)
    if path.is_dir():
        raise BadInput(
            "not_found",
            f"{path} is a folder that holds no {PARQUET} file itself; those of folders within it (partitions) are not "
            "read: put them into one folder, or write one file",
        )
    if not path.is_file():
        raise BadInput("not_found", f"{path} is no file")
    suffix = path.suffix.lower()
    if suffix in (CSV, TSV):
        return _open_csv(path, is_tsv=suffix == TSV)
    if suffix in JSON_LINES:
        return None, _json_rows(path.open("rb"))
    if suffix == PARQUET:
        return _open_parquet([path], is_wanted)
    known = ", ".join((CSV, TSV, *JSON_LINES, PARQUET))
    raise BadInput("unknown_format", f"{path} ends in {suffix!r}; files that end in {known} can be read")


class _Lines:
    """The lines of a text file; those taken for a row that is none can be taken again, each for itself."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._again: deque[str] = deque()
        self._taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self.stream)
        self._taken.append(line)
        return line

    def begin_row(self) -> None:
        """What was taken is a row."""
        self._taken.clear()

    def give_back(self) -> None:
        """What was taken is no row: only its first line is done with."""
        self._again.extendleft(reversed(self._taken[1:]))
        self._taken.clear()


def _open_csv(path: Path, is_tsv: bool) -> Table:
    # Bytes that are not UTF-8 come through as surrogates, so that their row alone is rejected.
    lines = _Lines(path.open(encoding="utf-8-sig", errors="surrogateescape", newline=""))
    reader = _tsv_cells(lines) if is_tsv else _csv_cells(lines)
    try:
        columns = [name.strip() for name in next(reader, [])]
        "".join(columns).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        raise BadInput("malformed_header", f"{path}: its first line cannot be read: {error}") from error
    if not any(columns) or len(set(columns)) != len(columns):
        raise BadInput("malformed_header", f"{path}: its first line must name each column once; it is {columns}")
    return columns, _csv_rows(lines, reader, columns)


def _csv_cells(lines: Iterable[str]) -> Iterator[list[str]]:
    # Strict: otherwise one quote that nobody closes would make a single cell of all that follows.
    return csv.reader(lines, strict=True)


def _tsv_cells(lines: Iterable[str]) -> Iterator[list[str]]:
    """A tab always parts cells, and a line's end rows: most of these files are written without quoting, and a title may
    begin with a quote. A cell that is wholly in quotes, those in it doubled, is what they hold.
    """
    return map(_unquoted, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _unquoted(cells: list[str]) -> list[str]:
    return [cell[1:-1].replace('""', '"') if QUOTED.fullmatch(cell) else cell for cell in cells]


def _csv_rows(lines: _Lines, reader: Iterator[list[str]], columns: list[str]) -> Iterator[Row]:
    with lines.stream:
        number = 0
        while True:
            lines.begin_row()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                lines.give_back()
                yield Row(number, fault=InvalidEvent("malformed_row", f"it is no row of a CSV file: {error}"))
                continue
            if not cells:
                continue
            number += 1
            yield _csv_row(number, cells, columns)


def _csv_row(number: int, cells: list[str], columns: list[str]) -> Row:
    if len(cells) != len(columns):
        return Row(number, fault=InvalidEvent("malformed_row", f"it has {len(cells)} cells, the header {len(columns)}"))
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Row(number, fault=InvalidEvent("malformed_row", "it is not UTF-8"))
    return Row(number, dict(zip(columns, cells, strict=True)), is_text=True)


def _json_rows(stream: BinaryIO) -> Iterator[Row]:
    with stream:
        if stream.read(len(BOM_UTF8)) != BOM_UTF8:
            stream.seek(0)
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> Row:
    if len(line) > MAX_EVENT_BYTES:
        return Row(
            number, fault=InvalidEvent("oversized", f"it has {len(line)} bytes; a row has at most {MAX_EVENT_BYTES}")
        )
    try:
        cells = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Row(number, fault=InvalidEvent("malformed_json", f"it is not JSON: {error}"))
    if not isinstance(cells, dict):
        return Row(number, fault=InvalidEvent("malformed_json", "it is no JSON object"))
    return Row(number, cells)


def parquet_parts(folder: Path) -> list[Path]:
    """The Parquet files that a folder holds, by name."""
    return sorted(path for path in folder.glob(f"*{PARQUET}") if path.is_file() and path.name[0] not in "._")


def _open_parquet(paths: list[Path], is_wanted: Callable[[str], bool]) -> Table:
    columns = _parquet_columns(paths[0])
    if len(set(columns)) != len(columns):
        raise BadInput("malformed_header", f"{paths[0]} must have each column once; it has {', '.join(columns)}")
    for path in paths[1:]:
        if (others := _parquet_columns(path)) != columns:
            raise BadInput(
                "malformed_file",
                f"{path} has the columns {', '.join(others)}; {paths[0]} has {', '.join(columns)}: give each alone",
            )
    return columns, _parquet_rows(paths, [column for column in columns if is_wanted(column)])


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            return list(table.schema_arrow.names)
    except PermissionError:
        raise  # it may well be one
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput("malformed_file", f"{path} is no Parquet file: {error}") from error


def _parquet_rows(paths: list[Path], columns: list[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    for path in paths:
        try:
            with pyarrow.parquet.ParquetFile(path) as table:
                for batch in table.iter_batches(BATCH_ROWS, columns=columns):
                    for row in _batch_rows(_in_utc(batch), number):
                        number = row.number
                        yield row
        except (pyarrow.ArrowException, OSError) as error:
            raise BadInput("malformed_file", f"{path} cannot be read beyond row {number}: {error}") from error


def _in_utc(batch: Any) -> Any:
    """The batch, its timestamps in UTC without saying so and no finer than milliseconds: Python has neither nanoseconds
    nor every time zone.
    """
    import pyarrow

    for place, column in enumerate(batch.columns):
        if pyarrow.types.is_timestamp(column.type):
            unit = "s" if column.type.unit == "s" else "ms"
            plain = column.cast(pyarrow.timestamp(unit, column.type.tz), safe=False).cast(pyarrow.timestamp(unit))
            batch = batch.set_column(place, batch.schema.names[place], plain)
    return batch


def _batch_rows(batch: Any, before: int) -> Iterator[Row]:
    """The rows of a batch that `before` rows precede."""
    # Times beyond Python's, unknown time zones, text that is not UTF-8, ...
    unreadable = (OverflowError, ValueError, LookupError)
    try:
        all_cells = batch.to_pylist()
    except unreadable as error:
        if batch.num_rows == 1:
            yield Row(before + 1, fault=InvalidEvent("malformed_row", f"it cannot be read: {error}"))
        else:
            for place in range(batch.num_rows):
                yield from _batch_rows(batch.slice(place, 1), before + place)
        return
    for number, cells in enumerate(all_cells, start=before + 1):
        yield Row(number, cells)
