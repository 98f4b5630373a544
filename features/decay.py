"""Forward-decayed sums: additive, order-free counters that fade with a half-life.

Enters: a sum as it stood at a reference time, and times in milliseconds. Leaves: the sum at another time. Called by
every fold.

A counter with half-life h holds S(r) = sum_i a_i * 2^(-(r - t_i)/h) for a reference time r that only moves forward,
which is the forward decay of Cormode, Shkapenyuk, Srivastava and Xu (ICDE 2009) with the landmark moved along, so that
no exponent grows with the age of the log. An amount that arrives late (t < r) is added with the weight that it has at
r: any order of arrival gives the same sum.
"""

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS

HALF_LIVES_MS: dict[str, int] = {"30m": 30 * MINUTE_MS, "1d": DAY_MS, "14d": 14 * DAY_MS}


def decay_factor(age_ms: float, half_life_ms: float) -> float:
    """2^(-age/half-life): the weight of an amount that is `age_ms` old; a negative age counts as 0."""
    return 2.0 ** (-age_ms / half_life_ms) if age_ms > 0 else 1.0


def add_decayed(total: float, reference_ms: int, amount: float, at_ms: int, half_life_ms: int) -> tuple[float, int]:
    """The sum with `amount` of time `at_ms` added, and its reference time, which never moves back."""
    if at_ms >= reference_ms:
        return total * decay_factor(at_ms - reference_ms, half_life_ms) + amount, at_ms
    return total + amount * decay_factor(reference_ms - at_ms, half_life_ms), reference_ms


def read_decayed(total: float, reference_ms: int, now_ms: int, half_life_ms: int) -> float:
    """The sum at `now_ms`, clamped at 0 (a retraction may leave a residue of rounding)."""
    return max(0.0, total * decay_factor(now_ms - reference_ms, half_life_ms))
