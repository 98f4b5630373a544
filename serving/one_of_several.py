"""One of several scorer processes on one port.

Enters: its number, the listening socket and the folder of the shared metrics, as arguments; settings. Leaves: answers,
until it is told to end or its parent is gone. Started by `processes.py`.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from infra.errors import NowrankError
from infra.logs import configure_logs
from infra.settings import load_settings
from infra.shared_metrics import SharedMetrics
from serving.connections import server_config
from serving.process import ScorerProcess
from serving.processes import END_TIMEOUT_S, UNUSABLE

log = logging.getLogger(__name__)


def main(number: int, descriptor: int, folder: Path) -> int:
    """Serve; the exit code is UNUSABLE where another start would fail in the same way."""
    settings = load_settings()
    configure_logs(settings.log_level, f"scorer-{number}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends in good order, then raises the signal again
    try:
        process = ScorerProcess(settings, SharedMetrics(folder, number))
    except NowrankError as error:
        log.error("%s", error)
        return UNUSABLE
    server = uvicorn.Server(server_config(process.app, settings, process.metrics))
    threading.Thread(target=_end_with_parent, args=(server,), name="parent-watch", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[socket.socket(fileno=descriptor)])
    return 0 if server.started else 1


def _end_with_parent(server: uvicorn.Server) -> None:
    """End once the standard input does; a process that cannot end in good order ends without it."""
    os.read(0, 1)
    server.should_exit = True
    threading.Event().wait(END_TIMEOUT_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
