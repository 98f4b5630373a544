"""`nowrank features`: the registry, and rows as they stand in the online store.

Enters: arguments. Leaves: text or JSON on standard output. Called by the command line.
"""

import argparse
import base64
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import redis

from features.engagement import Kind, Thumb
from features.feast_repo.apply import apply_feast, feast_folder
from features.online_store import connect, no_answer, read_states
from features.read_time import read_time_values
from features.registry import VIEWS, feature_table, read_time_table
from features.rows import FAMILIES, QUERY, USER, RowFamily
from features.session import current_session
from features.spec import ViewSpec
from features.text import normalise_query
from features.user import UserState
from features.user_history import top_titles
from infra.clock import now_ms
from infra.connected import require_store
from infra.settings import Settings, load_settings

SHOWN_TITLES = 10
VIEWS_BY_NAME: dict[str, tuple[RowFamily, ViewSpec]] = {
    view.name: (family, view) for family in FAMILIES for view in family.views
}

EXAMPLES = """\
examples:
  nowrank features list
  nowrank features show 42 43              what two members are doing now, and what they have always liked
  nowrank features read item 50            every feature of an item's row
  nowrank features read query "star wars" --json
  nowrank features apply                   then, with Feast's own tools:
    feast -c .nowrank/feast feature-views list
    feast -c .nowrank/feast get-online-features -e item_id=50 -f item:item_clicks_1d -f item:item_plays_30m
  nowrank features docs > docs/features.md
"""


PAGE_HEAD = """\
# Features

Every feature that the workers keep in the online store, by view. A name is `<entity>_<signal>_<half-life>`: what ends
in `30m`, `1d` or `14d` is a decayed sum or weight. `as of` times are event times in milliseconds since 1970, UTC. This
page is generated from `features/registry.py`: `nowrank features docs > docs/features.md`.

"""
READ_TIME_HEAD = """
## Computed when a row is read

What depends on the clock or on the whole catalogue, and long lists, are not stored by name. Feast's on-demand views
compute them from the packed state and from what the reader passes beside the key (`now_ms`, the priors). A title's
rates are drawn to the catalogue's own, which count as much as ten plays; the scorer logs those it used with every
ranking.

"""
PAGE_FOOT = """
## Reading them

`nowrank features read item 50` prints a row by name, `nowrank features show 42` what a member does and likes. The same
rows through Feast, once `nowrank features apply` has been run (again, when the store's address has changed):

```
feast -c .nowrank/feast feature-views list
feast -c .nowrank/feast get-online-features -e item_id=50 -f item:item_clicks_1d -f item:item_plays_30m
```

Feast's command line cannot print the `Bytes` features; its Python SDK reads them:

```python
from feast import FeatureStore

store = FeatureStore(repo_path=".nowrank/feast")
row = store.get_online_features(["item:item_clicks_1d", "item:item_packed"], [{"item_id": "50"}]).to_dict()
```

Feast does not check a view's time to live when it reads online: a row is as old as its `as_of_ms` says. A missing row
answers None for every feature. Write with the workers only: Feast's `push` and `write_to_online_store` use the same
layout, but they know nothing of the offsets a row contains.
"""


