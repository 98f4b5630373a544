"""Growth: what 200 million users and a million events a second would take, by arithmetic from the measured figures.

Enters: figures. Leaves: workers, partitions, Redis primaries. Called by `streams.py`; `docs/performance.md` says what
the arithmetic leaves out. Pure.
"""

import math
from typing import Any

USERS, ITEMS, EVENTS_PER_S = 200_000_000, 1_000_000, 1_000_000
# Everything is planned at half of its capacity: that is where freshness is promised.
UTILISATION = 0.5
PRIMARY_BYTES = 64_000_000_000


def grow(events_per_s: float, cpu_us: dict[str, float], memory: dict[str, Any]) -> dict[str, Any]:
    """`events_per_s` of one worker; `cpu_us` of an event by process, `redis` among them; `memory` as measured."""
    million = memory["redis_bytes_per_million"]
    size_bytes = {
        history: round(USERS / 1e6 * million["users"][history] + ITEMS / 1e6 * million["items"][history])
        for history in ("light", "mix")
    }
    workers = math.ceil(EVENTS_PER_S / (UTILISATION * events_per_s))
    by_cpu = math.ceil(EVENTS_PER_S * cpu_us["redis"] / 1e6 / UTILISATION)
    return {
        "users": USERS,
        "items": ITEMS,
        "events_per_s": EVENTS_PER_S,
        "utilisation": UTILISATION,
        "workers": workers,
        "partitions_at_least": workers,
        "redis_bytes": size_bytes,
        "redis_primaries_by_cpu": by_cpu,
        "redis_primaries_by_memory": {
            history: math.ceil(total / PRIMARY_BYTES) for history, total in size_bytes.items()
        },
        "one_primary_events_per_s": round(UTILISATION * 1e6 / cpu_us["redis"]),
        "formula": {
            "workers": "events/s / (utilisation x events/s of one worker)",
            "redis_primaries_by_cpu": "events/s x Redis CPU of an event / utilisation",
            "redis_primaries_by_memory": f"(users x bytes + items x bytes) / {PRIMARY_BYTES:,} bytes a primary",
        },
    }
