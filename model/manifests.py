"""What a folder says of itself: JSON that people read too, and the checksums of its files.

Enters: plain data; files. Leaves: bytes; SHA-256s. Called by whoever writes artifacts, data sets, runs and results.
"""

import hashlib
from pathlib import Path

import msgspec


def indented(value: object) -> bytes:
    """The value as JSON, a line for each field, without a newline at the end. Some is compared or hashed: it stays the
    same, byte for byte.
    """
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces; raises `OSError` as `open` does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
