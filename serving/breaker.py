"""The circuit breaker before the store: while the store fails, nobody waits for it, and one at a time looks again.

Enters: how each call of the store ended. Leaves: whether the next one may call. Held by `store_reader.py`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from infra.clock import monotonic_s
from infra.errors import StoreTimeout, StoreUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """It opens after `failures` in a row within `window_s`, and every `pause_s` lets one call look again."""

    failures: int = 5
    window_s: float = 10.0
    pause_s: float = 0.5


class Breaker:
    """Closed: every call goes through. Open: none but one at a time, after a pause; when that one succeeds it closes.

    `report` is told when it opens (True) and closes (False).
    """

    def __init__(
        self,
        rule: BreakerRule | None = None,
        report: Callable[[bool], None] = lambda is_open: None,
        clock_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self.is_open = False
        self._rule = BreakerRule() if rule is None else rule
        self._report = report
        self._clock_s = clock_s
        self._failed_s: deque[float] = deque(maxlen=self._rule.failures)
        self._next_probe_s = 0.0
        self._is_probing = False
        self._last_failure: StoreUnavailable | None = None

    @contextmanager
    def call(self, *, is_hurried: bool = False) -> Iterator[None]:
        """Around one call of the store; raises what the last call raised instead when it may not go through.

        That a hurried call was not answered in time says nothing of the store.
        """
        is_probe = self.is_open
        if is_probe:
            if self._is_probing or self._clock_s() < self._next_probe_s:
                raise self._refusal()
            self._is_probing = True
        try:
            yield
        except StoreUnavailable as error:
            if not (is_hurried and isinstance(error, StoreTimeout)):
                self._failed(error, is_probe=is_probe)
            raise
        else:
            self._succeeded()
        finally:
            if is_probe:
                self._is_probing = False

    def _refusal(self) -> StoreUnavailable:
        kind = StoreTimeout if isinstance(self._last_failure, StoreTimeout) else StoreUnavailable
        return kind("the online store has failed too often lately; it is tried again soon")

    def _succeeded(self) -> None:
        self._failed_s.clear()
        if self.is_open:
            self.is_open = False
            log.info("the online store answers again")
            self._report(False)

    def _failed(self, error: StoreUnavailable, *, is_probe: bool) -> None:
        at_s = self._clock_s()
        self._last_failure = error
        if is_probe:
            self._next_probe_s = at_s + self._rule.pause_s
        if self.is_open:
            return
        self._failed_s.append(at_s)
        if len(self._failed_s) == self._rule.failures and at_s - self._failed_s[0] <= self._rule.window_s:
            self.is_open = True
            self._next_probe_s = at_s + self._rule.pause_s
            log.warning("the online store is left alone for %.1f s after %s", self._rule.pause_s, error)
            self._report(True)
