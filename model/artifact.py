"""The artifact: a trained model as a folder that the scorer loads without torch.

Enters: a folder written by `save_artifact`. Leaves: `Artifact`, which turns titles into vectors and requests into
scores. Called by training (writes), evaluation and the scorer (read).

    items.onnx       title id, title and genre tokens -> vector and bias, once per catalogue title
    rank.onnx        one request and its N candidates -> logits, gate, long and short parts, cluster
    neighbours.npz   what is played near what (`neighbours.py`)
    ease.npz         what makes what likely (`ease.py`)
    items.json       the catalogue at training, so that a scorer can start without the broker
    card.json        version, schema hash, vocabulary, configuration, metrics, calibration, SHA-256 of the files above
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from features.catalogue import Item
from features.item_table import ItemTable
from features.model_inputs import RequestInputs
from features.registry import schema_hash
from features.vector import COLUMN_NAMES, COLUMNS, Context, Similarities, Slots
from infra.errors import ArtifactInvalid, SchemaMismatch
from infra.outputs import check_own_folder, files_of
from model.config import Personalisation
from model.manifests import indented, sha256_of
from model.neighbours import NeighbourTable, Sources, context_sources, similarities

ITEMS_GRAPH, RANK_GRAPH, NEIGHBOURS, EASE, CATALOGUE, CARD = (
    "items.onnx",
    "rank.onnx",
    "neighbours.npz",
    "ease.npz",
    "items.json",
    "card.json",
)
FILES = (ITEMS_GRAPH, RANK_GRAPH, NEIGHBOURS, EASE, CATALOGUE)
# The card comes last: it vouches for the others.
NAMES = (*FILES, CARD)
KIND = "artifact"

Floats = NDArray[np.float32]
Side = Literal["long", "short"]
_SIDE_COLUMNS = {side: np.array([column.part == side for column in COLUMNS]) for side in ("long", "short")}


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact says about itself. `calibration` holds (a, b) by task number: probability = sigmoid(a *
    logit + b).
    """

    version: str
    created_ms: int
    schema_hash: str
    columns: tuple[str, ...]
    vocabulary: tuple[str, ...]
    calibration: tuple[tuple[float, float], ...]
    config: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, str]


class ItemVectors(NamedTuple):
    """Every slot of an item table, encoded: vectors, biases and the index in the artifact's vocabulary (0: a title
    that training never saw).
    """

    vectors_VD: Floats
    bias_V: Floats
    index_V: NDArray[np.int64]


class Scores(NamedTuple):
    """Rank by `logits_N`; `long_N` and `short_N` are its additive parts (1-g)<u_L, e> and g<u_S, e>, g being `gate`
    (before a search is guarded). `cluster` is the member's, 0 without history.
    """

    logits_N: Floats
    probabilities_N: Floats
    gate: float
    long_N: Floats
    short_N: Floats
    cluster: int


