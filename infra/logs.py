"""Logging: one line per fact, the same form in every process.

Enters: a level's name. Leaves: a configured root logger on standard error. Called once by each process; commands that
talk to a person only call `quiet_kafka`.
"""

import logging
import sys

# kafka-python says a dozen lines for every client that is opened and closed, and at DEBUG what its records hold.
_KAFKA = "kafka"
KAFKA_LINES_PER_S = 5


class FewOfKafka(logging.Filter):
    """Lets through the first KAFKA_LINES_PER_S lines of kafka-python in each second: it says several for each
    connection that it loses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = self._said = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is another logger's, or among the first of its second."""
        if not record.name.startswith(f"{_KAFKA}."):
            return True
        if int(record.created) != self._second:
            self._second, self._said = int(record.created), 0
        self._said += 1
        return self._said <= KAFKA_LINES_PER_S


def configure_logs(level: str, process: str) -> None:
    """Send all logs of this process to standard error, each line with time, level, process and logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    handler.addFilter(FewOfKafka())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger(_KAFKA).setLevel(max(root.level, logging.WARNING))


def quiet_kafka() -> None:
    """Keep the broker's client silent, in a command that says itself what went wrong."""
    logging.getLogger(_KAFKA).setLevel(logging.CRITICAL)
