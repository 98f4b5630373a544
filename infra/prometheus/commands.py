"""The command `metrics`.

Enters: arguments. Leaves: the metrics catalogue, the page `docs/metrics.md`, or a Prometheus configuration. Called by
the command line.
"""

import argparse

from infra.settings import load_settings
from infra.text_table import aligned

_EXAMPLES = """\
examples:
  nowrank metrics                     every metric, its labels and its meaning
  nowrank metrics --prometheus > .nowrank/prometheus.yml
  prometheus --config.file=.nowrank/prometheus.yml --storage.tsdb.path=.nowrank/prometheus \\
      --web.listen-address=127.0.0.1:9090    watch the stack that `nowrank up` started"""

_PAGE_HEAD = """\
# Metrics

Workers, scorers and the canary expose these at `/metrics`; dashboards and alerts name nothing else. Times are in
seconds, counters end in `_total`, histograms also have `_bucket`, `_sum` and `_count`. A label's values come from a
closed set (topics, kinds of event, views, steps, tasks, phases, reason codes, HTTP routes and codes), never from an id
or a query. A counter with labels appears when it first counts. This page is generated: `make docs`.

"""


def metrics_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank metrics`."""
    parser.epilog = _EXAMPLES
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--markdown", action="store_true", help="print the page docs/metrics.md instead")
    what.add_argument(
        "--prometheus", action="store_true", help="print a Prometheus configuration for the embedded stack instead"
    )


def metrics(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    from infra.prometheus.config import embedded_config

    if args.prometheus:
        print(embedded_config(load_settings(running_stack=False).state_dir), end="")
    elif args.markdown:
        print(metrics_page(), end="")
    else:
        print("\n".join(_lines()))
    return 0


def metrics_page() -> str:
    """The content of `docs/metrics.md`."""
    from infra.metrics import metrics_table

    return _PAGE_HEAD + metrics_table()


def _lines() -> list[str]:
    from infra.metrics import CATALOGUE

    rows = [("METRIC", "KIND", "LABELS", "MEANING")]
    rows += [(spec.name, spec.kind, ", ".join(spec.labels) or "-", spec.help) for spec in CATALOGUE]
    return aligned(rows)
