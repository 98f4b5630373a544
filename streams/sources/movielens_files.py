"""MovieLens-100k's files: from GroupLens when it can be reached, else from the copy that the `recbole` wheel carries.

Enters: a folder to put them in. Leaves: a complete, checked folder that `streams.sources.movielens` reads, or an error
that names every cause. Called by `nowrank data get`. The data are never part of this distribution: their licence does
not allow it.
"""

import hashlib
import http.client
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.errors import BadInput, NowrankError
from streams.sources.movielens import NAME, check_complete, read_tables

LICENCE = """MovieLens-100k: 100,000 ratings of 1,682 movies by 943 members, collected by the GroupLens Research
Project at the University of Minnesota, September 1997 to April 1998. Research use, not commercial without permission,
no redistribution; publications name F. M. Harper and J. A. Konstan: The MovieLens Datasets. ACM TiiS 5, 4 (2015).
https://grouplens.org/datasets/movielens/100k/
It holds ratings only: clicks, plays, thumbs, tasks and queries are DERIVED from them by one documented rule."""

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
# GroupLens publishes this sum beside the archive.
GROUPLENS_MD5 = "0e33842e24a9c977be4e0107933c0723"
GROUPLENS_FILES = ("README", "u.data", "u.item", "u.user")
GROUPLENS_TIMEOUT_S = 5.0
ARCHIVE_LIMIT_BYTES = 20_000_000

RECBOLE = "recbole==1.2.1"
RECBOLE_FOLDER = "dataset_example/ml-100k"
RECBOLE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
PIP_TIMEOUT_S = 300.0
SOURCE_FILE = "source.json"
FETCH_ERRORS = (
    OSError, ValueError, KeyError, http.client.HTTPException, zipfile.BadZipFile, subprocess.SubprocessError,
    NowrankError,
)  # fmt: skip

Files = dict[str, bytes]
Source = tuple[str, Callable[[], Files]]


def movielens_folder(state_dir: Path) -> Path:
    """Where the data set lives."""
    return state_dir / "data" / NAME


def get_movielens(state_dir: Path, say: Callable[[str], None], sources: Sequence[Source] | None = None) -> Path:
    """The folder with the complete data set, fetched when it is not there yet; raises `NowrankError` when no source
    has it.
    """
    folder = movielens_folder(state_dir)
    if is_complete(folder):
        say(f"{NAME} is already in {folder}")
        return folder
    causes = []
    for name, fetch in SOURCES if sources is None else sources:
        try:
            files = fetch()
            store(files, folder, source=name)
        except FETCH_ERRORS as error:
            causes.append(f"{name}: {error}")
            say(f"not from {name}: {error}")
            continue
        say(f"{NAME} is in {folder}, from {name}")
        return folder
    raise NowrankError(
        f"{NAME} could not be fetched ({'; '.join(causes)}); "
        f"download {GROUPLENS_URL} elsewhere and unpack its files into {folder}"
    )


def is_complete(folder: Path) -> bool:
    """Whether the folder holds the whole data set."""
    try:
        check_complete(read_tables(folder))
    except (BadInput, ValueError):
        return False
    return True


def from_grouplens(url: str = GROUPLENS_URL) -> Files:
    """GroupLens' own files; raises `OSError` when it cannot be reached, `BadInput` when the archive is another one."""
    with urllib.request.urlopen(url, timeout=GROUPLENS_TIMEOUT_S) as answer:
        archive = answer.read(ARCHIVE_LIMIT_BYTES)
    seen = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    if seen != GROUPLENS_MD5:
        raise BadInput("checksum", f"the archive's MD5 is {seen}, not {GROUPLENS_MD5}")
    with zipfile.ZipFile(io.BytesIO(archive)) as unpacked:
        return {name: unpacked.read(f"ml-100k/{name}") for name in GROUPLENS_FILES}


def from_recbole() -> Files:
    """The files in RecBole's form: from an installed recbole, found without importing it, else from its wheel,
    fetched with pip.
    """
    spec = importlib.util.find_spec("recbole")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        folder = Path(place) / RECBOLE_FOLDER
        if all((folder / name).is_file() for name in RECBOLE_SHA256):
            return _verified({name: (folder / name).read_bytes() for name in RECBOLE_SHA256})
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-input",
            "--disable-pip-version-check",
        ]
        done = subprocess.run(
            [*command, "--only-binary", ":all:", "--dest", place, RECBOLE],
            capture_output=True,
            text=True,
            timeout=PIP_TIMEOUT_S,
        )
        wheels = list(Path(place).glob("recbole-*.whl"))
        if done.returncode != 0 or not wheels:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise NowrankError(f"pip could not download {RECBOLE}: {last}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return _verified({name: wheel.read(f"recbole/{RECBOLE_FOLDER}/{name}") for name in RECBOLE_SHA256})


def store(files: Files, folder: Path, source: str) -> None:
    """Put the files into the folder in one step, once they are seen to be the whole data set; raises `BadInput`
    otherwise.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        check_complete(read_tables(staging))
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        (staging / SOURCE_FILE).write_text(
            json.dumps({"source": source, "sha256": sums, "licence": LICENCE}, indent=2) + "\n"
        )
        staging.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _verified(files: Files) -> Files:
    for name, content in files.items():
        if (seen := hashlib.sha256(content).hexdigest()) != RECBOLE_SHA256[name]:
            raise BadInput("checksum", f"the SHA-256 of {name} is {seen}, not {RECBOLE_SHA256[name]}")
    return files


# In the order in which they are tried.
SOURCES: tuple[Source, ...] = ((GROUPLENS_URL, from_grouplens), (f"the wheel of {RECBOLE}", from_recbole))
