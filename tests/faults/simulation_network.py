"""The simulation's network: every await of the real code stops here until the scheduler moves it on.

Enters: calls of simulated processes (a store command, a message to the broker). Leaves: their replies, in an order that
the scheduler chooses; the fate of a call (executed or not, answered or not) is decided one call at a time. Called by
`simulation_worker.py` (calls) and `simulation.py` (scheduling).

Asyncio runs on a loop of our own that has no clock and no sockets: what is ready runs in order, nothing else ever runs,
and so a seed repeats a run exactly.
"""

import asyncio
import contextvars
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class StepLoop(asyncio.AbstractEventLoop):
    """An event loop that runs what is ready, in order, and stops when nothing is."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, name=name)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """The tasks of a process that was killed are dropped where they stand: nothing to tell."""

    def run_ready(self) -> None:
        """Run until nothing is ready."""
        events._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            events._set_running_loop(None)


class CallFailed(Exception):
    """What the caller sees when the outcome of its call is unknown to it, or when it was never carried out."""


class Call(Generic[T]):
    """One call under way: `action` is carried out at most once by `execute`, its outcome handed over by `deliver`."""

    def __init__(self, process: str, kind: str, action: Callable[[], T], reply: "asyncio.Future[T]") -> None:
        self.process = process
        self.kind = kind
        self.is_executed = False
        self._action = action
        self._reply = reply
        self._value: Any = None
        self._error: Exception | None = None

    def execute(self) -> None:
        """Carry the call out at the far side; its caller knows nothing yet."""
        self.is_executed = True
        try:
            self._value = self._action()
        except Exception as error:  # noqa: BLE001 - the reply of the far side, whatever it is
            self._error = error

    def fail(self) -> None:
        """Lose the reply, or the call itself when it was not executed: the caller cannot tell which."""
        self.is_executed = True
        self._error = CallFailed(f"{self.kind}: no answer")

    def again(self) -> "Call[T]":
        """The same call once more, as a client sends it that has waited too long; nobody waits for the second reply."""
        return Call("a late retry", self.kind, self._action, self._reply)

    def deliver(self) -> None:
        """Hand the outcome to the caller, if it still lives."""
        if self._reply.done():
            return
        if self._error is not None:
            self._reply.set_exception(self._error)
        else:
            self._reply.set_result(self._value)


class Network:
    """All calls under way, oldest first."""

    def __init__(self) -> None:
        self.loop = StepLoop()  # type: ignore[abstract]
        self.calls: list[Call[Any]] = []

    def call(self, process: str, kind: str, action: Callable[[], T]) -> Awaitable[T]:
        """Start a call; the awaitable is done once the scheduler has executed and delivered it."""
        reply: asyncio.Future[T] = self.loop.create_future()
        self.calls.append(Call(process, kind, action, reply))
        return reply

    def deliver(self, call: "Call[Any]") -> None:
        """Hand a call's outcome over and run its caller to its next call."""
        self.calls.remove(call)
        call.deliver()
        self.loop.run_ready()

    def of(self, process: str) -> "list[Call[Any]]":
        """The calls of one process."""
        return [call for call in self.calls if call.process == process]
