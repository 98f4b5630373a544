"""The two scorers as processes: ours as the stack starts it, and the straightforward one.

Enters: settings. Leaves: running, warm processes and their ports. Called by `serving.py`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import Child, environment, get_text, python_module
from infra.embedded.plan import module_command
from infra.embedded.servers import LOOPBACK, free_port
from infra.settings import Settings, child_environment

START_TIMEOUT_S = 120.0
POLL_S = 0.1
PHASES = "nowrank_scorer_phase_seconds"


class ScorerProcess(Child):
    """`nowrank scorer` with its default settings, but that it refuses nobody: what is measured is the wait."""

    def __init__(self, settings: Settings) -> None:
        self.port = free_port()
        settings = replace(settings, scorer_host=LOOPBACK, scorer_port=self.port, rank_queue_ms=60_000)
        super().__init__(
            module_command("nowrank.cli", "scorer"),
            child_environment(settings),
            settings.state_dir / "logs" / "scorer.log",
        )

    def wait_until_warm(self, titles: int) -> None:
        """Wait until it answers with its model and knows so many titles."""

        def is_warm() -> bool:
            status, health = get_json(self.port, "/health/ready")
            return status == 200 and bool(health["model"]) and health["items"] >= titles

        self.wait_until(is_warm, f"a warm scorer with {titles:,} titles", START_TIMEOUT_S, POLL_S)

    def phases(self) -> dict[str, tuple[float, float]]:
        """The seconds and the number of observations of each phase of a request until now."""
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(get_text(self.port, "/metrics")[1]):
            for sample in family.samples:
                for part in ("sum", "count"):
                    if sample.name == f"{PHASES}_{part}":
                        found.setdefault(sample.labels["phase"], {})[part] = sample.value
        return {phase: (parts["sum"], parts["count"]) for phase, parts in found.items()}


class SdkScorer(Child):
    """`baselines/sdk_scorer.py`: FastAPI under uvicorn, one worker."""

    def __init__(self, settings: Settings, artifact_path: Path) -> None:
        self.port = free_port()
        super().__init__(
            python_module("benchmarks.baselines.sdk_scorer", str(self.port), str(artifact_path)),
            environment(settings),
            settings.state_dir / "logs" / "sdk-scorer.log",
        )

    def wait_until_warm(self) -> None:
        """Wait until it has read the registry, loaded the weights and listens."""
        self.wait_until(
            lambda: get_json(self.port, "/health")[0] == 200, "a straightforward scorer", START_TIMEOUT_S, POLL_S
        )


def phase_means_ms(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The mean milliseconds of each phase between two looks at `ScorerProcess.phases`."""
    grown = {
        phase: (seconds - before.get(phase, (0.0, 0.0))[0], number - before.get(phase, (0.0, 0.0))[1])
        for phase, (seconds, number) in after.items()
    }
    return {phase: round(1000 * seconds / number, 2) for phase, (seconds, number) in grown.items() if number}


def get_json(port: int, path: str) -> tuple[int, Any]:
    """Status and JSON of a GET; 0 when nobody listens."""
    status, text = get_text(port, path)
    return status, json.loads(text) if text else None
