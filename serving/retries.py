"""The way of one call of a client: send, wait, send again, until there is an answer or the time is over.

Enters: a `Call`, a `RetryPolicy`, a deadline; then what came of each sending. Leaves: steps to take (`Send`, `Wait`),
at the end what the call reads. Driven by both clients of `client.py`, one that blocks and one that awaits; it does
neither.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import httpx

from infra.errors import ScorerUnavailable, SettingsError
from serving.calls import Call

RETRIED_CODES = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# The connection could not be made, or broke before there was an answer. A scorer that is slow is not asked again.
RETRIED_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError)
LEAST_TIMEOUT_S = 0.001
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
        if self.attempts < 1 or self.total_s <= 0 or self.first_wait_s < 0 or self.longest_wait_s < 0:
            raise SettingsError(f"{self} cannot be used: at least 1 attempt, total_s above 0, no wait below 0")

    def wait_s(self, outcome: Outcome, attempt: int, chance: float) -> float | None:
        """How long to wait after sending number `attempt` (from 1), None when it was the last.

        `chance` in [0, 1) spreads the callers of one scorer.
        """
        if attempt >= self.attempts or not is_retried(outcome):
            return None
        own_s = min(self.first_wait_s * 2.0 ** (attempt - 1), self.longest_wait_s) * (0.5 + chance / 2)
        return max(own_s, asked_wait_s(outcome))


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call, and wait for its answer at most this long."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass."""

    wait_s: float


def converse(
    call: Call[T], url: str, policy: RetryPolicy, timeout_s: float, clock: Callable[[], float], chance: float
) -> Generator[Send | Wait, Outcome | None, T]:
    """The steps of one call of a scorer at `url`: give it what came of each `Send`; it returns what the call reads.

    Raises `InvalidRequest`, `ScorerUnavailable`. No `Send` begins `timeout_s` after the first one or later.
    """
    begin_s, attempt = clock(), 0
    while True:
        attempt += 1
        outcome = yield Send(max(begin_s + timeout_s - clock(), LEAST_TIMEOUT_S))
        if outcome is None:
            raise TypeError("a `Send` must be answered with its outcome")
        wait_s = policy.wait_s(outcome, attempt, chance) if call.is_repeatable else None
        if wait_s is None or clock() - begin_s + wait_s >= min(timeout_s, policy.total_s):
            return _read(call, outcome, url)
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
