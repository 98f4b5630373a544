"""Addresses of servers: how `host:port` is read, and what of a store's address may be shown.

Enters: text of settings. Leaves: hosts and ports, and the store's address without what is or may be its password.
Called by everything that connects, and by everything that names the store in a log or an error.
"""

import re

MAX_PORT = 65535
_PUBLIC_ADDRESS = re.compile(r"[^\s=@]*")  # neither a forgotten option nor a URL with a password
_PUBLIC_OPTION = re.compile(r"db=\d+|username=.*|ssl=(true|false)", re.IGNORECASE | re.DOTALL)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; raises `ValueError` for anything else, a URL included."""
    host, _, port = address.rpartition(":")
    if not host or set("/@= ") & set(host) or not (port.isascii() and port.isdigit()) or not 0 < int(port) <= MAX_PORT:
        raise ValueError(f"host:port, the port between 1 and {MAX_PORT}")
    return host, int(port)


def read_brokers(kafka: str) -> str:
    """Addresses as `host:port[,host:port]` without the space around them; raises `ValueError` for anything else."""
    addresses = [address.strip() for address in kafka.split(",")]
    for address in addresses:
        split_address(address)
    return ",".join(addresses)


def hide_password(store: str) -> str:
    """The store's address in Feast's form, `host:port[,db=0][,password=...]`, as it may be shown.

    What is no known option is hidden with its name: it may be the rest of a password that holds a comma.
    """
    address, *options = store.split(",")
    shown = [address if _PUBLIC_ADDRESS.fullmatch(address) else "***"]
    for option in options:
        is_password = option.startswith("password=")
        shown.append(option if _PUBLIC_OPTION.fullmatch(option) else "password=***" if is_password else "***")
    return ",".join(shown)
