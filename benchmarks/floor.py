"""The floor under a ranking: one Redis round trip that reads its rows, and one bare ONNX run on its inputs.

Enters: a filled store, titles, an artifact, questions. Leaves: milliseconds of both. Called by `serving.py`.

Everything that a request needs is prepared before anything is timed, by the scorer's own code over the same rows: what
is timed is the packed commands out and the parsed replies in on a socket, and `InferenceSession.run`, on one thread as
in the scorer.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hiredis
import onnxruntime

from benchmarks.questions import Question
from features.catalogue import Catalogue, Item
from features.engagement import TASK_NAMES
from features.online_store import connect, parse_address, read_states
from features.rows import CONTAINED_FIELD, COUNTRY, ITEM, QUERY, SOURCE_ITEM, USER, RowFamily
from features.text import normalise_query
from features.vector import Context, session_sources
from infra.clock import monotonic_s, now_ms
from infra.metrics import Metrics
from infra.settings import Settings
from model.artifact import RANK_GRAPH, load_artifact, request_feed
from serving.candidates import find_candidates
from serving.library import Library
from serving.near_cache import ItemRow
from serving.redis_link import Command
from serving.scorer import LoadedModel, Scorer

OUTPUTS = ["logits", "gate", "long", "short"]
READ_BYTES = 1 << 16
RowName = tuple[RowFamily, str]


@dataclass(frozen=True, slots=True)
class Bare:
    """One question's packed Redis commands, how many replies they have, and the graph's inputs."""

    commands: bytes
    replies: int
    feed: dict[str, Any]
    candidates: int


class Floor:
    """The scorer's library and model in this process, filled once, and the two bare steps."""

    def __init__(self, settings: Settings, items: Sequence[Item], artifact_path: Path) -> None:
        self._settings = settings
        self._client = connect(settings.redis)
        library = Library(Metrics("scorer"))
        asyncio.run(library.put_catalogue(Catalogue(items)))
        ids = [item.item_id for item in items]
        states = read_states(self._client, settings.feast_project, [(ITEM, item_id) for item_id in ids])
        library.put_rows(ItemRow(item_id, state, b"", None) for item_id, state in zip(ids, states, strict=True))
        library.refresh(now_ms())
        artifact = load_artifact(artifact_path)
        self._scorer = Scorer(library)
        self._model = LoadedModel(artifact, artifact.encode_items(library.table), library.content_version)
        self._session = _session(artifact_path / RANK_GRAPH)
        where = parse_address(settings.redis)
        self._socket = socket.create_connection((where["host"], where["port"]))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def prepare(self, question: Question) -> Bare:
        """Everything that the two steps need."""
        project = self._settings.feast_project
        at_ms = now_ms()
        states = self._read(wanted_rows(question), at_ms)
        titles = session_sources(states[USER, question.user_id], at_ms)
        states |= self._read([(SOURCE_ITEM, title) for title in titles], at_ms)
        context = _to_context(question, states, at_ms)
        found = question.items or find_candidates(self._scorer, self._model, context, include_seen=True).item_ids
        slots = self._scorer.library.table.slots(found)
        prepared = self._scorer.prepare(self._model, context, slots)
        assert prepared.inputs is not None
        vectors = self._model.encoded
        feed = request_feed(prepared.inputs, vectors.vectors_VD) | {
            "candidate_vectors": vectors.vectors_VD[slots],
            "candidate_bias": vectors.bias_V[slots],
            "pairs": prepared.pairs_NF,
        }
        commands: list[Command] = [
            ("HMGET", family.key(value, project), *family.packed_fields, CONTAINED_FIELD) for family, value in states
        ]
        return Bare(b"".join(map(hiredis.pack_command, commands)), len(commands), feed, len(slots))

    def _read(self, wanted: list[RowName], at_ms: int) -> dict[RowName, Any]:
        """The rows, empty ones for those that are stale or not there."""
        found = read_states(self._client, self._settings.feast_project, wanted)
        return {
            (family, value): family.new_state() if family.is_stale(state.as_of_ms, at_ms) else state
            for (family, value), state in zip(wanted, found, strict=True)
        }

    def time_redis(self, bare: Bare) -> float:
        """Milliseconds of the round trip."""
        began_s = monotonic_s()
        self._socket.sendall(bare.commands)
        missing = bare.replies
        while missing:
            self._reader.feed(self._socket.recv(READ_BYTES))
            while missing and self._reader.gets() is not False:
                missing -= 1
        return 1000 * (monotonic_s() - began_s)

    def time_model(self, bare: Bare) -> float:
        """Milliseconds of the run."""
        began_s = monotonic_s()
        self._session.run(OUTPUTS, bare.feed)
        return 1000 * (monotonic_s() - began_s)

    def close(self) -> None:
        """Let go of the store."""
        self._socket.close()
        self._client.close()


def wanted_rows(question: Question) -> list[RowName]:
    """The rows that the scorer reads for a question before it knows the session, in its order."""
    query = normalise_query(question.query or "")
    targets = ((QUERY, query), (SOURCE_ITEM, question.source_item_id), (COUNTRY, question.country))
    return [(USER, question.user_id), *((family, value) for family, value in targets if value)]


def _to_context(question: Question, states: dict[RowName, Any], at_ms: int) -> Context:
    query = normalise_query(question.query or "") or None
    return Context(
        task=TASK_NAMES[question.task],
        now_ms=at_ms,
        user=states[USER, question.user_id],
        query=query,
        source_item_id=question.source_item_id,
        country=question.country,
        query_targets=states.get((QUERY, query or "")),
        source_rows={value: state for (family, value), state in states.items() if family is SOURCE_ITEM},
        country_targets=states.get((COUNTRY, question.country or "")),
    )


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
