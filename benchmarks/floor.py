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
from features.vector import Context
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
        wanted = wanted_rows(question)
        project = self._settings.feast_project
        at_ms = now_ms()
        states = {
            family.name: state
            for (family, _), state in zip(wanted, read_states(self._client, project, wanted), strict=True)
            if at_ms - state.as_of_ms <= 1000 * max(view.ttl_s for view in family.views)
        }
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
            ("HMGET", family.key(value, project), *family.packed_fields, CONTAINED_FIELD) for family, value in wanted
        ]
        return Bare(b"".join(map(hiredis.pack_command, commands)), len(commands), feed, len(slots))

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


def wanted_rows(question: Question) -> list[tuple[RowFamily, str]]:
    """The rows that the scorer reads for a question, in its order."""
    query = normalise_query(question.query or "")
    targets = ((QUERY, query), (SOURCE_ITEM, question.source_item_id), (COUNTRY, question.country))
    return [(USER, question.user_id), *((family, value) for family, value in targets if value)]


def _to_context(question: Question, states: dict[str, Any], at_ms: int) -> Context:
    given = {"user": states["user"]} if "user" in states else {}
    return Context(
        task=TASK_NAMES[question.task],
        now_ms=at_ms,
        query=normalise_query(question.query or "") or None,
        source_item_id=question.source_item_id,
        country=question.country,
        query_targets=states.get("query"),
        source_rows={question.source_item_id or "": states["source_item"]} if "source_item" in states else {},
        country_targets=states.get("country"),
        **given,
    )


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
