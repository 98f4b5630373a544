"""Outputs: what a command is asked to write, looked at before its work begins; and folders whose files belong together.

Enters: paths as they were given. Leaves: nothing, or `BadInput`; files in their places. Called by the commands of all
rooms, and by the writers of artifacts and data sets.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import BadInput

STAGED = ".new-"


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


def check_own_folder(folder: Path, names: Sequence[str], kind: str) -> None:
    """Raises `BadInput` unless a folder is missing, empty, or holds nothing but files of these names (those that
    something of this kind has, which is to replace them) and what a `files_of` left that was killed.
    """
    check_folder(folder)
    there = {one.name for one in folder.iterdir() if not one.name.startswith(STAGED)} if folder.is_dir() else set()
    others = sorted(there - {*names})
    if others:
        raise BadInput(
            "not_empty",
            f"{folder} holds other files ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}); name an empty "
            f"folder or one of an earlier {kind}",
        )


@contextmanager
def files_of(folder: Path, names: Sequence[str], kind: str) -> Iterator[Path]:
    """A hidden folder to write files of these names to, which take their places in `folder` when all are written.

    `folder` itself stays, so that it may be a mount point or where somebody works. The last of the names goes last: it
    is to hold the checksums of the others, by which a reader tells that not all have come yet. Other files in `folder`
    stay too. Raises `BadInput` as `check_folder`, and when a file cannot take its place: those that are left are kept.
    """
    check_folder(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=STAGED, dir=folder))
    try:
        yield staged
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    try:
        for name in names:
            (staged / name).replace(folder / name)
    except OSError as error:
        raise BadInput(
            "not_writable",
            f"the {kind} is done, but {folder / name} cannot be written: {error.strerror}; see to that, then move "
            f"what is in {staged} to {folder}, {names[-1]} last",
        ) from error
    shutil.rmtree(staged, ignore_errors=True)
