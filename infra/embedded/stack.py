"""The embedded stack's life: the order in which its parts start and end, and what happens when the broker loses its
log.

Enters: settings. Leaves: a running stack described by `stack.json`, or nothing. Called by `control.py`, in the process
that is the supervisor.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from infra.addresses import hide_password
from infra.clock import monotonic_s, now_ms
from infra.embedded.child import end_child, log_tail, start_child
from infra.embedded.plan import Plan, log_dir, make_plan, module_command
from infra.embedded.probes import kafka_answers, port_answers, redis_command
from infra.embedded.stack_file import remove_files, write_stack, write_targets
from infra.embedded.supervisor import Supervisor
from infra.errors import StackError
from infra.restarts import describe_end
from infra.settings import Settings, child_environment

EXTERNAL_TIMEOUT_S = 5.0
TOPICS_TIMEOUT_S = 60.0
WRITE_PAUSE_S = 1.0


class Stack:
    """One stack in one folder; the caller holds the folder's lock."""

    def __init__(self, settings: Settings, only: Collection[str], say: Callable[[str], None]) -> None:
        self._print = say
        self._plan: Plan = make_plan(settings, only)
        self._settings = self._plan.settings
        self._supervisor = Supervisor(self._say, changed=self._write)
        self._state = "starting"
        self._started_ms = now_ms()
        self._rewriting: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Start everything, keep it until SIGINT, SIGTERM or SIGHUP, end everything; raises `StackError` when something
        does not start.
        """
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, stop)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
        finally:
            self._state = "stopping"
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            await self._supervisor.stop()
            if self._rewriting is not None:
                self._rewriting.cancel()
            remove_files(self._settings.state_dir)
        self._say("stopped")

    def _on_signal(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            self._say("asked again: killing what is left")
            self._supervisor.kill()
        else:
            self._say("stopping (once more to kill)")
            stop.set()

    async def _start(self) -> None:
        settings, plan = self._settings, self._plan
        self._write()
        servers = [replace(s, after_restart=self._put_back_to_work) if s is plan.broker else s for s in plan.servers]
        await self._supervisor.start(servers)
        if plan.broker is None and settings.kafka:
            await self._await_external("broker", "NOWRANK_KAFKA", settings.kafka, lambda: kafka_answers(settings.kafka))
        if plan.redis is None and settings.redis:
            # Feast's form: the address, then options; whether they are right is for the workers to say.
            await self._await_external(
                "redis",
                "NOWRANK_REDIS",
                hide_password(settings.redis),
                lambda: port_answers(settings.redis.split(",")[0]),
            )
        if plan.broker is not None:
            await self._begin_empty_log()
        elif settings.kafka and (plan.processes or plan.watchers):
            await self._create_topics()
        await self._supervisor.start(plan.processes)
        await self._supervisor.start(plan.watchers)
        self._state = "running"
        self._write()
        self._say(f"running; logs in {log_dir(settings)}")

    async def _await_external(self, name: str, variable: str, shown: str, probe: Callable[[], Any]) -> None:
        deadline_s = monotonic_s() + EXTERNAL_TIMEOUT_S
        while not await probe():
            if monotonic_s() > deadline_s:
                raise StackError(
                    f"{variable} is {shown!r}, but nothing answered there within {EXTERNAL_TIMEOUT_S:g} s; "
                    f"start it, or unset {variable}"
                )
            await asyncio.sleep(0.1)
        self._say(f"{name:<9} {shown:<32} yours ({variable}), answers")

    async def _put_back_to_work(self) -> None:
        """After a crash of the broker: its log is gone, so what was counted from it must go too, and every client must
        start afresh.
        """
        clients = [
            spec.name for spec in [*self._plan.processes, *self._plan.watchers] if spec.name in self._supervisor.parts
        ]
        # At once: what they could still finish belongs to the lost log, and a client of a lost broker may wait for it.
        await asyncio.gather(*(self._supervisor.stop_part(name, at_once=True) for name in clients))
        self._say("the broker keeps its log in memory and came back empty: the events it held are lost")
        await self._begin_empty_log()
        for name in clients:
            self._supervisor.revive_part(name)

    async def _begin_empty_log(self) -> None:
        """Rows that count events of a lost log cannot be continued: empty the embedded store, create the topics."""
        if self._plan.redis is not None:
            host, _, port = self._plan.redis.address.rpartition(":")
            try:
                row_count = int((await redis_command(host, int(port), "DBSIZE")).removeprefix(":"))
                if row_count:
                    await redis_command(host, int(port), "FLUSHDB")
                    await redis_command(host, int(port), "BGREWRITEAOF")  # or the next start reads the old rows again
                    self._say(f"{'redis':<9} emptied: {row_count} keys counted events of a log that is gone")
            except (OSError, TimeoutError, ValueError) as error:
                raise StackError(
                    f"the store could not be emptied: {error}; its log: {self._plan.redis.log_path}"
                ) from error
        elif self._settings.redis:
            self._say("redis     is yours and was not emptied: rows counted from an earlier log stay in it")
        await self._create_topics()

    async def _create_topics(self) -> None:
        began_s = monotonic_s()
        log_path = log_dir(self._settings) / "topics.log"
        # A process of its own, as every other room that the stack needs: infra imports none of them.
        command = module_command("nowrank.cli", "topics", "create")
        process = await start_child(command, child_environment(self._settings), log_path)
        try:
            await asyncio.wait_for(process.wait(), TOPICS_TIMEOUT_S)
        except TimeoutError as error:
            raise StackError(f"the topics were not created within {TOPICS_TIMEOUT_S:g} s; log: {log_path}") from error
        finally:
            await end_child(process, timeout_s=1)
        if process.returncode != 0:
            raise StackError(f"creating the topics {describe_end(process.returncode)}:\n{log_tail(log_path, 8)}")
        self._say(f"topics    {'on ' + self._settings.kafka:<32} ready in {monotonic_s() - began_s:.1f} s")

    def _scrape_targets(self) -> dict[str, list[str]]:
        def addresses(specs: list[Any]) -> list[str]:
            return [spec.address.removeprefix("http://").removesuffix("/metrics") for spec in specs]

        return {
            "worker": addresses(list(self._plan.workers)),
            "scorer": addresses([s for s in (self._plan.scorer,) if s]),
            "canary": addresses(self._plan.watchers),
        }

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk takes no line of the log; the parts are kept all the same
            self._print(line)

    def _write(self) -> None:
        """Write what says what runs; where that fails, say so and try again at the next change or a second later."""
        if self._rewriting is not None:
            self._rewriting.cancel()
        try:
            if self._state == "running":
                write_targets(self._settings.state_dir, self._scrape_targets())
            write_stack(self._settings.state_dir, self._describe())
        except OSError as error:
            if self._rewriting is None:
                self._say(f"stack.json cannot be written, `nowrank status` is out of date until it can: {error}")
            self._rewriting = asyncio.get_running_loop().call_later(WRITE_PAUSE_S, self._write)
        else:
            self._rewriting = None

    def _describe(self) -> dict[str, Any]:
        settings, plan = self._settings, self._plan
        return {
            "state": self._state,
            "pid": os.getpid(),
            "started_ms": self._started_ms,
            "kafka": settings.kafka,
            "redis": settings.redis,
            "yours": plan.yours,
            "scorer_url": settings.scorer_url if plan.scorer else "",
            "worker_metrics_urls": [spec.address for spec in plan.workers],
            "state_dir": str(settings.state_dir),
            "log_dir": str(log_dir(settings)),
            "processes": self._supervisor.describe(),
        }
