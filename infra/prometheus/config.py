"""A Prometheus configuration for the embedded stack.

Enters: the stack's state folder. Leaves: the text of a configuration that follows the stack's workers, scorer and
canary, whatever ports they take. Called by `nowrank metrics --prometheus` and the tests.
"""

import json
from importlib.resources import files
from pathlib import Path

from infra.embedded.stack_file import TARGETS_FILE

SCRAPE_INTERVAL_S = 5


def rules_path() -> Path:
    """The file of recording and alerting rules."""
    return Path(str(files("infra.prometheus") / "rules.yml"))


def embedded_config(state_dir: Path, interval_s: int = SCRAPE_INTERVAL_S) -> str:
    """JSON, which is YAML too; Prometheus reads the stack's list of targets again whenever a new stack writes it."""
    targets = str((state_dir / TARGETS_FILE).resolve())
    interval = f"{interval_s}s"
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(rules_path())],
        # The targets bring their own job label, `worker`, `scorer` or `canary`.
        "scrape_configs": [
            {"job_name": "nowrank", "file_sd_configs": [{"files": [targets], "refresh_interval": "10s"}]}
        ],
    }
    return json.dumps(config, indent=2) + "\n"
