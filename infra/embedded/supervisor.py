"""The supervisor: keeps child processes running, each in its own session with its own log file.

Enters: `PartSpec`s: a command and a probe. Leaves: running processes that are started again when they end, and none
once it has stopped. Called by the stack and by the tests' servers, inside one event loop.

    starting ── probe says yes ──▶ ready ── process ends ──▶ restarting ── pause ──▶ starting
        └── not ready at its first start ──▶ failed

A part that was ready once is never given up: what it needs may be away for longer than anyone thought. After more
than RESTART_LIMIT ends in a minute it rests for REST_S. What else goes wrong with a part, such as a probe that raises,
counts as its end.

On Linux the children are killed when the thread that runs the loop ends, for whatever reason: a supervisor that is
killed leaves nothing behind.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.clock import monotonic_s, now_ms
from infra.embedded.child import end_child, kill_child, log_tail, start_child
from infra.errors import StackError
from infra.restarts import REST_S, RESTART_LIMIT, RESTART_WINDOW_S, describe_end, ends_lately, pause_s

PROBE_INTERVAL_S = 0.03
LOG_TAIL_LINES = 8


@dataclass(frozen=True)
class PartSpec:
    """One process: how to start it, how to see that it is ready, what to do each time it had to be started again."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    address: str
    probe: Callable[[], Awaitable[bool]]
    log_path: Path
    ready_timeout_s: float = 30.0
    stop_timeout_s: float = 10.0
    after_restart: Callable[[], Awaitable[None]] | None = None


@dataclass
class Part:
    """A `PartSpec` and what became of it; `first_start` is done once it was ready, or failed, for the first time,
    `failure` says why it is not running now.
    """

    spec: PartSpec
    first_start: "asyncio.Future[None]"
    state: str = "stopped"
    failure: str = ""
    process: asyncio.subprocess.Process | None = None
    started_ms: int = 0
    restarts: int = 0
    ends_s: deque[float] = field(default_factory=deque)
    keeper: "asyncio.Task[None] | None" = None


