"""Probes: the reserved users and titles of the canary, which nobody should ever be shown.

Enters: ids. Leaves: whether an id is reserved, and the canary's own ids. Read by the canary, which makes the events,
and by the scorer's near cache and the worker's measurements, which leave them out.

A probe's events go the whole way of an event, and its rows are rows like any other, so that recomputing the log finds
them equal too. Nothing else may come of them: no candidate, no trending title, no example to train on.
"""

PROBE_PREFIX = "nowrank-probe-"


def probe_id(canary_id: str, number: int) -> str:
    """The id of a canary's probe user, and of its probe title, of this number."""
    return f"{PROBE_PREFIX}{canary_id}-{number}"


def is_probe(entity_value: str) -> bool:
    """Whether a user or a title is a canary's."""
    return entity_value.startswith(PROBE_PREFIX)
