"""The unit of times: seconds, or dates, that are read as milliseconds all lie in early 1970.

Enters: the oldest and the newest time of a file. Leaves: `BadInput` when the file cannot have meant them. Called
by `streams.sources.table` and `streams.sources.globo`.
"""

from pathlib import Path

from infra.errors import BadInput

SECONDS_OF_1980_TO_2100 = range(315_532_800, 4_102_444_800 + 1)
DATES_OF_1900_TO_2100 = range(19_000_101, 21_001_231 + 1)


def refuse_other_units(path: Path, oldest: int, newest: int) -> None:
    """Raises `BadInput` when times between `oldest` and `newest`, read as milliseconds, look like seconds or like
    dates. Small ones are let be: a log may count from its own beginning.
    """
    for numbers, what, remedy in (
        (SECONDS_OF_1980_TO_2100, "seconds since 1970", "read them with --time-unit s"),
        (DATES_OF_1900_TO_2100, "dates (YYYYMMDD)", "write them as 2020-07-05T00:00:00Z"),
    ):
        if oldest in numbers and newest in numbers:
            raise BadInput(
                "invalid_field",
                f"{path}: its times, {oldest} to {newest}, look like {what}, not like milliseconds: {remedy}",
            )
