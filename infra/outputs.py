"""Outputs: what a command is asked to write, looked at before its work begins; and folders whose files belong together.

Enters: paths as they were given. Leaves: nothing, or `BadInput`; files in their places. Called by the commands of all
rooms, and by the writers of artifacts and data sets.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import BadInput

STAGED = ".new-"


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput("not_writable", f"{path} cannot be written: {error.strerror}; name another path") from error


def check_folder(folder: Path) -> None:
    """Raises `BadInput` unless files can be put into a folder, or the folder can be made."""
    with _refused(folder):
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if not there.is_dir():
            raise BadInput("not_a_folder", f"{folder} cannot be a folder: {there} is a file; name another path")
        if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            raise BadInput("not_writable", f"{folder} cannot be written: {there} is closed to you; name another path")


def prepare_file(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Make the folder of a file that will be written; raises `BadInput` unless the file can be, and when it is one of
    the inputs, whatever they are called.
    """
    with _refused(path):
        # os.path: an input that may not be seen is not there, and whoever reads it says so.
        if path.exists() and any(path.samefile(one) for one in inputs if os.path.exists(one)):
            raise BadInput("is_input", f"{path} is also what is read; name another file to write")
        if path.is_dir():
            raise BadInput("not_a_file", f"{path} is a folder; name a file that is to be written")
        if not path.exists():
            check_folder(path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not os.access(path, os.W_OK):
            raise BadInput("not_writable", f"{path} is closed to you; name another file")


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
