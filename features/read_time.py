"""Read-time features: what depends on the clock or on the whole catalogue, computed when a row is read.

Enters: stored features of one view, and what only the reader knows (`now_ms`, the priors). Leaves: values. The scorer
computes the same for many rows at once in `vector.py`; Feast's on-demand views are generated from `READ_TIME_VIEWS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from features import item, session
from features.decay import HALF_LIVES_MS, read_decayed
from features.rates import FIRST_PRIORS, smoothed
from features.spec import DType, FeatureSpec, ViewSpec

_NOW = FeatureSpec("now_ms", DType.INT64, 0, "the time of reading")


@dataclass(frozen=True, slots=True)
class ReadTimeView:
    """Features that `compute` makes of `inputs` (features of `view`) and `request` (given by the reader), in order; a
    missing row gives their defaults.
    """

    name: str
    view: ViewSpec
    inputs: tuple[str, ...]
    request: tuple[FeatureSpec, ...]
    features: tuple[FeatureSpec, ...]
    compute: Callable[..., tuple[Any, ...]]


def item_rates(
    plays: float, completed: float, thumbs_up: float, as_of_ms: int, now_ms: int, *priors: float
) -> tuple[float, ...]:
    """The smoothed rates of one title: see `rates.py`."""
    now = [read_decayed(total, as_of_ms, now_ms, HALF_LIVES_MS["14d"]) for total in (plays, completed, thumbs_up)]
    return tuple(smoothed(count, now[0], prior) for count, prior in zip(now[1:], priors, strict=True))


def session_idle_ms(as_of_ms: int, now_ms: int) -> tuple[int]:
    """Time since the newest engagement."""
    return (max(0, now_ms - as_of_ms),)


READ_TIME_VIEWS: tuple[ReadTimeView, ...] = (
    ReadTimeView(
        "session_now",
        session.VIEW,
        ("session_as_of_ms",),
        (_NOW,),
        (FeatureSpec("session_idle_ms", DType.INT64, 0, "time since the newest engagement"),),
        session_idle_ms,
    ),
    ReadTimeView(
        "item_now",
        item.VIEW,
        ("item_plays_14d", "item_completed_plays_14d", "item_thumbs_up_14d", "item_as_of_ms"),
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
)