class Supervisor:
    """Starts parts, restarts what ends by itself, stops everything.

    `say` gets lines for people; `changed` is called at every change of state.
    """

    def __init__(self, say: Callable[[str], None], changed: Callable[[], None] = lambda: None) -> None:
        self.parts: dict[str, Part] = {}
        self._groups: list[list[Part]] = []
        self._say = say
        self._changed = changed

    async def start(self, specs: Sequence[PartSpec]) -> None:
        """Start all `specs` at once; return when all are ready; raises `StackError` for the first that is not."""
        loop = asyncio.get_running_loop()
        group = [Part(spec, loop.create_future()) for spec in specs]
        self._groups.append(group)
        for part in group:
            self.parts[part.spec.name] = part
            part.keeper = asyncio.create_task(self._keep(part))
        await asyncio.gather(*(part.first_start for part in group))

    async def stop(self) -> None:
        """End every part: what was started last ends first, what was started together ends together."""
        for part in self.parts.values():  # all keepers first: one that is bringing its part back may start others too
            await _end_keeper(part)
        for group in reversed(self._groups):
            await asyncio.gather(*(self.stop_part(part.spec.name) for part in group))

    async def stop_part(self, name: str, *, at_once: bool = False) -> None:
        """End one part and leave it ended; a part that does not end when asked is killed, `at_once` without asking."""
        part = self.parts[name]
        await _end_keeper(part)
        if part.process is not None and at_once:
            await kill_child(part.process)
        elif part.process is not None and not await end_child(part.process, part.spec.stop_timeout_s):
            self._say(
                f"{name} did not end within {part.spec.stop_timeout_s:g} s of SIGTERM and was killed; "
                f"its log: {part.spec.log_path}"
            )
        self._enter(part, "stopped")

    def kill(self) -> None:
        """Kill every part now, for a caller who will not wait; `stop` still has to be awaited."""
        for part in self.parts.values():
            if part.process is not None and part.process.returncode is None:
                part.process.kill()

    def describe(self) -> list[dict[str, Any]]:
        """Every part as `stack.json` shows it."""
        return [
            {
                "name": name,
                "state": part.state,
                "failure": part.failure,
                "pid": part.process.pid if part.process else None,
                "address": part.spec.address,
                "restarts": part.restarts,
                "started_ms": part.started_ms,
                "log": str(part.spec.log_path),
            }
            for name, part in self.parts.items()
        ]

    def revive_part(self, name: str) -> None:
        """Start a stopped part again, without waiting until it is ready."""
        part = self.parts[name]
        part.restarts += 1
        part.keeper = asyncio.create_task(self._keep(part))

    async def _keep(self, part: Part) -> None:
        """Start the part, and again whenever it ends; only one that was never ready stays ended."""
        while True:
            try:
                failure = await self._run_once(part)
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: what it does not tell nobody hears
                failure = f"could not be watched: {type(error).__name__}: {error}"
            if part.process is not None:
                await kill_child(part.process)
            if not part.first_start.done():
                return self._fail(part, failure)
            await self._pause(part, failure)

    async def _run_once(self, part: Part) -> str:
        """Start the process and wait for its end; what went wrong."""
        failure = await self._start_once(part)
        if failure is not None:
            return failure
        self._enter(part, "ready")
        if not part.first_start.done():
            part.first_start.set_result(None)
        assert part.process is not None
        return describe_end(await part.process.wait())

    async def _start_once(self, part: Part) -> str | None:
        """Start the process and wait until it is ready; what went wrong, or None."""
        spec = part.spec
        began_s = monotonic_s()
        part.started_ms = now_ms()
        part.failure = ""
        try:
            part.process = await start_child(spec.command, spec.environment, spec.log_path)
        except OSError as error:
            return f"could not be started: {error}"
        self._enter(part, "starting")
        while not await spec.probe():
            if part.process.returncode is not None:
                return f"{describe_end(part.process.returncode)} before it was ready"
            if monotonic_s() - began_s > spec.ready_timeout_s:
                return f"was not ready within {spec.ready_timeout_s:g} s"
            await asyncio.sleep(PROBE_INTERVAL_S)
        if part.restarts and spec.after_restart is not None:
            try:
                await spec.after_restart()
            except (StackError, OSError) as error:
                return f"could not be put back to work: {error}"
        self._say(f"{spec.name:<9} {spec.address:<32} ready in {monotonic_s() - began_s:.1f} s")
        return None

    async def _pause(self, part: Part, failure: str) -> None:
        """Wait before the next start, longer each time."""
        ends = ends_lately(part.ends_s)
        wait_s = REST_S if ends > RESTART_LIMIT else pause_s(ends)
        part.restarts += 1
        again = f", {ends} times in {RESTART_WINDOW_S:g} s" if ends > 1 else ""
        part.failure = f"{failure}{again}; restart {part.restarts} in {wait_s:g} s; its log: {part.spec.log_path}"
        self._say(f"{part.spec.name} {part.failure}")
        self._enter(part, "restarting")
        await asyncio.sleep(wait_s)

    def _fail(self, part: Part, failure: str) -> None:
        """Leave the part `failed`, which ends the start of the whole."""
        part.failure = failure
        part.first_start.set_exception(StackError(f"{part.spec.name} {failure}; {_log_words(part.spec.log_path)}"))
        self._enter(part, "failed")

    def _enter(self, part: Part, state: str) -> None:
        part.state = state
        self._changed()


async def _end_keeper(part: Part) -> None:
    if part.keeper is not None:
        part.keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await part.keeper
        part.keeper = None


def _log_words(path: Path) -> str:
    tail = log_tail(path, LOG_TAIL_LINES)
    return f"the end of its log {path}:\n{tail}" if tail else f"its log {path} is empty"
