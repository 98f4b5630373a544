"""The front door: `from nowrank import Producer, Scorer`.

Enters: nothing. Leaves: the two clients that people outside import, each loaded only when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client import Scorer
    from streams.producer import Producer

__all__ = ["Producer", "Scorer"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Producer":
        from streams.producer import Producer

        return Producer
    if name == "Scorer":
        from serving.client import Scorer

        return Scorer
    raise AttributeError(f"module 'nowrank' has no attribute {name!r}")
