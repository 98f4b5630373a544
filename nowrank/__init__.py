"""The front door: `from nowrank import Producer, Scorer`.

Enters: nothing. Leaves: the clients that people outside import, each loaded only when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client import AsyncScorer, Scorer
    from serving.retries import RetryPolicy
    from streams.producer import Producer

__all__ = ["AsyncScorer", "Producer", "RetryPolicy", "Scorer"]
__version__ = "0.1.0"

_HOMES = {
    "AsyncScorer": "serving.client",
    "Producer": "streams.producer",
    "RetryPolicy": "serving.retries",
    "Scorer": "serving.client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nowrank' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
