"""A simulation as files: what `nowrank import` takes, the lists that were shown, the truth, and a manifest.

Enters: a plan and an empty folder; records. Leaves: JSON lines and `manifest.json`, which is written last. Called by
`nowrank simulate`, and by the live simulation for what it has published.
"""

import dataclasses
import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import numpy as np

from infra.errors import BadInput
from infra.outputs import check_folder
from model.manifests import indented
from model.simulation.records import Record, Shown
from model.simulation.requests import World
from model.simulation.simulator import Plan, make_world, simulate
from model.simulation.truth import SessionTruth, member_truth, title_truth
from streams.events import encode_event
from streams.progress import Advance

ITEMS, EVENTS, RANKINGS = "items.jsonl", "events.jsonl", "rankings.jsonl"
TRUTH, TRUTH_SESSIONS, TRUTH_TITLES, TRUTH_MEMBERS = (
    "truth.jsonl", "truth_sessions.jsonl", "truth_titles.jsonl", "truth_members.jsonl",
)  # fmt: skip
FILES = (ITEMS, EVENTS, RANKINGS, TRUTH, TRUTH_SESSIONS, TRUTH_TITLES, TRUTH_MEMBERS)
MANIFEST = "manifest.json"
NOTE = "synthetic: drawn by the law of docs/decisions/0013-a-simulator-with-a-known-truth.md; nobody did any of this"


class FileSummary(msgspec.Struct, kw_only=True):
    """One file of the folder."""

    records: int = 0
    size_bytes: int = 0
    sha256: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds, and the plan that makes it again."""

    synthetic: bool
    note: str
    run: str
    plan: dict[str, Any]
    end_ms: int
    counts: dict[str, int]
    files: dict[str, FileSummary]
    numpy: str


class _Lines:
    """A file of JSON lines that counts and hashes what is written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._summary = FileSummary()

    def write(self, line: bytes) -> None:
        whole = line + b"\n"
        self._stream.write(whole)
        self._hash.update(whole)
        self._summary.records += 1
        self._summary.size_bytes += len(whole)

    def summary(self) -> FileSummary:
        self._summary.sha256 = self._hash.hexdigest()
        return self._summary


class SimulationFolder:
    """Takes a world's latents when it is opened, then its records; the manifest is there when all of it is."""

    def __init__(self, folder: Path, plan: Plan, world: World) -> None:
        """Make the folder; raises `BadInput` unless it is empty or missing."""
        check_folder(folder)
        if folder.exists() and any(folder.iterdir()):
            raise BadInput("not_empty", f"{folder} is not an empty folder; name another one, or empty it", "out")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._plan = folder, plan
        self._encode = msgspec.json.Encoder().encode
        self._counts: dict[str, int] = {}
        self._stack = ExitStack()
        self._files = {name: _Lines(self._stack.enter_context((folder / name).open("wb"))) for name in FILES}
        for number, item in enumerate(world.titles.items):
            self._files[ITEMS].write(self._encode(item))
            self._files[TRUTH_TITLES].write(self._encode(title_truth(world.titles, number)))
        for member in range(len(world.members)):
            self._files[TRUTH_MEMBERS].write(self._encode(member_truth(world.members, member)))

    def write(self, record: Record) -> None:
        """Append one record, and what is true about it."""
        if isinstance(record, Shown):
            self._append(RANKINGS, "rankings", encode_event(record.ranking))
            self._append(TRUTH, "requests", self._encode(record.truth))
        elif isinstance(record, SessionTruth):
            self._append(TRUTH_SESSIONS, "sessions", self._encode(record))
        else:
            self._append(EVENTS, record.topic, encode_event(record))

    def finish(self) -> Manifest:
        """Close the files and write the manifest."""
        self._stack.close()
        manifest = Manifest(
            synthetic=True,
            note=NOTE,
            run=self._plan.run,
            plan=dataclasses.asdict(self._plan),
            end_ms=self._plan.span_ms[1],
            counts=dict(sorted(self._counts.items())),
            files={name: lines.summary() for name, lines in self._files.items()},
            numpy=np.__version__,
        )
        (self._folder / MANIFEST).write_bytes(indented(manifest) + b"\n")
        return manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _append(self, name: str, kind: str, line: bytes) -> None:
        self._files[name].write(line)
        self._counts[kind] = self._counts.get(kind, 0) + 1


def write_simulation(plan: Plan, folder: Path, advance: Advance = lambda _count: None) -> Manifest:
    """Simulate a plan into a folder that is empty or missing; `advance` is told of simulated minutes; raises
    `BadInput`.
    """
    if plan.endless:
        raise BadInput("invalid_field", "an endless simulation cannot be written to files; publish it", "endless")
    world = make_world(plan)
    with SimulationFolder(folder, plan, world) as out:
        minute = 0
        for ts_ms, record in simulate(plan, world):
            out.write(record)
            if (reached := (ts_ms - plan.begin_ms) // 60_000) > minute:
                advance(reached - minute)
                minute = reached
        return out.finish()
