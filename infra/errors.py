"""Every error that Nowrank raises on purpose.

    NowrankError
    ├── SettingsError          a setting has a value that cannot be used
    ├── BadInput               the caller's input breaks a rule: HTTP 4xx, a dead letter, a rejected line of a file
    │   ├── InvalidEvent       an event that cannot be folded; carries a reason code
    │   └── InvalidRequest     a request that cannot be answered
    ├── StoreUnavailable       the online store did not answer
    │   └── StoreTimeout       it did not answer within the request's deadline
    ├── RowInvalid             what the online store holds for a row cannot be decoded
    ├── CheckpointInvalid      what the online store holds for a checkpoint cannot be decoded
    ├── StoreFenced            the store is not the one this process began with: the process must end
    ├── BrokerUnavailable      the broker did not answer or did not acknowledge
    ├── ScorerUnavailable      the scorer did not answer, or answered that it cannot
    ├── DeliveryFailed         one or more events were not acknowledged by the broker
    ├── StackError             the embedded stack could not start, stop or be found
    ├── SchemaMismatch         an artifact was made for another feature registry: refuse to start
    └── ArtifactInvalid        an artifact is incomplete or its checksum differs

Enters: the value seen, the rule, what to do. Leaves: exceptions. Raised in every room, caught at the processes' edges.
"""

import re
from collections.abc import Collection


class NowrankError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown to a user."""


class SettingsError(NowrankError):
    """A setting has a value that cannot be used."""


class BadInput(NowrankError):
    """Input from outside breaks a rule; `reason` is a code from a closed set, `field` the place where it was seen.

    Its text always names the field; `message` leaves that to what carries the field beside it.
    """

    def __init__(self, reason: str, message: str, field: str | None = None) -> None:
        is_named = field is None or re.search(rf"(?<!\w){re.escape(field)}(?!\w)", message)
        super().__init__(message if is_named else f"{field}: {message}")
        self.reason = reason
        self.message = message
        self.field = field


class InvalidEvent(BadInput):
    """An event that cannot be folded."""


class InvalidRequest(BadInput):
    """A request that cannot be answered."""


class StoreUnavailable(NowrankError):
    """The online store did not answer."""


class StoreTimeout(StoreUnavailable):
    """The online store did not answer within the request's deadline."""


class RowInvalid(NowrankError):
    """What the online store holds for a row cannot be decoded, or is out of bounds; the text names no id."""


class CheckpointInvalid(NowrankError):
    """What the online store holds for the checkpoint `name` cannot be decoded."""

    def __init__(self, name: str, why: object) -> None:
        super().__init__(f"the checkpoint {name} cannot be decoded ({why}): run `nowrank rebuild`")
        self.name = name


class StoreFenced(NowrankError):
    """The store is not the one that this process began with."""


class BrokerUnavailable(NowrankError):
    """The broker did not answer in time."""


class ScorerUnavailable(NowrankError):
    """The scorer did not answer in time, or answered that it cannot."""


class DeliveryFailed(NowrankError):
    """Some events were not acknowledged; `failures` pairs each one's position with its cause, and `refused` has the
    positions of those that the broker will not take however often they are sent, where that is known.
    """

    def __init__(self, failures: list[tuple[int, str]], refused: Collection[int] = ()) -> None:
        first = f"; the first: event {failures[0][0]}: {failures[0][1]}" if failures else ""
        super().__init__(f"{len(failures)} events were not acknowledged by the broker{first}")
        self.failures = failures
        self.refused = refused


class StackError(NowrankError):
    """The embedded stack could not start, stop or be found."""


class SchemaMismatch(NowrankError):
    """An artifact was made for another feature registry."""


class ArtifactInvalid(NowrankError):
    """An artifact is incomplete or damaged."""
