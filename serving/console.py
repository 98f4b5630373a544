"""A ranking as a table for people.

Enters: a `RankAnswer`. Leaves: lines of text. Called by `nowrank rank`.
"""

import unicodedata
from typing import TextIO

from serving.contract import Group, RankAnswer, RankedItem

TITLE_CHARS = 44
ID_CHARS = 12
LABEL_CHARS = 70


def print_answer(answer: RankAnswer, out: TextIO, *, is_logged: bool) -> None:
    """Print the rows, or the titles in order with their scores and the parts when the answer has them; then what the
    answer could use, and whether its id can be found in the log.
    """
    explained = any(item.parts is not None for item in answer.items)
    if answer.groups:
        _print_groups(answer.groups, out)
    else:
        _print_items(answer, out, explained)
    status = answer.status
    print(
        f"\n{answer.candidates} candidates in {answer.took_ms:.1f} ms, model {answer.model}; answer: {status.level} "
        f"(store {status.store}, model {status.model}, member {status.user}); ranking {answer.ranking_id}"
        + ("" if is_logged else ", not logged (--log)"),
        file=out,
    )
    if explained:
        _print_features(answer.items[0], out)


def _print_items(answer: RankAnswer, out: TextIO, explained: bool) -> None:
    head = f"{'#':>3}  {'item':<{ID_CHARS}} {'title':<{TITLE_CHARS}} {'score':>8}"
    print(head + (f" {'context':>8} {'long':>8} {'short':>8}" if explained else f" {'chance':>8}"), file=out)
    for place, item in enumerate(answer.items, 1):
        print(_line(place, item), file=out)
    if not answer.items:
        print("     nothing was found", file=out)


def _print_groups(groups: list[Group], out: TextIO) -> None:
    place = 0
    for group in groups:
        print(("\n" if place else "") + f"{_cut(group.label, LABEL_CHARS)}  [{group.kind}]", file=out)
        for item in group.items:
            place += 1
            title = _cut(item.title or "(unknown title)", TITLE_CHARS)
            print(
                f"{place:>3}  {_cut(item.item_id, ID_CHARS):<{ID_CHARS}} {title:<{TITLE_CHARS}} {item.score:>8.3f}",
                file=out,
            )


def _line(place: int, item: RankedItem) -> str:
    title = _cut(item.title or "(unknown title)", TITLE_CHARS)
    name = f"{place:>3}  {_cut(item.item_id, ID_CHARS):<{ID_CHARS}} {title:<{TITLE_CHARS}}"
    if item.parts is not None:
        parts = item.parts
        return f"{name} {item.score:>8.3f} {parts.context:>8.3f} {parts.long_term:>+8.3f} {parts.short_term:>+8.3f}"
    chance = "" if item.probability is None else f"{100 * item.probability:.1f} %"
    return f"{name} {item.score:>8.3f} {chance:>8}"


def _print_features(item: RankedItem, out: TextIO) -> None:
    gate = item.parts.gate if item.parts is not None else None
    print(
        f"\nWhy {_cut(item.title or item.item_id, TITLE_CHARS)} is first"
        + ("" if gate is None else f" (session's share: {gate:.2f})"),
        file=out,
    )
    print(f"  {'feature':<26} {'value':>9}  {'part':<8} {'status':<8} age", file=out)
    for name, feature in (item.features or {}).items():
        age = "" if feature.age_ms is None else _age(feature.age_ms)
        print(f"  {name:<26} {feature.value:>9.4f}  {feature.part:<8} {feature.status:<8} {age}", file=out)


def _age(age_ms: int) -> str:
    if age_ms < 10_000:
        return f"{age_ms} ms"
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if age_ms >= 2 * size_ms:
            return f"{age_ms / size_ms:.0f} {unit}"
    return f"{age_ms / 1000:.0f} s"


def _cut(text: str, limit: int) -> str:
    """Safe for a terminal: no control characters, at most `limit` of the others."""
    clean = "".join("?" if unicodedata.category(character)[0] == "C" else character for character in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