class Artifact:
    """A loaded artifact; it never changes, and threads may share it."""

    def __init__(self, path: Path, card: Card) -> None:
        self.card = card
        self.items: list[Item] = msgspec.json.decode((path / CATALOGUE).read_bytes(), type=list[Item])
        self._index = {item_id: index for index, item_id in enumerate(card.vocabulary) if index}
        self._neighbours = NeighbourTable.load(path / NEIGHBOURS)
        self._ease = NeighbourTable.load(path / EASE)
        self._items_graph = _session(path / ITEMS_GRAPH)
        self._rank_graph = _session(path / RANK_GRAPH)

    @property
    def version(self) -> str:
        """The name that answers and logs give this model."""
        return self.card.version

    @property
    def knows_clusters_only(self) -> bool:
        """Whether members of one cluster get the same scores for the same question."""
        sizes = self.card.config.get("model", {})
        return sizes.get("personalisation", Personalisation.FULL) in (Personalisation.NONE, Personalisation.CLUSTERS)

    def cluster(self, encoded: ItemVectors, inputs: RequestInputs) -> int:
        """The cluster of a request's member, without scoring anything; about 0.1 ms."""
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        nobody = np.zeros(1, np.int64)
        feed = request_feed(inputs, encoded.vectors_VD) | {
            "candidate_vectors": encoded.vectors_VD[nobody],
            "candidate_bias": encoded.bias_V[nobody],
            "pairs": np.zeros((1, len(COLUMN_NAMES)), np.float32),
        }
        [cluster_1] = self._rank_graph.run(["cluster"], feed, options)
        return int(cluster_1[0])

    def encode_items(self, table: ItemTable) -> ItemVectors:
        """The vectors of every slot, some milliseconds per thousand; slot 0 is a vector of zeros. Encode again when
        titles come or change.
        """
        size = len(table)
        index_V = np.fromiter((self._index.get(item_id, 0) for item_id in table.ids), np.int64, size)
        inputs = {
            "index": index_V,
            "title_tokens": table.title_tokens[:size].astype(np.int64),
            "genre_tokens": table.genre_tokens[:size].astype(np.int64),
        }
        vectors_VD, bias_V = self._items_graph.run(["vectors", "bias"], inputs)
        vectors_VD[0], bias_V[0] = 0.0, 0.0
        return ItemVectors(vectors_VD, bias_V, index_V)

    def similarities(self, encoded: ItemVectors, table: ItemTable, context: Context, slots: Slots) -> Similarities:
        """Each candidate's scores by co-plays and by EASE with the source, the history and the session, for
        `pair_matrix`; about 0.2 ms.
        """
        sources = self.similarity_sources(encoded, table, context)
        return similarities(self._neighbours, self._ease, sources, encoded.index_V[slots])

    def similarity_sources(
        self, encoded: ItemVectors, table: ItemTable, context: Context
    ) -> tuple[Sources, Sources, Sources]:
        """The titles that candidates are compared with, as indices of the vocabulary: the source, the history, the
        session.
        """
        source, history, session = (
            Sources(encoded.index_V[one.slots_S], one.weights_S) for one in context_sources(table, context)
        )
        return source, history, session

    def neighbours(self, sources: Sources) -> tuple[NDArray[np.int64], Floats]:
        """The indices in the vocabulary of all titles that were ever played near the sources, and how near: the co-play
        scores of `similarities` without its logarithm.
        """
        return self._neighbours.near(sources)

    def score(
        self, encoded: ItemVectors, inputs: RequestInputs, slots: Slots, pairs_NF: Floats, without: Side | None = None
    ) -> Scores:
        """The scores of the candidates in `slots`, whose columns are `pairs_NF`; all slots must be ones that
        `encoded` holds.

        `without` scores as if the user had no history ("long") or no session ("short"), for explanations and the
        degraded answer. Nobody is scored without a run: the graph cannot take it.
        """
        if not len(slots):
            nothing = np.zeros(0, np.float32)
            return Scores(nothing, nothing, 0.0, nothing, nothing, 0)
        if without is not None:
            inputs, pairs_NF = _without(inputs, pairs_NF, without)
        feed = request_feed(inputs, encoded.vectors_VD) | {
            "candidate_vectors": encoded.vectors_VD[slots],
            "candidate_bias": encoded.bias_V[slots],
            "pairs": pairs_NF,
        }
        outputs = ["logits", "gate", "long", "short", "cluster"]
        logits_N, gate_1, long_N, short_N, cluster_1 = self._rank_graph.run(outputs, feed)
        slope, offset = self.card.calibration[inputs.task]
        probabilities_N = 1.0 / (1.0 + np.exp(-np.clip(slope * logits_N + offset, -30.0, 30.0)))
        return Scores(logits_N, probabilities_N, float(gate_1[0]), long_N, short_N, int(cluster_1[0]))


def request_feed(inputs: RequestInputs, vectors_VD: Floats) -> dict[str, NDArray[Any]]:
    """The request's arrays as `rank.onnx` takes them: items as vectors, a batch axis of 1, masks instead of the
    null slot.
    """
    feed = {
        "task": np.array([inputs.task]),
        "country": np.array([inputs.country]),
        "daypart": np.array([inputs.daypart]),
        "query_tokens": inputs.query_tokens_Q,
        "query_flags": inputs.query_flags_2,
        "source_vector": vectors_VD[inputs.source_slot],
        "source_known": np.array([inputs.source_slot > 0], np.float32),
        "session_vectors": vectors_VD[inputs.session_slots_L],
        "session_kinds": inputs.session_kinds_L,
        "session_gaps": inputs.session_gaps_L,
        "session_mask": (inputs.session_slots_L > 0).astype(np.float32),
        "history_vectors": vectors_VD[inputs.history_slots_T],
        "history_weights": inputs.history_weights_T,
        "history_mask": (inputs.history_slots_T > 0).astype(np.float32),
    }
    unbatched = ("task", "country", "daypart")
    return {name: array if name in unbatched else array[None] for name, array in feed.items()}


