"""The way of one call of a client: send, wait, send again, until there is an answer or the time is over.

Enters: `Call`s and their `Terms`; then what came of each sending. Leaves: steps to take (`Send`, `Wait`),
at the end what the call reads. Driven by both clients of `client.py`, one that blocks and one that awaits; it does
neither.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import httpx

from infra.clock import monotonic_s
from infra.errors import InvalidRequest, ScorerUnavailable, SettingsError
from serving.calls import Call
from serving.contract import Taken

RETRIED_CODES = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# The connection could not be made, or broke before there was an answer. A scorer that is slow is not asked again.
RETRIED_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError)
LEAST_TIMEOUT_S = 0.001
LONGEST_TIMEOUT_S = 7 * 24 * 3600.0  # what sockets take on every platform
LARGEST_EXPONENT = 1000  # of 2.0, with room for a factor below 1
T = TypeVar("T")
Outcome = httpx.Response | httpx.HTTPError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is sent, after which waits, and for how long; the call's own deadline holds beside it.

    Sent again after a connection error, 429 and 503. The wait before sending number n + 1 is
    min(first_wait_s * 2**(n - 1), longest_wait_s), of which a random half to whole is taken, or the answer's
    `Retry-After` where that is longer. A call whose wait would end after `total_s` or the deadline ends at once.
    """

    attempts: int = 3
    total_s: float = 5.0
    first_wait_s: float = 0.05
    longest_wait_s: float = 1.0

    def __post_init__(self) -> None:
        # In this direction, because NaN is neither.
        if not (self.attempts >= 1 and self.total_s > 0 and self.first_wait_s >= 0 and self.longest_wait_s >= 0):
            raise SettingsError(f"{self} cannot be used: at least 1 attempt, total_s above 0, no wait below 0")

    def wait_s(self, outcome: Outcome, attempt: int, chance: float) -> float | None:
        """How long to wait after sending number `attempt` (from 1), None when it was the last.

        `chance` in [0, 1) spreads the callers of one scorer.
        """
        if attempt >= self.attempts or not is_retried(outcome):
            return None
        doubled_s = self.first_wait_s * 2.0 ** min(attempt - 1, LARGEST_EXPONENT)
        own_s = min(doubled_s, self.longest_wait_s) * (0.5 + chance / 2)
        return max(own_s, asked_wait_s(outcome))


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call, and wait for its answer at most this long."""

    call: Call[Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Terms:
    """Which scorer is asked, how often and how long; `chance` in [0, 1) spreads its callers.

    Raises `InvalidRequest` for a `timeout_s` that is not above 0.
    """

    url: str
    policy: RetryPolicy
    timeout_s: float
    clock: Callable[[], float] = monotonic_s
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:  # NaN is not
            rule = "it must be a number of seconds above 0; inf is no deadline"
            raise InvalidRequest("invalid_field", f"timeout_s is {self.timeout_s}; {rule}", "timeout_s")

    def within(self, timeout_s: float | None) -> Self:
        """The same with a deadline of a call's own, if it has one."""
        return self if timeout_s is None else replace(self, timeout_s=timeout_s)


Steps = Generator[Send | Wait, Outcome | None, T]


def converse(call: Call[T], terms: Terms) -> Steps[T]:
    """The steps of one call: give it what came of each `Send`; it returns what the call reads.

    Raises `InvalidRequest`, `ScorerUnavailable`. No `Send` begins `timeout_s` after the first one or later.
    """
    return _converse(call, terms, terms.clock() + terms.timeout_s)


def converse_in_turn(calls: Sequence[Call[Taken]], terms: Terms) -> Steps[Taken]:
    """The steps of a batch's calls, each begun when the one before it has its answer; the deadline is for all of them.

    Raises as `converse` does; `ScorerUnavailable` says how much of the batch went before.
    """
    end_s = terms.clock() + terms.timeout_s
    accepted, rejected = 0, []
    for call in calls:
        try:
            taken = yield from _converse(call, terms, end_s)
        except ScorerUnavailable as error:
            if not call.first:
                raise
            raise ScorerUnavailable(f"{error}; the first {call.first} events have had their answer") from error
        accepted += taken.accepted
        rejected += taken.rejected
    return Taken(accepted=accepted, rejected=rejected)


def _converse(call: Call[T], terms: Terms, end_s: float) -> Steps[T]:
    chance, attempt = terms.chance(), 0
    last_s = min(end_s, terms.clock() + terms.policy.total_s)
    while True:
        attempt += 1
        outcome = yield Send(call, min(max(end_s - terms.clock(), LEAST_TIMEOUT_S), LONGEST_TIMEOUT_S))
        if outcome is None:
            raise TypeError("a `Send` must be answered with its outcome")
        wait_s = terms.policy.wait_s(outcome, attempt, chance) if call.is_repeatable else None
        if wait_s is None or terms.clock() + wait_s >= last_s:
            return _read(call, outcome, terms.url)
        yield Wait(wait_s)


def is_retried(outcome: Outcome) -> bool:
    """Whether the same call may have more luck a moment later."""
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in RETRIED_CODES
    return isinstance(outcome, RETRIED_ERRORS)


def asked_wait_s(outcome: Outcome) -> float:
    """The seconds of `Retry-After`; 0 without one, and for a date, which no scorer sends."""
    text = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    return float(text) if text.isdecimal() and text.isascii() else 0.0


def _read(call: Call[T], outcome: Outcome, url: str) -> T:
    if isinstance(outcome, httpx.Response):
        return call.read(outcome)
    if isinstance(outcome, httpx.TimeoutException):
        raise ScorerUnavailable(f"the scorer at {url} did not answer in time") from outcome
    raise ScorerUnavailable(f"no scorer answers at {url} ({outcome}); start one with `nowrank up`") from outcome
