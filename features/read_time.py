"""Read-time features: what is computed when a row is read, not when it is written.

Enters: stored features (packed states among them), and what only the reader knows (`now_ms`, the priors). Leaves:
values. Feast's on-demand views and `nowrank features read` are generated from `READ_TIME_VIEWS`; the scorer reads the
packed states and computes the same for many rows at once in `vector.py`.

What depends on the clock or on the whole catalogue cannot be stored; long lists could, but then every write would pay
for readers that may never come: see `docs/decisions/0009-long-lists-are-unpacked-by-readers.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec

from features import country, item, query, session, source_item, user_history
from features.decay import HALF_LIVES_MS, read_decayed
from features.rates import FIRST_PRIORS, smoothed
from features.rows import COUNTRY, QUERY, SOURCE_ITEM, USER, RowFamily
from features.spec import DType, FeatureSpec, ViewSpec
from features.top_targets import shown_specs, shown_targets
from features.user_history import HISTORY, shown_history

_NOW = FeatureSpec("now_ms", DType.INT64, 0, "the time of reading")


@dataclass(frozen=True, slots=True)
class ReadTimeView:
    """Features that `compute` makes of `inputs` (stored features, by view) and `request` (given by the reader), in
    order; a missing row gives their defaults.
    """

    name: str
    inputs: tuple[tuple[ViewSpec, tuple[str, ...]], ...]
    request: tuple[FeatureSpec, ...]
    features: tuple[FeatureSpec, ...]
    compute: Callable[..., tuple[Any, ...]]

    def values(self, *arguments: Any) -> tuple[Any, ...]:
        """The values of `features`; their defaults when an argument is missing or a packed state is none."""
        if None not in arguments:
            try:
                return self.compute(*arguments)
            except msgspec.DecodeError:  # Feast tries a view with random bytes when it is applied
                pass
        return tuple(spec.default for spec in self.features)


def user_now(session_packed: bytes, history_packed: bytes, as_of_ms: int, now_ms: int) -> tuple[Any, ...]:
    """The idle time, and the history as it weighs now."""
    return max(0, now_ms - as_of_ms), *shown_history(USER.unpack([session_packed, history_packed]), now_ms)


def item_rates(
    plays: float, completed: float, thumbs_up: float, as_of_ms: int, now_ms: int, *priors: float
) -> tuple[float, ...]:
    """The smoothed rates of one title: see `rates.py`."""
    now = [read_decayed(total, as_of_ms, now_ms, HALF_LIVES_MS["14d"]) for total in (plays, completed, thumbs_up)]
    return tuple(smoothed(count, now[0], prior) for count, prior in zip(now[1:], priors, strict=True))


def _targets_now(family: RowFamily, of: ModuleType) -> ReadTimeView:
    """The top targets of one family."""

    def compute(packed: bytes, now_ms: int) -> tuple[Any, ...]:
        return shown_targets(family.unpack([packed]), of.HALF_LIFE_MS, now_ms)

    name = family.name
    return ReadTimeView(
        f"{name}_now", ((of.VIEW, (f"{name}_packed",)),), (_NOW,), shown_specs(name, of.HALF_LIFE), compute
    )


READ_TIME_VIEWS: tuple[ReadTimeView, ...] = (
    ReadTimeView(
        "user_now",
        (
            (session.VIEW, ("session_packed",)),
            (user_history.VIEW, ("user_history_packed", "user_history_as_of_ms")),
        ),
        (_NOW,),
        (FeatureSpec("session_idle_ms", DType.INT64, 0, "time since the newest engagement"), *HISTORY),
        user_now,
    ),
    ReadTimeView(
        "item_now",
        (
            (
                item.VIEW,
                ("item_plays_14d", "item_completed_plays_14d", "item_thumbs_up_14d", "item_as_of_ms"),
            ),
        ),
        (
            _NOW,
            FeatureSpec("completion_prior", DType.FLOAT64, FIRST_PRIORS[0], "the catalogue's own completion rate"),
            FeatureSpec("thumbs_up_prior", DType.FLOAT64, FIRST_PRIORS[1], "the catalogue's own thumbs up per play"),
        ),
        (
            FeatureSpec("item_completion_rate", DType.FLOAT64, 0.0, "completed plays per play, drawn to the prior"),
            FeatureSpec("item_thumbs_up_rate", DType.FLOAT64, 0.0, "thumbs up per play, drawn to the prior"),
        ),
        item_rates,
    ),
    _targets_now(QUERY, query),
    _targets_now(SOURCE_ITEM, source_item),
    _targets_now(COUNTRY, country),
)

READ_TIME_VIEWS_BY_NAME = {view.name: view for view in READ_TIME_VIEWS}


def read_time_values(family: RowFamily, state: Any, now_ms: int) -> dict[str, Any]:
    """What the read-time views of a family say of a state at `now_ms`, with the first priors."""
    stored = {
        spec.name: value for view in family.views for spec, value in zip(view.features, view.values(state), strict=True)
    }
    found: dict[str, Any] = {}
    for view in READ_TIME_VIEWS:
        if view.inputs[0][0] in family.views:
            inputs = [stored[name] for _, names in view.inputs for name in names]
            request = [now_ms, *(spec.default for spec in view.request[1:])]
            found |= zip((spec.name for spec in view.features), view.values(*inputs, *request), strict=True)
    return found
