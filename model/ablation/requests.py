"""Recorded requests: what each tested request looked like, so that many networks can rank the same ones.

Enters: one replay of a log, through `ranked.py`, which also tunes the baselines. Leaves: `Recorded` in a folder. Called
by `study.py`.

Beside each request as it was stands the same one with its session's events in random order, their times staying where
they were: what a network loses there is what it knew from the order. The columns of the session are computed anew.

    pairs.f32       the columns of all candidates of all requests, one after the other
    requests.npz    everything else but names
    names.json      users, tasks, slices, baselines

legend: B requests, N candidates of one of them, A those of all, F columns, S columns of the session, M baselines
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.model_inputs import RequestInputs, request_inputs
from features.vector import COLUMN_NAMES, COLUMNS, Context, Matrix, pair_matrix
from model.ablation.variants import RETURNING
from model.data_set import DataSet
from model.evaluate import Scope, fitted_baselines
from model.examples import Examples
from model.moments import Moment
from model.neighbours import Sources, context_sources, similarities
from model.progress import Progress
from model.ranked import MODEL, Entrants, ModelScores, Ranked, Score, rank_log
from model.replay import Replay
from model.roles import Parts, Roles, draw_roles
from streams.labels import Label, Log

Ints = NDArray[np.int64]
PAIRS, REQUESTS, NAMES = "pairs.f32", "requests.npz", "names.json"
RETURNS_AT = 3
_SESSION = tuple(name for name in RequestInputs._fields if name.startswith("session_"))
_SHORT = np.array([column.part == "short" for column in COLUMNS])


class Names(msgspec.Struct, frozen=True):
    """The users, tasks and slices of the requests; the settings and the names of the baselines by task."""

    users: list[str]
    tasks: list[str]
    slices: list[list[str]]
    baselines: dict[str, list[str]]
    tuned: dict[str, dict[str, Any]]
    catalogue: int
    without_rank: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """Requests in the order of the log. `ranks_BM2` are those of `names.baselines[task]`, -1 where a task has fewer."""

    names: Names
    requests: dict[str, NDArray[Any]]
    shuffled: dict[str, NDArray[Any]]
    begins: Ints
    slots_A: Ints
    pairs_AF: Matrix
    shuffled_AS: Matrix
    own_B: Ints
    ranks_BM2: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.own_B)

    def examples(self, row: int, shuffled: bool = False) -> Examples:
        """One request with all its candidates, as the networks take it."""
        inside = slice(int(self.begins[row]), int(self.begins[row + 1]))
        pairs_NF = np.array(self.pairs_AF[inside])
        fields = {name: array[row : row + 1] for name, array in self.requests.items()}
        if shuffled:
            pairs_NF[:, _SHORT] = self.shuffled_AS[inside]
            fields |= {name: array[row : row + 1] for name, array in self.shuffled.items()}
        slots_1N = self.slots_A[None, inside]
        ones_1N = np.ones(slots_1N.shape, np.float32)
        return Examples(fields, slots_1N, 0 * ones_1N, pairs_NF[None], ones_1N)


def record(log: Log, data: DataSet, max_labels: int | None, seed: int, folder: Path, progress: Progress) -> None:
    """Replay the log, tune the baselines and write what was tested to `folder`, which never holds a part of it."""
    rng = np.random.default_rng(seed)
    parts = Parts(data.split.train_end_ms, data.split.middle_end_ms)
    log = log.as_known((parts.train_end_ms, parts.middle_end_ms))
    drawn = draw_roles(log, parts, max_labels, rng)
    roles = Roles({label: role for label, role in drawn.by_label.items() if role != "calibrate"})
    returning = {id(label) for label in _returning(log)}
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with (staging / PAIRS).open("wb") as pairs_file:
            recorder = Recorder(data, np.random.default_rng(seed), returning, pairs_file)
            fitted, _ = fitted_baselines(log, parts, Scope(seed=seed), progress)
            ranked = rank_log(log, parts, roles, Entrants(recorder.listen, fitted), rng, progress)
        recorder.write(ranked, staging)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_recorded(folder: Path) -> Recorded:
    """What `record` wrote; the columns stay on the disk."""
    names = msgspec.json.decode((folder / NAMES).read_bytes(), type=Names)
    with np.load(folder / REQUESTS, allow_pickle=False) as arrays:
        kept = dict(arrays)
    pairs_AF: Any = np.memmap(folder / PAIRS, np.float32, "r").reshape(-1, len(COLUMN_NAMES))
    fields: dict[str, Any] = {
        group: {name.removeprefix(f"{group}."): kept.pop(name) for name in list(kept) if name.startswith(f"{group}.")}
        for group in ("requests", "shuffled")
    }
    return Recorded(names=names, pairs_AF=pairs_AF, **fields, **kept)


class Recorder:
    """Takes the place of a model in a replay: it scores nothing and takes notes of what it is asked."""

    def __init__(self, data: DataSet, rng: np.random.Generator, returning: set[int], pairs_file: Any) -> None:
        self._data, self._rng, self._returning, self._pairs_file = data, rng, returning, pairs_file
        self._requests: list[tuple[RequestInputs, RequestInputs]] = []
        self._labels: list[Label] = []
        self._slots: list[Ints] = []
        self._shuffled: list[Matrix] = []
        self._own: list[int] = []

    def listen(self, replay: Replay) -> Score:
        """What `rank_log` takes for a model."""

        def note(moment: Moment) -> ModelScores:
            self._note(moment)
            nothing = np.zeros(len(moment.slots_N), np.float32)
            return ModelScores(nothing, nothing)

        return note

    def write(self, ranked: Ranked, folder: Path) -> None:
        """Write everything but the columns, which stand there already, with the baselines' ranks."""
        rankings = {task: iter(of_task) for task, of_task in ranked.rankings.items()}
        in_order = [next(rankings[label.task]) for label in self._labels]
        baselines = {
            task: [name for name in of_task[0].ranks if name != MODEL] for task, of_task in ranked.rankings.items()
        }
        ranks_BM2 = np.full((len(in_order), max(map(len, baselines.values())), 2), -1.0)
        for row, (label, ranking) in enumerate(zip(self._labels, in_order, strict=True)):
            names = baselines[label.task]
            ranks_BM2[row, : len(names)] = [ranking.ranks[name] for name in names]
        as_was, mixed = ([pair[place] for pair in self._requests] for place in (0, 1))
        arrays: dict[str, Any] = {
            "begins": np.cumsum([0, *map(len, self._slots)]),
            "slots_A": np.concatenate(self._slots),
            "shuffled_AS": np.concatenate(self._shuffled),
            "own_B": np.array(self._own),
            "ranks_BM2": ranks_BM2,
            **{f"requests.{name}": array for name, array in _stacked(as_was, RequestInputs._fields)},
            **{f"shuffled.{name}": array for name, array in _stacked(mixed, _SESSION)},
        }
        np.savez(folder / REQUESTS, **arrays)
        slices = [
            [*ranking.slices, *([RETURNING] if id(label) in self._returning else [])]
            for label, ranking in zip(self._labels, in_order, strict=True)
        ]
        tasks = [label.task for label in self._labels]
        users = [label.user_id for label in self._labels]
        names_of_run = Names(users, tasks, slices, baselines, ranked.tuned, ranked.catalogue, ranked.without_rank)
        (folder / NAMES).write_bytes(msgspec.json.encode(names_of_run))

    def _note(self, moment: Moment) -> None:
        table, context = moment.replay.table, moment.context
        self._labels.append(moment.label)
        self._slots.append(moment.slots_N)
        self._own.append(int(np.flatnonzero(moment.slots_N == table.slot_by_id[moment.label.item_id])[0]))
        mixed = self._mixed(context)
        inputs = [_known(request_inputs(table, one), len(self._data.table)) for one in (context, mixed)]
        self._requests.append((inputs[0], inputs[1]))
        pairs_NF, mixed_NF = (self._columns(moment, one) for one in (context, mixed))
        self._pairs_file.write(pairs_NF.tobytes())
        self._shuffled.append(mixed_NF[:, _SHORT])

    def _columns(self, moment: Moment, context: Context) -> Matrix:
        """As the artifact computes them: from the counts that end with the middle part."""
        table, size = moment.replay.table, len(self._data.table)
        source, history, session = (
            Sources(slots_S[slots_S < size], weights_S[slots_S < size])
            for slots_S, weights_S in context_sources(table, context)
        )
        known_N = np.where(moment.slots_N < size, moment.slots_N, 0)
        similar = similarities(self._data.neighbours, self._data.ease, (source, history, session), known_N)
        return pair_matrix(table, moment.slots_N, context, similar)

    def _mixed(self, context: Context) -> Context:
        """The context with the session's events in random order, at the same times."""
        session, recent = context.session, context.user.recent
        times_ms = [event.event_ts_ms for event in session]
        order = self._rng.permutation(len(session))
        mixed = [
            msgspec.structs.replace(session[place], event_ts_ms=time_ms)
            for place, time_ms in zip(order, times_ms, strict=True)
        ]
        user = msgspec.structs.replace(context.user)
        user.recent = [*recent[: len(recent) - len(session)], *mixed]
        return replace(context, user=user)


def _returning(log: Log) -> Iterator[Label]:
    """The labels of members in their RETURNS_AT-th session or a later one."""
    sessions: dict[str, set[str]] = {}
    for label in log.labels:
        seen = sessions.setdefault(label.user_id, set())
        seen.add(label.session_id)
        if len(seen) >= RETURNS_AT:
            yield label


def _known(inputs: RequestInputs, size: int) -> RequestInputs:
    """The inputs with the null slot in place of titles that came after the data set."""
    names = [name for name in inputs._fields if "_slot" in name]
    known: dict[str, Any] = {name: np.where(getattr(inputs, name) < size, getattr(inputs, name), 0) for name in names}
    return inputs._replace(**known)


def _stacked(inputs: list[RequestInputs], fields: tuple[str, ...]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in fields:
        yield name, np.array([getattr(one, name) for one in inputs])
