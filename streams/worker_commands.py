"""Commands of the stream processes: `nowrank worker`, `nowrank canary`.

Enters: arguments. Leaves: a running worker or canary. Called by `nowrank.cli`.
"""

import argparse

from infra.errors import NowrankError
from infra.settings import NO_BROKER, Settings, load_settings

WORKER_EXAMPLES = """examples:
  NOWRANK_KAFKA=broker:9092 NOWRANK_REDIS=store:6379 nowrank worker
  NOWRANK_METRICS_PORT=9100 nowrank worker      health and metrics on http://127.0.0.1:9100"""

CANARY_EXAMPLES = """examples:
  NOWRANK_KAFKA=broker:9092 NOWRANK_REDIS=store:6379 nowrank canary
  NOWRANK_CANARY_PORT=9101 nowrank canary       health and metrics on http://127.0.0.1:9101

It sends one click of a reserved user on a reserved title each NOWRANK_CANARY_INTERVAL_S and measures how soon Feast's
layout shows it. Two canaries on one store need two names (NOWRANK_CANARY_ID)."""


def worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank worker`: none, the settings say everything."""
    parser.epilog = WORKER_EXAMPLES


def worker(args: argparse.Namespace) -> int:
    """Run a stream worker until SIGTERM or Ctrl-C."""
    from infra.logs import configure_logs
    from streams.app import run_worker

    settings = _connected_settings()
    configure_logs(settings.log_level, settings.worker_id)
    run_worker(settings)
    return 0


def canary_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank canary`: none, the settings say everything."""
    parser.epilog = CANARY_EXAMPLES


def canary(args: argparse.Namespace) -> int:
    """Run the canary until SIGTERM or Ctrl-C."""
    import asyncio

    from infra.logs import configure_logs
    from streams.canary import watch

    settings = _connected_settings()
    configure_logs(settings.log_level, settings.canary_id)
    asyncio.run(watch(settings))
    return 0


def _connected_settings() -> Settings:
    settings = load_settings()
    if not settings.kafka:
        raise NowrankError(NO_BROKER)
    if not settings.redis:
        raise NowrankError("no store is set: start one with `nowrank up`, or set NOWRANK_REDIS=host:port")
    return settings
