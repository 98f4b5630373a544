"""The plan of a stack: which processes, on which ports, with which settings.

Enters: settings and the parts wanted. Leaves: a `Plan`: `PartSpec`s and the addresses that everybody will use. Called
by `stack.py`.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from infra.embedded.probes import http_answers
from infra.embedded.servers import LOOPBACK, broker_part, free_port, redis_part
from infra.embedded.supervisor import PartSpec
from infra.errors import StackError
from infra.settings import LABELS_STAGE, STAGES, Settings, child_environment

PARTS = ("broker", "redis", "worker", "scorer", "canary")
# Faust imports, joins its group and gets its partitions; the scorer loads its artifact and warms up. Both on a busy
# small machine.
PROCESS_READY_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Plan:
    """What will run; `settings` hold every address, so that they can be handed to any process."""

    settings: Settings
    broker: PartSpec | None
    redis: PartSpec | None
    workers: tuple[PartSpec, ...]
    scorer: PartSpec | None
    canary: PartSpec | None

    @property
    def servers(self) -> list[PartSpec]:
        """Started first, ended last."""
        return [spec for spec in (self.broker, self.redis) if spec is not None]

    @property
    def yours(self) -> list[str]:
        """The servers that the user gave an address for."""
        servers = (("broker", self.broker, self.settings.kafka), ("redis", self.redis, self.settings.redis))
        return [name for name, spec, address in servers if spec is None and address]

    @property
    def processes(self) -> list[PartSpec]:
        """Our own processes, which need the servers."""
        return [*self.workers, *([self.scorer] if self.scorer is not None else [])]

    @property
    def watchers(self) -> list[PartSpec]:
        """What watches the processes, and begins when they are ready."""
        return [self.canary] if self.canary is not None else []


def log_dir(settings: Settings) -> Path:
    """The folder of the stack's logs, one file per process."""
    return settings.state_dir / "logs"


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """A module of ours as a process; `-P` keeps a folder called `model` in the user's working directory from being
    imported instead.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def make_plan(settings: Settings, only: Collection[str]) -> Plan:
    """The stack's parts named in `only`; a server for which `settings` hold an address is used and not planned.

    Raises `StackError` when a part needs a server that is neither planned nor given.
    """
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        raise StackError(f"the embedded stack has no part {unknown[0]!r}; its parts are {', '.join(PARTS)}")
    logs = log_dir(settings)
    broker = broker_part(logs / "broker.log") if "broker" in only and not settings.kafka else None
    redis = (
        redis_part(settings.state_dir / "redis", logs / "redis.log") if "redis" in only and not settings.redis else None
    )
    wants_scorer, wants_canary = "scorer" in only, "canary" in only
    port = settings.scorer_port if settings.scorer_port or not wants_scorer else free_port()
    canary_port = settings.canary_port if settings.canary_port or not wants_canary else free_port()
    settings = replace(
        settings,
        kafka=broker.address if broker else settings.kafka,
        redis=redis.address if redis else settings.redis,
        scorer_port=port,
        canary_port=canary_port,
        scorer_url=f"http://{_reachable(settings.scorer_host)}:{port}" if wants_scorer else settings.scorer_url,
    )
    if {"worker", "scorer", "canary"} & set(only):
        _require(settings.kafka, "broker", "NOWRANK_KAFKA")
        _require(settings.redis, "redis", "NOWRANK_REDIS")
    workers = _worker_parts(settings) if "worker" in only else ()
    scorer = _scorer_part(settings) if wants_scorer else None
    return Plan(settings, broker, redis, workers, scorer, _canary_part(settings) if wants_canary else None)


def _worker_parts(settings: Settings) -> tuple[PartSpec, ...]:
    """A process for each stage, as many times as there are workers: the stages must not wait for one interpreter."""
    names = [(stage, f"{stage}-{index}") for index in range(settings.workers) for stage in STAGES]
    names += [(LABELS_STAGE, f"{LABELS_STAGE}-{index}") for index in range(settings.label_workers)]
    return tuple(_worker_part(settings, stage, name, place) for place, (stage, name) in enumerate(names))


def _worker_part(settings: Settings, stage: str, name: str, place: int) -> PartSpec:
    port = settings.metrics_port + place if settings.metrics_port else free_port()
    url = f"http://{_reachable(settings.metrics_host)}:{port}"
    return PartSpec(
        name=name,
        command=module_command("nowrank.cli", "worker"),
        environment=child_environment(replace(settings, worker_id=name, stages=stage, metrics_port=port)),
        address=f"{url}/metrics",
        probe=partial(_all_answer, f"{url}/metrics", f"{url}/health/ready"),
        log_path=log_dir(settings) / f"{name}.log",
        ready_timeout_s=PROCESS_READY_TIMEOUT_S,
    )


def _scorer_part(settings: Settings) -> PartSpec:
    return PartSpec(
        name="scorer",
        command=module_command("nowrank.cli", "scorer"),
        environment=child_environment(settings),
        address=settings.scorer_url,
        probe=partial(_all_answer, f"{settings.scorer_url}/health/ready"),
        log_path=log_dir(settings) / "scorer.log",
        ready_timeout_s=PROCESS_READY_TIMEOUT_S,
    )


def _canary_part(settings: Settings) -> PartSpec:
    url = f"http://{_reachable(settings.metrics_host)}:{settings.canary_port}"
    return PartSpec(
        name="canary",
        command=module_command("nowrank.cli", "canary"),
        environment=child_environment(settings),
        address=f"{url}/metrics",
        # Alive is enough: whether its probes come through is what it is there to tell, not a reason not to start.
        probe=partial(_all_answer, f"{url}/health/live"),
        log_path=log_dir(settings) / "canary.log",
        ready_timeout_s=PROCESS_READY_TIMEOUT_S,
    )


async def _all_answer(*urls: str) -> bool:
    for url in urls:
        if not await http_answers(url):
            return False
    return True


def _reachable(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return LOOPBACK if host in ("", "0.0.0.0") else host


def _require(address: str, part: str, variable: str) -> None:
    if not address:
        raise StackError(f"workers, scorer and canary need a {part}: add {part!r} to --only, or set {variable}")