def _without(inputs: RequestInputs, pairs_NF: Floats, side: Side) -> tuple[RequestInputs, Floats]:
    if side == "long":
        inputs = inputs._replace(history_slots_T=np.zeros_like(inputs.history_slots_T))
    else:
        inputs = inputs._replace(session_slots_L=np.zeros_like(inputs.session_slots_L))
    return inputs, np.where(_SIDE_COLUMNS[side], np.float32(0.0), pairs_NF)


def check_artifact_folder(path: Path) -> None:
    """Raises `BadInput` where an artifact would take the place of anything but an artifact."""
    check_own_folder(path, NAMES, KIND)


def save_artifact(
    path: Path,
    write_graphs: Callable[[Path], None],
    tables: tuple[NeighbourTable, NeighbourTable],
    items: list[Item],
    card: dict[str, Any],
) -> Card:
    """Write an artifact so that `path` never holds what reads as one and is not whole; returns its card.

    While new files take the old ones' places, `load_artifact` refuses them for an instant; a reader then tries again.
    `write_graphs(folder)` writes the two graphs; `tables` are those of co-plays and of EASE; `card` holds the fields of
    `Card` but `version`, `schema_hash`, `columns` and `files`. Raises `BadInput` as `files_of`;
    callers `check_artifact_folder` before they train, so that what comes there meanwhile costs no training.
    """
    with files_of(path, NAMES, KIND) as folder:
        write_graphs(folder)
        for name, table in zip((NEIGHBOURS, EASE), tables, strict=True):
            table.save(folder / name)
        (folder / CATALOGUE).write_bytes(msgspec.json.encode(items))
        checksums = {name: sha256_of(folder / name) for name in FILES}
        fingerprint = hashlib.sha256("".join(checksums.values()).encode()).hexdigest()[:12]
        complete = Card(
            version=fingerprint, schema_hash=schema_hash(COLUMN_NAMES), columns=COLUMN_NAMES, files=checksums, **card
        )
        (folder / CARD).write_bytes(indented(complete))
    return complete


def install_artifact(source: Path, path: Path) -> None:
    """Copy an artifact to `path` as `save_artifact` writes one there; raises as it, `check_artifact_folder` and
    `load_artifact`.
    """
    check_artifact_folder(path)
    with files_of(path, NAMES, KIND) as folder:
        for name in NAMES:
            shutil.copyfile(source / name, folder / name)
        load_artifact(folder)  # the copy, not only what was copied


def load_artifact(path: Path) -> Artifact:
    """The artifact in a folder; raises `ArtifactInvalid` when it is damaged, `SchemaMismatch` when it was made for
    other features.
    """
    card = _read_card(path)
    expected = schema_hash(COLUMN_NAMES)
    if card.schema_hash != expected:
        raise SchemaMismatch(
            f"the artifact in {path} was trained for feature schema {card.schema_hash}, this code has {expected}; "
            "train again: nowrank train"
        )
    for name in FILES:
        found = sha256_of(path / name) if (path / name).is_file() else "no file"
        if found != card.files.get(name):
            raise ArtifactInvalid(
                f"{path / name}: SHA-256 is {found}, card.json says {card.files.get(name)}; "
                "copy the artifact again or train: nowrank train"
            )
    try:
        return Artifact(path, card)
    except Exception as error:  # ONNX Runtime, zip and zlib each have their own, of no common kind
        raise ArtifactInvalid(f"the artifact in {path} cannot be read: {error}; train again: nowrank train") from error


def _read_card(path: Path) -> Card:
    try:
        return msgspec.json.decode((path / CARD).read_bytes(), type=Card)
    except FileNotFoundError as error:
        raise ArtifactInvalid(f"there is no artifact in {path}: {CARD} is missing; train one: nowrank train") from error
    except msgspec.MsgspecError as error:
        raise ArtifactInvalid(f"{path / CARD} is no artifact card: {error}") from error


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
