"""Files of rows: CSV, TSV, JSON lines and Parquet behind one iterator.

Enters: a path. Leaves: the column names, where the format has them, and rows with their number; a row that cannot be
read carries its fault instead of cells. Called by `streams.sources.table`. pyarrow is needed for Parquet alone.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import msgspec

from infra.errors import BadInput, InvalidEvent
from streams.events import MAX_EVENT_BYTES

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number from 1, its cells by column, or why it has none. Cells of text files are all text."""

    number: int
    cells: dict[str, Any] = field(default_factory=dict)
    is_text: bool = False
    fault: InvalidEvent | None = None


Table = tuple[list[str] | None, Iterator[Row]]


def open_table(path: Path) -> Table:
    """The columns (None where each row names its own) and the rows of a file; raises `BadInput`."""
    if not path.is_file():
        raise BadInput("not_found", f"{path} is no file")
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return _open_csv(path, DELIMITERS[suffix])
    if suffix in JSON_LINES:
        return None, _json_rows(path.open("rb"))
    if suffix == PARQUET:
        return _open_parquet(path)
    known = ", ".join((*DELIMITERS, *JSON_LINES, PARQUET))
    raise BadInput("unknown_format", f"{path} ends in {suffix!r}; files that end in {known} can be read")


def _open_csv(path: Path, delimiter: str) -> Table:
    # Bytes that are not UTF-8 come through as surrogates, so that their row alone is rejected.
    stream = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(stream, delimiter=delimiter)
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadInput("malformed_header", f"{path}: its first line cannot be read: {error}") from error
    if not any(columns) or len(set(columns)) != len(columns):
        raise BadInput("malformed_header", f"{path}: its first line must name each column once; it is {columns}")
    return columns, _csv_rows(stream, reader, columns)


def _csv_rows(stream: TextIO, reader: Any, columns: list[str]) -> Iterator[Row]:
    with stream:
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
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


def _open_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput("malformed_file", f"{path} is no Parquet file: {error}") from error
    return list(table.schema_arrow.names), _parquet_rows(table)


def _parquet_rows(table: Any) -> Iterator[Row]:
    with table:
        number = 0
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            for cells in batch.to_pylist():
                number += 1
                yield Row(number, cells)
