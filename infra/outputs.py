"""Outputs: what a command is asked to write, looked at before its work begins.

Enters: paths as they were given. Leaves: nothing, or `BadInput`. Called by the commands of all rooms, and by whoever
writes a folder of files that belong together.
"""

import os
from collections.abc import Collection
from pathlib import Path

from infra.errors import BadInput


def check_folder(folder: Path) -> None:
    """Raises `BadInput` unless files can be put into a folder, or the folder can be made."""
    try:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        is_folder, is_open = there.is_dir(), os.access(there, os.R_OK | os.W_OK | os.X_OK)
    except OSError as error:
        raise BadInput("not_writable", f"{folder} cannot be written to: {error.strerror}; name another one") from error
    if not is_folder:
        raise BadInput("not_a_folder", f"{folder} is to be a folder, but {there} is a file; name another one")
    if not is_open:
        raise BadInput("not_writable", f"{there} may not be written to; name another folder than {folder}, or open it")


def check_own_folder(folder: Path, names: Collection[str], kind: str) -> None:
    """Raises `BadInput` unless a folder is missing, empty, or holds nothing but files of these names: those that
    something of this kind has, which is to replace them.
    """
    check_folder(folder)
    others = sorted({one.name for one in folder.iterdir()} - {*names}) if folder.is_dir() else []
    if others:
        raise BadInput(
            "not_empty",
            f"{folder} holds other files ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}); name an empty "
            f"folder or one of an earlier {kind}",
        )
