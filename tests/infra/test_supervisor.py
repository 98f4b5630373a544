"""The supervisor, on real child processes: small Python programs."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra import restarts
from infra.embedded import supervisor as supervisor_module
from infra.embedded.supervisor import PartSpec, Supervisor
from infra.errors import StackError

pytestmark = pytest.mark.slow

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    " print('child', child.pid, flush=True); time.sleep(600)"
)


def part(
    name: str, program: str, folder: Path, *, ready_timeout_s: float = 20, stop_timeout_s: float = 10,
    after_restart: Callable[[], Awaitable[None]] | None = None,
) -> PartSpec:  # fmt: skip
    """A part that is ready once its program has printed something."""
    log_path = folder / f"{name}.log"

    async def has_printed() -> bool:
        return log_path.exists() and log_path.stat().st_size > 0

    return PartSpec(
        name=name,
        command=(sys.executable, "-c", program),
        environment={},
        address="here",
        probe=has_printed,
        log_path=log_path,
        ready_timeout_s=ready_timeout_s,
        stop_timeout_s=stop_timeout_s,
        after_restart=after_restart,
    )


async def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def ended(pid: int) -> bool:
    """True when no such process runs; a zombie that nobody reaps has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def pid_of(supervisor: Supervisor, name: str) -> int:
    process = supervisor.parts[name].process
    assert process is not None
    return process.pid


def test_part_that_is_killed_is_started_again_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        said: list[str] = []
        supervisor = Supervisor(said.append)
        await supervisor.start([part("a", SLEEPER, tmp_path)])
        first_pid = pid_of(supervisor, "a")
        os.kill(first_pid, signal.SIGKILL)
        await until(lambda: supervisor.parts["a"].restarts == 1 and supervisor.parts["a"].state == "ready")
        assert pid_of(supervisor, "a") != first_pid
        assert any("a was ended by SIGKILL; restart 1 in 0.2 s" in line for line in said)
        await supervisor.stop()
        assert ended(pid_of(supervisor, "a"))

    asyncio.run(scenario())


def test_part_that_was_ready_once_is_never_given_up_but_rests_between_many_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(restarts, "LONGEST_PAUSE_S", 0.001)
    monkeypatch.setattr(supervisor_module, "REST_S", 0.5)

    async def scenario() -> None:
        said: list[str] = []
        supervisor = Supervisor(said.append)
        program = "import time; print('up', flush=True); time.sleep(0.05)"
        await supervisor.start([part("a", program, tmp_path)])
        rest = "a ended with exit code 0, 9 times in 60 s; restart 9 in 0.5 s; its log: "
        await until(lambda: any(line.startswith(rest) for line in said))
        await until(lambda: supervisor.parts["a"].restarts > 9)
        assert supervisor.parts["a"].state != "failed"
        await supervisor.stop()

    asyncio.run(scenario())


def test_part_that_waits_for_its_restart_says_why_it_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(print)
        await supervisor.start([part("a", SLEEPER, tmp_path)])
        os.kill(pid_of(supervisor, "a"), signal.SIGKILL)
        await until(lambda: supervisor.parts["a"].state == "restarting")
        (described,) = supervisor.describe()
        assert described["failure"].startswith("was ended by SIGKILL; restart 1 in 0.2 s; its log: ")
        await supervisor.stop()

    asyncio.run(scenario())


def test_part_that_ends_before_it_is_ready_fails_the_start_with_its_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(print)
        spec = part("a", "import sys; sys.exit('the port is taken')", tmp_path)

        async def never() -> bool:
            return False

        spec = PartSpec(**{**{name: getattr(spec, name) for name in PartSpec.__dataclass_fields__}, "probe": never})
        with pytest.raises(
            StackError, match=r"a ended with exit code 1 before it was ready(.|\n)*\| the port is taken"
        ):
            await supervisor.start([spec])
        assert supervisor.parts["a"].state == "failed"
        await supervisor.stop()

    asyncio.run(scenario())


def test_part_that_is_not_ready_in_time_fails_the_start_and_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(print)
        with pytest.raises(StackError, match=r"a was not ready within 0.2 s; its log .* is empty"):
            await supervisor.start([part("a", "import time; time.sleep(600)", tmp_path, ready_timeout_s=0.2)])
        assert ended(pid_of(supervisor, "a"))
        await supervisor.stop()

    asyncio.run(scenario())


def test_command_that_does_not_exist_fails_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(print)
        spec = part("a", SLEEPER, tmp_path)
        missing = {name: getattr(spec, name) for name in PartSpec.__dataclass_fields__} | {
            "command": ("/no/such/server",)
        }
        with pytest.raises(StackError, match=r"a could not be started: .*No such file"):
            await supervisor.start([PartSpec(**missing)])
        await supervisor.stop()

    asyncio.run(scenario())


