"""Bodies: read up to a limit, and taken apart when they hold many things.

Enters: a request's stream. Leaves: bytes, or the JSON values of an array, of lines, or of one object. Called by the
API.
"""

import asyncio
import re
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from starlette.requests import Request

from infra.errors import BadInput, InvalidRequest
from serving.contract import Rejected, decode_json
from serving.slices import in_slices

MAX_RANK_BYTES = 1024 * 1024
MAX_EVENTS_BYTES = 8 * 1024 * 1024
MAX_EVENTS = 10_000
# A title has four. Decoding is one step of the event loop, and a million empty arrays would make it a long one.
MAX_BRACKETS = 10 * MAX_EVENTS
MAX_READING_BYTES = 256 * 1024 * 1024

T = TypeVar("T")

_FILLED_LINE = re.compile(rb"\S.*")


class Parsed(NamedTuple):
    """The things that follow the rules, each one's place in the body, and those that do not."""

    values: list[Any]
    places: list[int]
    rejected: list[Rejected]


class BodyReader:
    """Reads bodies, each within `timeout_s`, and all that are being read within MAX_READING_BYTES."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._reading_bytes = 0

    async def read(self, request: Request, limit_bytes: int) -> bytes:
        """The body; raises `InvalidRequest` (`oversized`, `empty`, `slow_body`, `overloaded`).

        For a declared length before anything is read.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit_bytes:
            raise _oversized(f"the body has {declared} bytes", limit_bytes)
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._collect(request, limit_bytes)
        except TimeoutError as error:
            raise InvalidRequest("slow_body", f"the body did not come within {self._timeout_s:g} s") from error
        if not body.strip():
            raise InvalidRequest("empty", "the body is empty; send JSON")
        return bytes(body)

    async def _collect(self, request: Request, limit_bytes: int) -> bytearray:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._reading_bytes += len(chunk)
                if len(body) > limit_bytes:
                    raise _oversized("the body goes on", limit_bytes)
                if self._reading_bytes > MAX_READING_BYTES:
                    raise InvalidRequest("overloaded", "too many large bodies come at once; try again")
        finally:
            self._reading_bytes -= len(body)
        return body


async def parse_many(body: bytes, convert: Callable[[Any], T], *, is_lines: bool = False) -> Parsed:
    """One JSON object, an array of them, or one per line (NDJSON), each through `convert`, a slice at a time.

    `is_lines` says that the caller calls it NDJSON. Raises `InvalidRequest` for anything else.
    """
    parsed = Parsed([], [], [])
    async for some in in_slices(enumerate(_split(body, is_lines))):
        for index, value in some:
            try:
                thing = convert(value.read() if isinstance(value, _Line) else value)
            except BadInput as error:
                parsed.rejected.append(
                    Rejected(index=index, reason=error.reason, message=error.message, field=error.field)
                )
            else:
                parsed.values.append(thing)
                parsed.places.append(index)
    return parsed


class _Line(bytes):
    """A line of NDJSON that is still to be decoded, so that a broken one spoils only itself."""

    def read(self) -> Any:
        return decode_json(self)


def _split(body: bytes, is_lines: bool) -> list[Any]:
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_BRACKETS:
        raise InvalidRequest("oversized", f"the body opens {brackets} brackets; at most {MAX_BRACKETS} go into one")
    try:
        whole = decode_json(body)
        values: list[Any] = whole if isinstance(whole, list) else [whole]
    except InvalidRequest:
        values = _lines(body)
        if not is_lines and not _look_like_lines(values):
            raise
    if not values:
        raise InvalidRequest("empty", "the array is empty; send at least one")
    if len(values) > MAX_EVENTS:
        raise InvalidRequest("oversized", f"the body holds more than {MAX_EVENTS}; send them in several requests")
    return values


def _lines(body: bytes) -> list[_Line]:
    """The lines that are not blank; of too many one too many."""
    return [_Line(found[0]) for found in islice(_FILLED_LINE.finditer(body), MAX_EVENTS + 1)]


def _look_like_lines(lines: list[_Line]) -> bool:
    """Whether any is an object; the lines of an array that was cut off are none, though its last one may look so."""
    return len(lines) > 1 and not lines[0].startswith(b"[") and any(map(_is_object, lines))


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(decode_json(line), dict)
    except InvalidRequest:
        return False


def _oversized(seen: str, limit_bytes: int) -> InvalidRequest:
    return InvalidRequest("oversized", f"{seen}; here it may have at most {limit_bytes}")