def features_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank features`."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="list every view and feature")
    show = actions.add_parser("show", help="show users: the open session, the heaviest titles, the thumbs")
    show.add_argument("users", nargs="+", metavar="USER", help="user ids")
    read = actions.add_parser("read", help="read one row and print its features by name")
    read.add_argument("view", choices=sorted(VIEWS_BY_NAME), metavar="VIEW", help=", ".join(VIEWS_BY_NAME))
    read.add_argument("key", metavar="KEY", help="the user, item, query, source item or country")
    read.add_argument("--json", action="store_true", help="one JSON object; bytes as base64")
    actions.add_parser("apply", help="make Feast's registry equal this one (takes about 10 s)")
    actions.add_parser("docs", help="print the Markdown table of all features")


def features(args: argparse.Namespace) -> int:
    """Run one action and return its exit code; 1 from `show` and `read` when a row does not exist."""
    return ACTIONS[args.action](args)


def _list(args: argparse.Namespace) -> int:
    for view in VIEWS:
        print(f"{view.name}, keyed by {view.join_key}: {view.doc}")
        width = max(len(spec.name) for spec in view.features)
        for spec in view.features:
            print(f"  {spec.name:<{width}}  {spec.dtype.value:<14}  {spec.doc}")
    return 0


def _show(args: argparse.Namespace) -> int:
    settings = load_settings()
    at_ms = now_ms()
    states = _read(settings, USER, args.users)
    for user, state in zip(args.users, states, strict=True):
        print("\n".join(_user_lines(user, state, at_ms)))
    return 0 if all(state is not None for state in states) else 1


def _read_row(args: argparse.Namespace) -> int:
    family, view = VIEWS_BY_NAME[args.view]
    key = normalise_query(args.key) if family is QUERY else args.key
    [state] = _read(load_settings(), family, [key])
    if state is None:
        print(f"nowrank: no {family.name} row for {key!r}", file=sys.stderr)
        return 1
    values = dict(zip((spec.name for spec in view.features), view.values(state), strict=True))
    values |= read_time_values(family, state, now_ms())
    if args.json:
        document = {view.join_key: key, **values}
        print(json.dumps(document, ensure_ascii=False, indent=2, default=lambda data: base64.b64encode(data).decode()))
    else:
        width = max(len(name) for name in values)
        for name, value in values.items():
            print(f"{name:<{width}}  {_plain(value)}")
    return 0


def _apply(args: argparse.Namespace) -> int:
    settings = load_settings()
    store = apply_feast(settings)
    views = store.list_feature_views()
    print(f"applied {len(views)} views of project {store.project!r}; the Feast repository is {feast_folder(settings)}")
    return 0


def features_page() -> str:
    """The content of `docs/features.md`."""
    return PAGE_HEAD + feature_table() + READ_TIME_HEAD + read_time_table() + PAGE_FOOT


def _docs(args: argparse.Namespace) -> int:
    print(features_page(), end="")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list, "show": _show, "read": _read_row, "apply": _apply, "docs": _docs,
}  # fmt: skip


def _read(settings: Settings, family: RowFamily, keys: Sequence[str]) -> list[Any | None]:
    """The states of rows, None where there is none."""
    with connect(require_store(settings).redis) as client:
        try:
            exist = [client.exists(family.key(key, settings.feast_project)) for key in keys]
            states = read_states(client, settings.feast_project, [(family, key) for key in keys])
        except redis.RedisError as error:
            raise no_answer(settings.redis, error) from error
    return [state if is_there else None for is_there, state in zip(exist, states, strict=True)]


def _user_lines(user: str, state: UserState | None, at_ms: int) -> list[str]:
    if state is None:
        return [f"user {user}: no row"]
    lines = [f"user {user}: newest engagement {_age(at_ms - state.as_of_ms)} ago"]
    session = current_session(state.recent, at_ms)
    lines.append(f"  session: {len(session)} engagements" if session else "  session: none is open")
    for moment in session[-SHOWN_TITLES:]:
        came_from = f" from {moment.query!r}" if moment.query else ""
        kind = Kind(moment.kind).name.lower()
        lines.append(f"    {_age(at_ms - moment.event_ts_ms):>6} ago  {kind:<6} {moment.item_id}{came_from}")
    lines.append("  titles of greatest weight:")
    lines += [f"    {weight:8.3f}  {item_id}" for item_id, weight in top_titles(state, at_ms, SHOWN_TITLES)]
    thumbs = sorted(state.active_thumbs().items())
    lines += [f"  thumb {Thumb(thumb).name.lower().replace('_', ' ')}: {item_id}" for item_id, thumb in thumbs]
    return lines


def _age(age_ms: int) -> str:
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if abs(age_ms) >= unit_ms:
            return f"{age_ms / unit_ms:.0f} {unit}"
    return f"{age_ms} ms"


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
