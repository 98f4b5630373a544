"""The front door: `from nowrank import Click, Producer, Scorer`.

Enters: nothing. Leaves: the clients and events that people outside import, each loaded only when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client import AsyncScorer, Scorer
    from serving.retries import RetryPolicy
    from streams.events import Click, Play, Thumb
    from streams.producer import Producer, new_event_id

__all__ = ["AsyncScorer", "Click", "Play", "Producer", "RetryPolicy", "Scorer", "Thumb", "new_event_id"]
__version__ = "0.1.0"

_HOMES = {
    "AsyncScorer": "serving.client",
    "Click": "streams.events",
    "Play": "streams.events",
    "Producer": "streams.producer",
    "RetryPolicy": "serving.retries",
    "Scorer": "serving.client",
    "Thumb": "streams.events",
    "new_event_id": "streams.producer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nowrank' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
