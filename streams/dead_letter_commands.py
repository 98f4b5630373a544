"""The command `nowrank dead-letters`.

Enters: arguments, for a repair also the bytes of a file. Leaves: dead letters on the terminal, never with a control
character of theirs, or on their topics again. Called by `nowrank.cli`.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from infra.connected import require_broker
from infra.errors import NowrankError
from infra.settings import Settings, load_settings

if TYPE_CHECKING:
    from streams.dead_letters import DeadLetter

EXAMPLES = """examples:
  nowrank dead-letters list                     counts by reason, then one line each, the newest last
  nowrank dead-letters list --reason poison --limit 10
  nowrank dead-letters show plays-3-1042        one in full: why, where, when, its bytes
  nowrank dead-letters resend plays-3-1042      send its bytes to its topic again
  nowrank dead-letters resend --reason poison   the same for all of a reason

to repair one:
  nowrank dead-letters show plays-3-1042 --save event.json
  $EDITOR event.json
  nowrank dead-letters resend plays-3-1042 --value event.json     (or --value - for standard input)

Bytes that would be refused once more are not sent. An event that is sent twice counts once, by its
event_id, as long as it is among the last 64 of its user on that topic-partition."""

SHOWN = 100
DUMPED_BYTES = 4096
HEX_WIDTH = 16


def dead_letters_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank dead-letters`."""
    parser.add_argument("action", choices=("list", "show", "resend"))
    parser.add_argument("name", nargs="?", help="topic-partition-offset of the refused record")
    parser.add_argument("--reason", help="only dead letters of this reason")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"list only the newest N; 0: all (default: {SHOWN}, with --json all)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, the bytes in base64")
    parser.add_argument("--save", type=Path, metavar="FILE", help="show: write the bytes to FILE as they are")
    parser.add_argument("--value", metavar="FILE", help="resend: the repaired bytes; - reads standard input")
    parser.epilog = EXAMPLES


def dead_letters(args: argparse.Namespace) -> int:
    """List, show or resend dead letters; exit code 1 when some would be refused once more."""
    settings = require_broker(load_settings())
    if args.action == "list":
        return _list(settings, args)
    return _show(settings, args) if args.action == "show" else _resend(settings, args)


def _list(settings: Settings, args: argparse.Namespace) -> int:
    letters = _chosen(settings, args)
    limit = args.limit if args.limit is not None else 0 if args.json else SHOWN
    shown = letters[-limit:] if limit > 0 else letters
    if args.json:
        print(*(json.dumps(_plain(letter)) for letter in shown), sep="\n", end="\n" if shown else "")
        return 0
    if not letters:
        print("there are no dead letters" + (f" of reason {printable(args.reason)!r}" if args.reason else ""))
        return 0
    for reason, count in Counter(letter.reason for letter in letters).most_common():
        print(f"{count:>8} {printable(reason)}")
    if len(shown) < len(letters):
        print(f"the newest {len(shown)} of {len(letters)}; --limit 0 lists all")
    for letter in shown:
        print(f"{printable(letter.name)}  {printable(letter.reason)}: {printable(letter.message)}")
    return 0


def _show(settings: Settings, args: argparse.Namespace) -> int:
    from streams.dead_letters import find_dead_letter

    if not args.name:
        raise NowrankError("name the dead letter to show, e.g. plays-3-1042; `nowrank dead-letters list` names them")
    letter = find_dead_letter(settings, args.name)
    if args.save:
        try:
            args.save.write_bytes(letter.raw)
        except OSError as error:
            raise NowrankError(f"{args.save} cannot be written: {error}") from error
        print(f"{len(letter.raw)} bytes of {printable(letter.name)} are in {args.save}")
    elif args.json:
        print(json.dumps(_plain(letter)))
    else:
        print("\n".join(_described(letter)))
    return 0


def _resend(settings: Settings, args: argparse.Namespace) -> int:
    from streams.dead_letters import resend

    if not args.name and not args.reason:
        raise NowrankError("name a dead letter, or a --reason, to resend")
    if args.value is not None and not args.name:
        raise NowrankError("--value repairs one record: name its dead letter")
    repaired = None if args.value is None else _read_value(args.value)
    resent = resend(settings, _chosen(settings, args), repaired)
    print(f"sent {resent.sent} {'record' if resent.sent == 1 else 'records'} again")
    for letter, why in resent.refused:
        print(f"not sent, it would be refused again: {printable(letter.name)}: {printable(why)}", file=sys.stderr)
    if resent.refused and repaired is None:
        print("repair one: nowrank dead-letters show NAME --save FILE, then resend NAME --value FILE", file=sys.stderr)
    return 1 if resent.refused else 0


def _chosen(settings: Settings, args: argparse.Namespace) -> "list[DeadLetter]":
    from streams.dead_letters import find_dead_letter, read_dead_letters

    if args.name:
        return [find_dead_letter(settings, args.name)]
    return [letter for letter in read_dead_letters(settings) if args.reason in (None, letter.reason)]


def _read_value(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise NowrankError(f"the repaired bytes cannot be read from {name}: {error}") from error


def _plain(letter: "DeadLetter") -> dict[str, str | int]:
    return {
        "name": letter.name,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "broker_ts_ms": letter.broker_ts_ms,
        "reason": letter.reason,
        "message": letter.message,
        "value": letter.value,
    }


def _described(letter: "DeadLetter") -> Iterator[str]:
    """A dead letter in full, for people: why, where, when, and its bytes."""
    yield printable(letter.name)
    yield f"  reason   {printable(letter.reason)}"
    yield f"  message  {printable(letter.message)}"
    yield f"  place    topic {printable(letter.topic)}, partition {letter.partition}, offset {letter.offset}"
    yield f"  time     {_utc(letter.broker_ts_ms)}, by the broker"
    raw = letter.raw
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        yield f"  bytes    {len(raw)}, not UTF-8 from byte {error.start} on"
        yield from hex_lines(raw[:DUMPED_BYTES])
        if len(raw) > DUMPED_BYTES:
            yield f"  ... and {len(raw) - DUMPED_BYTES} bytes more; --save FILE writes all of them"
        return
    yield f"  bytes    {len(raw)}, UTF-8"
    yield from (f"  {printable(line)}" for line in text.split("\n") if text)


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would obey instead of show: controls, newlines, directions of
    writing, lone surrogates.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def hex_lines(raw: bytes) -> Iterator[str]:
    """A hex dump: offset, bytes, and those of them that are printable ASCII."""
    for begin in range(0, len(raw), HEX_WIDTH):
        part = raw[begin : begin + HEX_WIDTH]
        ascii_text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        yield f"  {begin:08x}  {part.hex(' '):<{3 * HEX_WIDTH - 1}}  {ascii_text}"


def _utc(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms since 1970"