def test_probe_that_raises_fails_the_start_and_ends_the_part(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def out_of_range() -> bool:
            raise ValueError("Port out of range 0-65535")

        supervisor = Supervisor(print)
        spec = replace(part("a", SLEEPER, tmp_path), probe=out_of_range)
        with pytest.raises(StackError, match="a could not be watched: ValueError: Port out of range 0-65535; "):
            await asyncio.wait_for(supervisor.start([spec]), 20)
        assert ended(pid_of(supervisor, "a"))
        (described,) = supervisor.describe()
        assert (described["state"], described["failure"]) == (
            "failed",
            "could not be watched: ValueError: Port out of range 0-65535",
        )
        await supervisor.stop()

    asyncio.run(scenario())


def test_part_whose_keeping_breaks_later_is_ended_says_why_and_is_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        broken_pids: list[int] = []

        async def breaks_at_first() -> None:
            if not broken_pids:
                broken_pids.append(pid_of(supervisor, "a"))
                raise KeyError("no such client")

        said: list[str] = []
        supervisor = Supervisor(said.append)
        await supervisor.start([part("a", SLEEPER, tmp_path, after_restart=breaks_at_first)])
        os.kill(pid_of(supervisor, "a"), signal.SIGKILL)
        await until(lambda: supervisor.parts["a"].restarts == 2 and supervisor.parts["a"].state == "ready")
        assert any(
            line.startswith("a could not be watched: KeyError: 'no such client', 2 times in 60 s") for line in said
        )
        assert ended(broken_pids[0])
        await supervisor.stop()

    asyncio.run(scenario())


def test_part_that_could_not_be_put_back_to_work_for_want_of_disk_is_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        calls: list[int] = []

        async def full_at_first() -> None:
            calls.append(len(calls))
            if len(calls) == 1:
                raise OSError(errno.ENOSPC, "No space left on device")

        supervisor = Supervisor(print)
        await supervisor.start([part("a", SLEEPER, tmp_path, after_restart=full_at_first)])
        os.kill(pid_of(supervisor, "a"), signal.SIGKILL)
        await until(lambda: calls == [0, 1] and supervisor.parts["a"].state == "ready")
        await supervisor.stop()

    asyncio.run(scenario())


def test_parts_end_in_the_reverse_order_of_their_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        order: list[str] = []

        def note_stopped() -> None:
            order.extend(n for n, p in supervisor.parts.items() if p.state == "stopped" and n not in order)

        supervisor = Supervisor(print, changed=note_stopped)
        await supervisor.start([part("broker", SLEEPER, tmp_path), part("redis", SLEEPER, tmp_path)])
        await supervisor.start([part("worker", SLEEPER, tmp_path)])
        order.clear()
        await supervisor.stop()
        assert order[0] == "worker"
        assert set(order) == {"worker", "broker", "redis"}

    asyncio.run(scenario())


def test_part_that_ignores_sigterm_is_killed_and_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        said: list[str] = []
        supervisor = Supervisor(said.append)
        await supervisor.start([part("a", STUBBORN, tmp_path, stop_timeout_s=0.3)])
        await supervisor.stop()
        assert any("a did not end within 0.3 s of SIGTERM and was killed" in line for line in said)
        assert ended(pid_of(supervisor, "a"))

    asyncio.run(scenario())


def test_children_of_a_part_end_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(print)
        await supervisor.start([part("a", PARENT, tmp_path)])
        grandchild_pid = int((tmp_path / "a.log").read_text().split()[1])
        await supervisor.stop()
        await until(lambda: ended(grandchild_pid))

    asyncio.run(scenario())


def test_after_restart_runs_at_each_restart_and_not_at_the_first_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        calls: list[int] = []

        async def after_restart() -> None:
            calls.append(len(calls))

        supervisor = Supervisor(print)
        await supervisor.start([part("a", SLEEPER, tmp_path, after_restart=after_restart)])
        assert calls == []
        os.kill(pid_of(supervisor, "a"), signal.SIGKILL)
        await until(lambda: calls == [0] and supervisor.parts["a"].state == "ready")
        await supervisor.stop()

    asyncio.run(scenario())


def test_stop_during_the_pause_before_a_restart_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(print)
        await supervisor.start([part("a", SLEEPER, tmp_path)])
        os.kill(pid_of(supervisor, "a"), signal.SIGKILL)
        await until(lambda: supervisor.parts["a"].state == "restarting")
        await supervisor.stop()
        assert supervisor.parts["a"].state == "stopped"
        assert ended(pid_of(supervisor, "a"))

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, sys
        from pathlib import Path
        from infra.embedded.child import start_child

        async def main():
            child = await start_child((sys.executable, "-c", {SLEEPER!r}), {{}}, Path({str(tmp_path / "log")!r}))
            print(child.pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        assert not ended(child_pid)
        parent.kill()
    asyncio.run(until(lambda: ended(child_pid)))
