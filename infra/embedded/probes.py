"""Probes: does a server answer yet?

Enters: an address. Leaves: yes or no, within two seconds; never an exception. Called by the supervisor until the answer
is yes.
"""

import asyncio
import http.client
from urllib.parse import urlsplit

PROBE_TIMEOUT_S = 2.0


async def port_answers(address: str) -> bool:
    """True when something accepts a connection at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), PROBE_TIMEOUT_S)
    except (OSError, ValueError, TimeoutError):
        return False
    writer.close()
    return True


async def redis_command(host: str, port: int, command: str) -> str:
    """The first line of Redis' answer to one inline command; raises `OSError` when there is none."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PROBE_TIMEOUT_S)
    try:
        writer.write(f"{command}\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 30 * PROBE_TIMEOUT_S)
    finally:
        writer.close()
    return line.decode().strip()


async def redis_answers(host: str, port: int) -> bool:
    """True when Redis answers PING: not while it still loads its file."""
    try:
        return await redis_command(host, port, "PING") == "+PONG"
    except (OSError, TimeoutError):
        return False


async def kafka_answers(bootstrap: str) -> bool:
    """True when one of the brokers answers a metadata request."""
    accepting = [await port_answers(address) for address in bootstrap.split(",")]
    return any(accepting) and await asyncio.to_thread(_metadata_arrives, bootstrap)


def _metadata_arrives(bootstrap: str) -> bool:
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","), request_timeout_ms=int(PROBE_TIMEOUT_S * 1000))
    except KafkaError:
        return False
    try:
        admin.list_topics()
    except KafkaError:
        return False
    finally:
        admin.close()
    return True


async def http_answers(url: str) -> bool:
    """True when a GET is answered with 200."""
    return await asyncio.to_thread(_status_is_ok, url)


def _status_is_ok(url: str) -> bool:
    parts = urlsplit(url)
    # Not urllib.request: it would send a loopback request through the machine's HTTP proxy.
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
