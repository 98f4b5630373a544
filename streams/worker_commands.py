"""Commands of the stream processes: `nowrank worker`, `nowrank canary`.

Enters: arguments. Leaves: a running worker or canary. Called by `nowrank.cli`.
"""

import argparse

from infra.connected import require_broker, require_store
from infra.settings import load_settings

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

    settings = require_store(require_broker(load_settings()))
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

    settings = require_store(require_broker(load_settings()))
    configure_logs(settings.log_level, settings.canary_id)
    asyncio.run(watch(settings))
    return 0
