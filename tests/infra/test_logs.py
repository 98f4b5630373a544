"""Logs: of kafka-python only the first lines of each second."""

import logging

from infra.logs import KAFKA_LINES_PER_S, FewOfKafka


def record(name: str, at_s: float) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "", 0, "said", None, None)
    made.created = at_s
    return made


def test_of_kafkas_client_only_the_first_lines_of_each_second_are_let_through() -> None:
    few = FewOfKafka()
    said = [few.filter(record("kafka.net.connection", at_s)) for at_s in (7.0, 7.1, 7.2, 7.3, 7.4, 7.5, 7.9, 8.0)]
    assert said == [True] * KAFKA_LINES_PER_S + [False, False, True]


def test_our_own_lines_and_those_of_the_workers_client_are_all_let_through() -> None:
    few = FewOfKafka()
    for name in ("serving.rank", "aiokafka.consumer", "kafkaesque"):
        assert all(few.filter(record(name, 7.0)) for _ in range(20))
